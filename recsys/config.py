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
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

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
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.errors import ConfigError, did_you_mean
from recsys.schema import Frozen, Schema

_Base = TypeVar("_Base")


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


class ClassBlock(Frozen):
    """A block ``{class: import path, ...}``; the rest is validated by that class's ``Config``."""

    base: ClassVar[type]

    class_path: str = Field(alias="class")
    """Import path."""
    config: SerializeAsAny[Frozen]
    """The rest of the block, as the class's own ``Config``."""

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


class DatasetBlock(ClassBlock):
    """Which data set, with its options."""

    base: ClassVar[type] = Dataset

    def build(self) -> Dataset:
        """The data set; nothing is read or fetched yet."""
        return cast(Any, resolve_class(self.class_path, Dataset))(self.config)


class ModelBlock(ClassBlock):
    """Which model, with its options."""

    base: ClassVar[type] = RecModel

    def build(self, schema: Schema) -> RecModel:
        """The model, with fresh weights.

        Args:
            schema: Fitted.
        """
        return resolve_class(self.class_path, RecModel)(cast(Any, self.config), schema)


# --------------------------------------------------------------------------------------- blocks


class EmbeddingConfig(EmbeddingOptimizerConfig):
    """How the embedding tables are trained, and by what code."""

    backend: Literal["auto", "local", "torchrec"] = "auto"
    """``local``: one process, plain torch and C. ``torchrec``: sharded over all ranks. ``auto``:
    local for one CPU process, else torchrec."""
    sharding: ShardingConfig = ShardingConfig()
    """Which rank holds which table, on the torchrec backend."""


class DenseEmbeddingConfig(EmbeddingConfig):
    """How tables are trained whose rows are all used in every step."""

    kind: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "adam"
    """The optimizer."""
    mode: Literal["sparse", "dense"] = "dense"
    """``dense``: every row is moved in every step, by its momentum too. ``sparse``: the rows of a
    batch, for models without propagation."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""


class FitConfig(Frozen):
    """How anything is trained by gradient descent, and how often it is looked at."""

    num_epochs: int = Field(default=1, ge=1)
    """Passes over the training rows at most."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps, whatever the epochs say."""
    optimizer: Literal["adam", "adamw", "sgd", "adagrad"] = "adam"
    """Of everything but the tables."""
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled for adamw, L2 for the others; never on the tables."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which all learning rates, the tables' too, rise from 0."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """``cosine`` falls to 0 at the last step; ``plateau`` falls where ``monitor`` stalls."""
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    """What ``plateau`` multiplies the learning rates by."""
    plateau_patience: int = Field(default=1, ge=1)
    """Evaluations without a better ``monitor`` before ``plateau`` acts."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; larger ones are scaled down. With ``embedding.mode=sparse``
    the tables are neither counted nor clipped, as in torchrec: their gradient never exists as a
    whole. With ``mode=dense`` they are."""
    evaluations_per_epoch: int = Field(default=4, ge=1)
    """Evaluations on the validation split, evenly spread, the last at the end of the epoch."""
    epochs_per_evaluation: int = Field(default=1, ge=1)
    """Epochs from one evaluation to the next; above 1 only ends of epochs are judged."""
    early_stop_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a better ``monitor``."""
    checkpoint_every: int = Field(default=1, ge=1)
    """Evaluations between two checkpoints; a new best and the end are always saved."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints to keep, beside the best. With 2 a damaged one has a predecessor."""
    background_checkpoints: bool = True
    """With several ranks: copy what is saved and go on training while it is written. Off, a
    checkpoint needs no memory for the copy."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of torch; all cores otherwise."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl."""
    deterministic: bool = False
    """Only operations that give the same bits every time; slower on GPUs."""


class TrainConfig(FitConfig):
    """How the rest of a model that predicts clicks is trained."""

    batch_size: int = Field(default=4096, ge=1)
    """Rows a step, on each rank."""
    eval_batch_size: int = Field(default=16384, ge=1)
    """Rows a step of evaluation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: autocast; weights and tables stay float32."""
    monitor: Literal["auc", "grouped_auc", "logloss", "normalized_entropy", "pr_auc"] = "auc"
    """Validation metric that picks the best checkpoint."""
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
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        draft.write_text(to_text(self.model_dump(mode="json"), target.suffix), encoding="utf-8")
        draft.replace(target)

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
            "`recsys recommend`, `recsys tune` and `recsys compress`, classifiers of nodes `recsys "
            "train` and `recsys evaluate`."
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
