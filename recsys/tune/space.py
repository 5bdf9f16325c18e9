"""The search space of a sweep: settings of an experiment by dotted path, checked before any trial.

A path is a place of the experiment (``train.learning_rate``). Where a place goes by table, the
table's name may be a pattern::

    model.tables.user.embedding_dim          one table
    model.tables.*.embedding_dim             every table, each free
    model.tables.[user, item].embedding_dim  these tables, one value for all of them
    model.tables.@large.embedding_dim        the tables of a group of the sweep, one value
    model.tables.*@large.embedding_dim       the tables of a group, each free

Stability: caller
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from optuna.trial import FixedTrial

from recsys.config_text import put
from recsys.embeddings.scheme import Dtype
from recsys.errors import ConfigError, did_you_mean
from recsys.tune.domain import AnyDomain, Asker, Choice, Domain, OneOf, read_domain
from recsys.tune.experiment_kinds import parsed
from recsys.tune.workload import Searched

SERVE = "serve.dtype"
"""The one place outside the experiment: how the trained tables are stored."""
TWIN_OF = "twin_of"
"""Attribute of a trial that was not trained itself: number of the one that was, see
`recsys.tune.twins`."""
_PATTERN = re.compile(
    r"^(?P<before>.*?)\.(?P<which>\*@\w[\w-]*|\*|@\w[\w-]*|\[[^\]]*\])(?P<after>(\..*)?)$"
)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One searched setting.

    Args:
        name: Of it in the study.
        places: Dotted paths that get its value.
        domain: What it may be.
    """

    name: str
    places: tuple[str, ...]
    domain: AnyDomain


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a trial tries.

    Args:
        settings: Value of every searched place.
        dtype: How the trained tables are stored.
    """

    settings: Mapping[str, Any]
    dtype: str = "fp32"

    def experiment(self, base: Mapping[str, Any]) -> Searched:
        """The experiment to train.

        Args:
            base: Plain values of the sweep's experiment.

        Raises:
            ConfigError: The values do not go together.
        """
        return parsed(put(base, self.settings), base)


class Space:
    """Settings to search, on top of an experiment.

    Args:
        base: The experiment.
        space: Raw domains by path.
        tables: Names of the model's tables and their rows, in the order of the schema.
        groups: Tables by name of the group.

    Raises:
        ConfigError: The space is empty, a path is unknown, or a value is not allowed there. All
            problems are named.

    Example:
        >>> from recsys.config import Experiment
        >>> base = Experiment.parse({
        ...     "dataset": {"class": "recsys.datasets.synthetic.Synthetic"},
        ...     "model": {"class": "recsys.models.ctr.fm.FM"}})
        >>> space = Space(base, {"model.tables.*.embedding_dim": {"power_of_two": [2, 8]}},
        ...               {"C1": 100, "C2": 9})
        >>> [parameter.name for parameter in space.parameters]
        ['model.tables.C1.embedding_dim', 'model.tables.C2.embedding_dim']
    """

    def __init__(
        self,
        base: Searched,
        space: Mapping[str, Any],
        tables: Mapping[str, int],
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.experiment, self.base = base, base.model_dump(mode="json")
        self.tables: Mapping[str, int] = dict(tables)
        """Rows of the model's tables by name."""
        self._groups = dict(groups or {})
        if not space:
            raise ConfigError(
                "`space` is empty: name at least one setting to search, say "
                "`model.embedding_dim: {power_of_two: [4, 64]}`."
            )
        self.parameters: tuple[Parameter, ...] = tuple(
            parameter for path, domain in space.items() for parameter in self._expand(path, domain)
        )
        self._check()

    # ------------------------------------------------------------------------------- building

    def _expand(self, path: str, raw: Any) -> list[Parameter]:
        """The parameters of one line of the space."""
        domain = read_domain(raw, f"space.{path}")
        found = _PATTERN.match(path)
        if found is None:
            if ".tables." in path:
                self._check_table(path)
            return [Parameter(path, (path,), domain)]
        before, which, after = found["before"], found["which"], found["after"] or ""
        if which == "*":
            names, free = list(self.tables), True
        elif "@" in which:
            names, free = self._group(which.partition("@")[2], path), which.startswith("*")
        else:
            names, free = [name.strip() for name in which[1:-1].split(",")], False
        for name in names:
            self._known(name, path)
        places = [f"{before}.{name}{after}" for name in names]
        if free:
            return [Parameter(place, (place,), domain) for place in places]
        return [Parameter(path.replace(" ", ""), tuple(places), domain)]

    def _group(self, name: str, path: str) -> list[str]:
        if name not in self._groups:
            raise ConfigError(
                f"space.{path}: there is no group `{name}`. {did_you_mean(name, self._groups)}"
                if self._groups
                else f"space.{path}: the sweep names no `groups`."
            )
        if not self._groups[name]:
            raise ConfigError(f"space.{path}: no table is in the group `{name}`.")
        return list(self._groups[name])

    def _check_table(self, path: str) -> None:
        self._known(path.partition(".tables.")[2].split(".")[0], path)

    def _known(self, name: str, path: str) -> None:
        if name not in self.tables:
            raise ConfigError(
                f"space.{path}: the data has no table `{name}`. {did_you_mean(name, self.tables)}"
            )

    def _check(self) -> None:
        """Tries every end of every domain alone, on top of the experiment."""
        owners: dict[str, str] = {}
        problems: list[str] = []
        for parameter in self.parameters:
            for place in parameter.places:
                if place in owners:
                    problems.append(
                        f"{place} is searched twice, by `{owners[place]}` and `{parameter.name}`."
                    )
                owners[place] = parameter.name
            problems += self._problems(parameter)
        if len(problems) == 1:
            raise ConfigError(f"space: {problems[0]}")
        if problems:
            raise ConfigError(f"space: {len(problems)} problems.\n  " + "\n  ".join(problems))

    def _problems(self, parameter: Parameter) -> list[str]:
        ends = parameter.domain.ends()
        if parameter.name == SERVE:
            known = get_args(Dtype)
            wrong = [value for value in ends if value not in known]
            hint = did_you_mean(str(wrong[0]), known) if wrong else ""
            return [f"{SERVE}: there is no dtype {wrong[0]!r}. {hint}"] if wrong else []
        for value in ends:
            try:
                type(self.experiment).parse(put(self.base, {parameter.places[0]: value}))
            except ConfigError as error:
                text = str(error).removeprefix("experiment: ")
                return [f"{parameter.name} = {value!r}: {text}"]
        return []

    # ------------------------------------------------------------------------------- trials

    def ask(self, trial: Asker) -> Candidate:
        """A candidate.

        Args:
            trial: Chooses.
        """
        settings: dict[str, Any] = {}
        dtype: Any = "fp32"
        for parameter in self.parameters:
            value = parameter.domain.ask(trial, parameter.name)
            if parameter.name == SERVE:
                dtype = value
            else:
                settings |= dict.fromkeys(parameter.places, value)
        return Candidate(settings, dtype)

    def defaults(self) -> dict[str, Any]:
        """Answers that give the experiment as it is, as far as they are in the space."""
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            place = parameter.places[0]
            value = "fp32" if parameter.name == SERVE else self._default(place)
            known = parameter.domain.known(parameter.name, value) or {}
            if isinstance(parameter.domain, OneOf) and known:
                block = parameter.domain.ask(FixedTrial(known), parameter.name)
                made = type(self.experiment).parse(put(self.base, {place: block}))
                if made != self.experiment:
                    continue  # what the block leaves open is not what the experiment has
            found |= known
        return found

    def _default(self, place: str) -> Any:
        """What the experiment has at a place; a table without a width has the model's."""
        node: Any = self.base
        for part in place.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None and place.endswith(".embedding_dim"):
            node = self.base["model"].get("embedding_dim")
        return node

    def answers(self, settings: Mapping[str, Any], dtype: str = "fp32") -> dict[str, Any]:
        """Answers that give these values, as far as they are in the space.

        Args:
            settings: By place.
            dtype: How tables are stored.
        """
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            place = parameter.places[0]
            value = dtype if parameter.name == SERVE else settings.get(place)
            found |= parameter.domain.known(parameter.name, value) or {}
        return found

    def grid(self) -> dict[str, list[Any]]:
        """All answers by parameter.

        Raises:
            ConfigError: A range has no step, or settings depend on each other.
        """
        found: dict[str, list[Any]] = {}
        for parameter in self.parameters:
            if isinstance(parameter.domain, OneOf):
                raise ConfigError(
                    f"`{parameter.name}`: a grid needs settings that do not depend on each other. "
                    "Write the blocks out in `choice`, or take another sampler."
                )
            found |= parameter.domain.grid(parameter.name)
        return found

    def identity(self) -> dict[str, Any]:
        """What makes two spaces the same, as JSON values."""
        return {
            parameter.name: parameter.domain.model_dump(mode="json", by_alias=True)
            if isinstance(parameter.domain, Domain)
            else parameter.domain
            for parameter in self.parameters
        }


def dtypes_of(space: Space) -> tuple[str, ...]:
    """How trained tables may be stored.

    Args:
        space: Of the sweep.
    """
    for parameter in space.parameters:
        if parameter.name == SERVE and isinstance(parameter.domain, Choice):
            return tuple(parameter.domain.choice)
    return ("fp32",)
