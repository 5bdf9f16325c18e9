"""An experiment as a YAML file: what to train, on what, how.

Data set and model are named by the import path of their class; the rest of each block is checked
by that class's own ``Config``, so a new model needs no registration::

    dataset: {class: recsys.datasets.synthetic.Synthetic, num_rows: 100000}
    model:
      class: recsys.models.ctr.dcn_v2.DCNv2
      embedding_dim: 16
    embedding: {learning_rate: 0.02}
    train: {learning_rate: 1.0e-3, num_epochs: 1}
    seeds: [1, 2, 3]

Loading imports the two classes, so a configuration file is trusted input, like a script.

Stability: caller
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from recsys.base import CTRModel, RecModel
from recsys.config_problems import booleans_for_numbers, describe
from recsys.config_text import override, read_mapping, to_text
from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareConfig
from recsys.errors import ConfigError, did_you_mean
from recsys.fit_config import EmbeddingConfig, FitConfig
from recsys.folders import write_text
from recsys.schema import Frozen, Schema

_Base = TypeVar("_Base")
_Source = TypeVar("_Source")


# -------------------------------------------------------------------------------- class by path


def class_path(cls: type) -> str:
    """The import path of a class, as `resolve_class` reads it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def resolve_class(path: str, base: type[_Base]) -> type[_Base]:
    """The class at an import path.

    Args:
        path: ``package.module.Class``.
        base: What the class must be a concrete subclass of.

    Raises:
        ConfigError: There is no such module or class, or it is not a ``base``. An error inside
            the module itself passes through unchanged.

    Example:
        >>> resolve_class("os.system", Dataset)
        Traceback (most recent call last):
        recsys.errors.ConfigError: `os.system` is not a Dataset class but a builtin function. ...
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(
            f"expected the import path of a {base.__name__} class, say "
            f"`recsys.models.ctr.dcn_v2.DCNv2`, got {path!r}."
        )
    _check_module(module_name, path)
    found = getattr(importlib.import_module(module_name), name, None)
    if found is None:
        module = importlib.import_module(module_name)
        classes = [n for n, v in inspect.getmembers(module, inspect.isclass) if issubclass(v, base)]
        raise ConfigError(
            f"module `{module_name}` has no class `{name}`. {did_you_mean(name, classes)}".strip()
        )
    if not inspect.isclass(found) or not issubclass(found, base) or inspect.isabstract(found):
        kind = "an abstract class" if inspect.isclass(found) and issubclass(found, base) else ""
        kind = kind or ("another class" if inspect.isclass(found) else _article(found))
        raise ConfigError(
            f"`{path}` is not a {base.__name__} class but {kind}. "
            f"Name a concrete subclass of {class_path(base)}."
        )
    return found


def _article(value: object) -> str:
    return f"a {type(value).__name__.replace('_or_method', '').replace('builtin_', 'builtin ')}"


def _check_module(module_name: str, path: str) -> None:
    """Finds out where a path stops to exist, without catching errors of the modules on it."""
    parts = module_name.split(".")
    locations: Sequence[str] | None = None
    for depth, part in enumerate(parts):
        parent, here = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
        spec = None
        if depth == 0 or locations is not None:
            spec = importlib.util.find_spec(here)
        if spec is None:
            near = [m.name for m in pkgutil.iter_modules(locations)] if locations else []
            inside = f" in `{parent}`" if parent else ""
            hint = did_you_mean(part, near) if near else "Check the spelling and sys.path."
            raise ConfigError(f"`{path}`: there is no module `{part}`{inside}. {hint}")
        found = spec.submodule_search_locations
        locations = None if found is None else list(found)


class ClassBlock(Frozen, Generic[_Base]):
    """A block ``{class: import path, ...}``; the rest is validated by that class's ``Config``.

    The type argument says what class it is: ``class MyBlock(ClassBlock[MyBase])``.
    """

    base: ClassVar[type]
    """The type argument: what the class must be a concrete subclass of."""

    class_path: str = Field(alias="class")
    """Import path."""
    config: SerializeAsAny[Frozen]
    """The rest of the block, as the class's own ``Config``."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        arguments = cls.__pydantic_generic_metadata__["args"]
        if arguments and not isinstance(arguments[0], TypeVar):
            cls.base = arguments[0]

    @classmethod
    def block_type(cls, value: Any) -> type[Frozen]:
        """The class that describes the rest of a raw block (for error texts)."""
        if isinstance(value, Mapping) and isinstance(value.get("class"), str):
            try:
                return resolve_class(value["class"], cls.base).Config
            except ConfigError:
                return cls  # a wrong path is a problem of its own
        return cls

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or isinstance(data.get("config"), Frozen):
            return data
        rest = {key: value for key, value in data.items() if key != "class"}
        path = data.get("class")
        if not isinstance(path, str):
            raise ConfigError(
                f"`class` is missing: expected the import path of a {cls.base.__name__} class, "
                f"got {path!r}."
            )
        found = resolve_class(path, cls.base)
        return {"class": path, "config": cast(Any, found).Config.model_validate(rest)}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"class": self.class_path, **self.config.model_dump(mode="json", by_alias=True)}

    def _class(self) -> type[_Base]:
        return resolve_class(self.class_path, self.base)


class AnyDatasetBlock(ClassBlock[_Base]):
    """Which data set of a kind, with its options: ``class MyBlock(AnyDatasetBlock[MyKind])``."""

    def build(self) -> _Base:
        """The data set; nothing is read or fetched yet."""
        return cast(Any, self._class())(self.config)


class AnyModelBlock(ClassBlock[_Base], Generic[_Base, _Source]):
    """Which model of a kind, with its options.

    Type arguments are the base of the models and what they are built from:
    ``class MyBlock(AnyModelBlock[MyKind, MyGraph])``.
    """

    @property
    def model_class(self) -> type[_Base]:
        """The class."""
        return self._class()

    def build(self, source: _Source) -> _Base:
        """The model, with fresh weights.

        Args:
            source: What it is built from, say a fitted schema or a graph to learn from.
        """
        return cast(Any, self._class())(self.config, source)


class DatasetBlock(AnyDatasetBlock[Dataset]):
    """Which data set, with its options."""


class ModelBlock(AnyModelBlock[RecModel, Schema]):
    """Which model, with its options; built from a fitted schema."""


# --------------------------------------------------------------------------------------- blocks


class TrainConfig(FitConfig):
    """How the rest of a model that predicts clicks is trained."""

    batch_size: int = Field(default=4096, ge=1)
    """Rows a step, on each rank."""
    eval_batch_size: int = Field(default=16384, ge=1)
    """Rows a step of evaluation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: autocast; weights and tables stay float32."""
    monitor: str = Field(
        default="auc",
        pattern=r"^(auc|grouped_auc|logloss|normalized_entropy|pr_auc|(recall|ndcg)@[1-9]\d*)$",
    )
    """Validation metric that picks the best checkpoint. ``recall@20`` and ``ndcg@20``, with any
    number behind the @, are for models of two towers: every item is ranked for every user, and
    each evaluation reads the training split once more."""
    bootstrap_samples: int = Field(default=200, ge=0)
    """For the intervals of the final metrics; 0 leaves them out."""
    slices: tuple[str, ...] | None = None
    """Single-valued features by whose values the final metrics are split; by default the two
    with the fewest values."""
    shuffle: bool = True
    """New row order every epoch; off for data in time order that is read once."""
    pipeline: Literal["auto", "none", "sparse_dist"] = "auto"
    """With several ranks: send the next batch's indices to the ranks that hold its rows while a
    batch is trained (``sparse_dist``; the result is the same). ``auto`` does it on GPUs, where it
    can be; CPU ranks gain nothing."""


class AnyExperiment(Frozen):
    """What experiments of all kinds have. Devices, ranks and folders are arguments, not config."""

    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Name of the run in reports and of its folder."""
    seeds: tuple[int, ...] = Field(default=(1,), min_length=1)
    """One training each; several are reported as mean and standard deviation."""

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ConfigError(f"expected different seeds of at least 0, got {list(seeds)}.")
        return seeds

    def save(self, path: Path | str) -> None:
        """Writes every setting, defaults too, so that `load` gives an equal experiment.

        Args:
            path: A ``.json`` or ``.yaml`` file; replaced in one step.
        """
        target = Path(path)
        write_text(target, to_text(self.model_dump(mode="json"), target.suffix))

    @classmethod
    def parse(cls, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """An experiment from plain values, say of a test or a sweep.

        Args:
            data: As in the file.
            overrides: ``a.b=value`` each.

        Raises:
            ConfigError: Something is wrong; all problems are named.
        """
        return validate(cls, data, overrides, "experiment")


class Experiment(AnyExperiment):
    """Everything that defines a run of a model that predicts clicks."""

    dataset: DatasetBlock
    """What to train on."""
    model: ModelBlock
    """What to train."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """How the tables are trained."""
    prepare: PrepareConfig = PrepareConfig()
    """How raw files become training data."""
    train: TrainConfig = TrainConfig()
    """How the rest is trained."""


def load(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Reads an experiment.

    Args:
        path: A YAML file, or the resolved JSON of a run.
        overrides: Dotted places to set, ``train.batch_size=1024``; values are YAML.

    Raises:
        ConfigError: Something is wrong; all problems of the file are named with their places. Or
            it is an experiment of another kind of model, which `recsys.cf_config.load_any` reads.
    """
    data = read_mapping(Path(path))
    _refuse_other_kind(data, str(path))
    return validate(Experiment, data, overrides, str(path))


def _refuse_other_kind(data: Mapping[str, Any], origin: str) -> None:
    """One clear sentence instead of a problem for every block that is different."""
    block = data.get("model")
    name = block.get("class") if isinstance(block, Mapping) else None
    if not isinstance(name, str):
        return
    try:
        found = resolve_class(name, RecModel)
    except ConfigError:
        return  # told with its place
    if not issubclass(found, CTRModel):
        raise ConfigError(
            f"{origin}: {found.__name__} does not predict clicks, and what is asked for is made "
            "for models that do. Collaborative filters have `recsys train`, `recsys evaluate`, "
            "`recsys recommend`, `recsys tune` and `recsys compress`, classifiers of nodes and "
            "models of aspects `recsys train` and `recsys evaluate`."
        )


_Model = TypeVar("_Model", bound=Frozen)


def validate(
    cls: type[_Model], data: Mapping[str, Any], overrides: Sequence[str], origin: str
) -> _Model:
    """Plain values as a typed block.

    Args:
        cls: The block's class.
        data: The values.
        overrides: ``a.b=value`` each.
        origin: What to call the values in errors.

    Raises:
        ConfigError: Something is wrong; all problems are named.
    """
    values = override(data, overrides)
    found, problems = None, booleans_for_numbers(cls, values)
    try:
        found = cls.model_validate(values)
    except ValidationError as error:
        problems += describe(error, cls, values)
    if found is not None and not problems:
        return found
    lines = [_blame(place, overrides) + text for place, text in problems]
    if len(lines) == 1:
        raise ConfigError(f"{origin}: {lines[0]}")
    raise ConfigError(f"{origin}: {len(lines)} problems.\n  " + "\n  ".join(lines))


def _blame(place: str, overrides: Sequence[str]) -> str:
    """Names the override that a problem comes from."""
    for setting in reversed(overrides):
        target = setting.partition("=")[0].strip()
        if target in (place, f"{place}.class") or place.startswith(f"{target}."):
            return f"--set {setting}: "
    return ""
