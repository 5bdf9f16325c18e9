"""What a searched setting may be: one of some values, a number in a range, one of some blocks.

Stability: caller
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

from pydantic import Field, ValidationError, model_validator

from recsys.config_problems import describe
from recsys.errors import ConfigError, did_you_mean
from recsys.schema import Frozen


class Asker(Protocol):
    """What a domain needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of them."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""
        ...


class Domain(Frozen):
    """Values of one setting."""

    def ask(self, trial: Asker, name: str) -> Any:
        """A value for a trial.

        Args:
            trial: Who is asked.
            name: Of the parameter.
        """
        raise NotImplementedError

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """What a trial would have to answer for a value; None if that is not in the domain.

        Args:
            name: Of the parameter.
            value: Of the setting.
        """
        raise NotImplementedError

    def ends(self) -> list[Any]:
        """Values that must be allowed if all are: the ends of a range, every choice."""
        raise NotImplementedError

    def grid(self, name: str) -> dict[str, list[Any]]:
        """All answers by parameter, for a grid.

        Args:
            name: Of the parameter.

        Raises:
            ConfigError: There are too many.
        """
        raise NotImplementedError


class Choice(Domain):
    """``{choice: [a, b, c]}``: one of them, in no order."""

    choice: tuple[Any, ...] = Field(min_length=1)
    """The values."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        texts = [repr(value) for value in self.choice]
        if len(set(texts)) != len(texts):
            raise ConfigError(f"expected different values, got {list(self.choice)}.")
        return self

    def _names(self) -> dict[Any, Any]:
        """Optuna's choices must be simple; lists and blocks are called by their text."""
        simple = (bool, int, float, str, type(None))
        return {v if isinstance(v, simple) else repr(v): v for v in self.choice}

    def ask(self, trial: Asker, name: str) -> Any:
        """See `Domain`."""
        names = self._names()
        return names[trial.suggest_categorical(name, tuple(names))]

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """See `Domain`."""
        found = [key for key, item in self._names().items() if item == value]
        return {name: found[0]} if found else None

    def ends(self) -> list[Any]:
        """See `Domain`."""
        return list(self.choice)

    def grid(self, name: str) -> dict[str, list[Any]]:
        """See `Domain`."""
        return {name: list(self._names())}


class IntRange(Domain):
    """``{int: [1, 8]}``: a whole number from the first to the last."""

    int_: tuple[int, int] = Field(alias="int")
    """Both ends."""
    step: int = Field(default=1, ge=1)
    """Distance of neighbours."""
    log: bool = False
    """Whether small numbers are looked at more closely."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_ends(*self.int_, self.log, stepped=self.step != 1)
        return self

    def ask(self, trial: Asker, name: str) -> int:
        """See `Domain`."""
        return trial.suggest_int(name, *self.int_, step=self.step, log=self.log)

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """See `Domain`."""
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        low, high = self.int_
        return {name: value} if low <= value <= high and not (value - low) % self.step else None

    def ends(self) -> list[Any]:
        """See `Domain`."""
        return list(dict.fromkeys(self.int_))

    def grid(self, name: str) -> dict[str, list[Any]]:
        """See `Domain`."""
        low, high = self.int_
        return {name: list(range(low, high + 1, self.step))}


class FloatRange(Domain):
    """``{float: [1e-4, 1e-2], log: true}``: a number between two."""

    float_: tuple[float, float] = Field(alias="float")
    """Both ends."""
    step: float | None = Field(default=None, gt=0)
    """Distance of neighbours; None takes any number."""
    log: bool = False
    """Whether orders of magnitude are equally likely."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        _check_ends(*self.float_, self.log, stepped=self.step is not None)
        return self

    def ask(self, trial: Asker, name: str) -> float:
        """See `Domain`."""
        return trial.suggest_float(name, *self.float_, step=self.step, log=self.log)

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """See `Domain`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low, high = self.float_
        return {name: float(value)} if low <= value <= high else None

    def ends(self) -> list[Any]:
        """See `Domain`."""
        return list(dict.fromkeys(self.float_))

    def grid(self, name: str) -> dict[str, list[Any]]:
        """See `Domain`."""
        low, high = self.float_
        if self.step is None:
            raise ConfigError(
                f"`{name}`: a grid needs a `step` for this range, or a list of values (`choice`)."
            )
        count = math.floor((high - low) / self.step + 1e-9)
        return {name: [low + number * self.step for number in range(count + 1)]}


class PowerOfTwo(Domain):
    """``{power_of_two: [2, 64]}``: 2, 4, 8, ... up to the last. Trials answer the exponent."""

    power_of_two: tuple[int, int]
    """Both ends."""

    LOG2: ClassVar[str] = " (log2)"

    @model_validator(mode="after")
    def _order(self) -> Self:
        for end in self.power_of_two:
            if end < 1 or end & (end - 1):
                raise ConfigError(f"expected powers of two, say [2, 64], got {end}.")
        _check_ends(*self.power_of_two, log=False, stepped=False)
        return self

    def _exponents(self) -> tuple[int, int]:
        low, high = self.power_of_two
        return low.bit_length() - 1, high.bit_length() - 1

    def ask(self, trial: Asker, name: str) -> int:
        """See `Domain`."""
        return 1 << trial.suggest_int(name + self.LOG2, *self._exponents())

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """See `Domain`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return None
        low, high = self.power_of_two
        inside = low <= value <= high and not value & (value - 1)
        return {name + self.LOG2: value.bit_length() - 1} if inside else None

    def ends(self) -> list[Any]:
        """See `Domain`."""
        return list(dict.fromkeys(self.power_of_two))

    def grid(self, name: str) -> dict[str, list[Any]]:
        """See `Domain`."""
        low, high = self._exponents()
        return {name + self.LOG2: list(range(low, high + 1))}


class OneOf(Domain):
    """``{one_of: {small: {kind: a, x: {int: [1, 3]}}, big: {kind: b}}}``: one of some blocks.

    Settings inside of a block are searched only where the block is chosen.
    """

    one_of: dict[str, Any] = Field(min_length=1)
    """Blocks by name: what is a domain in them is searched, the rest is as it stands."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("one_of"), Mapping):
            return data
        blocks = {name: read_inside(block) for name, block in data["one_of"].items()}
        return {**data, "one_of": blocks}

    def ask(self, trial: Asker, name: str) -> Any:
        """See `Domain`."""
        chosen = trial.suggest_categorical(name, tuple(self.one_of))
        return _asked(self.one_of[chosen], trial, f"{name}.{chosen}")

    def known(self, name: str, value: Any) -> dict[str, Any] | None:
        """See `Domain`. Settings that a block does not name may have any value.

        Of several blocks that fit, that is taken which names the most.
        """
        fits = {
            option: inside
            for option, block in self.one_of.items()
            if (inside := _known(block, f"{name}.{option}", value)) is not None
        }
        if not fits:
            return None
        option = max(fits, key=lambda option: _size(self.one_of[option]))
        return {name: option, **fits[option]}

    def ends(self) -> list[Any]:
        """See `Domain`."""
        return [end for block in self.one_of.values() for end in _ends(block)]

    def grid(self, name: str) -> dict[str, list[Any]]:
        """See `Domain`."""
        found: dict[str, list[Any]] = {name: list(self.one_of)}
        for option, block in self.one_of.items():
            found |= _grid(block, f"{name}.{option}")
        return found


_KINDS: dict[str, type[Domain]] = {
    "choice": Choice,
    "int": IntRange,
    "float": FloatRange,
    "power_of_two": PowerOfTwo,
    "one_of": OneOf,
}
AnyDomain = Choice | IntRange | FloatRange | PowerOfTwo | OneOf


def is_domain(value: Any) -> bool:
    """Whether a raw value of a sweep file describes a domain.

    Args:
        value: Anything.
    """
    return isinstance(value, Mapping) and any(key in _KINDS for key in value)


def read_domain(value: Any, place: str) -> AnyDomain:
    """A domain from a sweep file.

    Args:
        value: The raw value.
        place: What it is for.

    Raises:
        ConfigError: It is none.

    Example:
        >>> read_domain({"power_of_two": [4, 16]}, "model.embedding_dim").ends()
        [4, 16]
    """
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place}: expected what to search, say {{choice: [1, 2]}}, {{int: [1, 8]}}, "
            f"{{float: [1e-4, 1e-2], log: true}}, {{power_of_two: [2, 64]}} or {{one_of: ...}}, "
            f"got {value!r}. What is fixed belongs into `set`."
        )
    kinds = [key for key in value if key in _KINDS]
    if len(kinds) != 1:
        hint = did_you_mean(str(next(iter(value), "")), _KINDS) if not kinds else "Keep one."
        raise ConfigError(
            f"{place}: expected one of {', '.join(_KINDS)}, got {list(value)}. {hint}"
        )
    domain = _KINDS[kinds[0]]
    try:
        return domain.model_validate(value)  # type: ignore[return-value]
    except ValidationError as error:
        raise ConfigError(f"{place}: {describe(error, domain, value)[0][1]}") from None
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def read_inside(value: Any, place: str = "one_of") -> Any:
    """A block of a sweep file, with what describes domains as domains.

    Args:
        value: Raw.
        place: What it is for.
    """
    if is_domain(value):
        return read_domain(value, place)
    if isinstance(value, Mapping):
        return {key: read_inside(item, f"{place}.{key}") for key, item in value.items()}
    return value


def _check_ends(low: float, high: float, log: bool, stepped: bool) -> None:
    if low > high:
        raise ConfigError(f"expected the lower end first, got [{low}, {high}].")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"expected finite ends, got [{low}, {high}].")
    if log and low <= 0:
        raise ConfigError(f"`log: true` needs ends above 0, got [{low}, {high}].")
    if log and stepped:
        raise ConfigError("give `log` or `step`, not both.")


def _asked(block: Any, trial: Asker, name: str) -> Any:
    if isinstance(block, Domain):
        return block.ask(trial, name)
    if isinstance(block, Mapping):
        return {key: _asked(item, trial, f"{name}.{key}") for key, item in block.items()}
    return block


def _known(block: Any, name: str, value: Any) -> dict[str, Any] | None:
    if isinstance(block, Domain):
        return block.known(name, value)
    if not isinstance(block, Mapping):
        return {} if block == value else None
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        return None
    found: dict[str, Any] = {}
    for key, item in block.items():
        inside = _known(item, f"{name}.{key}", value.get(key))
        if inside is None:
            return None
        found |= inside
    return found


def _size(block: Any) -> int:
    """How many settings a block names."""
    return sum(map(_size, block.values())) if isinstance(block, Mapping) else 1


def _ends(block: Any) -> Iterator[Any]:
    """Blocks with every inner domain at its ends, the others at their first."""
    if isinstance(block, Domain):
        yield from block.ends()
    elif isinstance(block, Mapping):
        inner = {key: list(_ends(item)) for key, item in block.items()}
        longest = max((len(values) for values in inner.values()), default=1)
        for number in range(max(1, longest)):
            yield {key: values[min(number, len(values) - 1)] for key, values in inner.items()}
    else:
        yield block


def _grid(block: Any, name: str) -> dict[str, list[Any]]:
    if isinstance(block, Domain):
        return block.grid(name)
    if isinstance(block, Mapping):
        parts = (_grid(item, f"{name}.{key}") for key, item in block.items())
        return dict(itertools.chain.from_iterable(part.items() for part in parts))
    return {}
