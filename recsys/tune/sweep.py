"""A sweep file: what to search, for what, and how long.

    config: ../ctr/deep_fm.yaml
    set: {train.num_epochs: 4}
    groups: {large: {min_rows: 1000}}
    space:
      model.tables.@large.embedding_dim: {power_of_two: [2, 16]}
      train.learning_rate: {float: [1e-4, 1e-2], log: true}
    objectives: [auc, bytes]
    limits: {bytes: 64MB}
    trials: 60

Stability: caller
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from recsys.config import validate
from recsys.config_text import put, read_mapping
from recsys.errors import ConfigError, did_you_mean
from recsys.schema import Frozen
from recsys.tune.experiment_kinds import load_searched
from recsys.tune.objectives import COSTS, METRICS, Direction, direction_of
from recsys.tune.space import Space
from recsys.tune.workload import Searched

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}  # fmt: skip


def bytes_of(value: Any) -> Any:
    """A number of bytes from ``64MB``, ``1.5 GiB`` or a number.

    Args:
        value: Raw.

    Raises:
        ConfigError: It is none of these.

    Example:
        >>> bytes_of("64 MB")
        64000000
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].lower() not in _UNITS:
        raise ConfigError(f"expected bytes, say 64MB or 1.5GiB, got {value!r}.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


class Limits(Frozen):
    """What a candidate must keep; one that does not is turned down before it is trained."""

    bytes: Annotated[int | None, BeforeValidator(bytes_of)] = Field(default=None, ge=1)
    """Most bytes of the tables as they are served."""
    ratio: float | None = Field(default=None, gt=0, le=1)
    """Most bytes as a share of the experiment's own tables in fp32."""
    lookup_us: float | None = Field(default=None, gt=0)
    """Most microseconds to look up all features of a row."""

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != type(self)()


class Group(Frozen):
    """Tables by their number of rows."""

    min_rows: int = Field(default=0, ge=0)
    """At least."""
    max_rows: int | None = Field(default=None, ge=0)
    """At most."""

    def holds(self, rows: int) -> bool:
        """Whether a table belongs to it.

        Args:
            rows: Of the table.
        """
        return self.min_rows <= rows and (self.max_rows is None or rows <= self.max_rows)


class SamplerConfig(Frozen):
    """Who proposes candidates."""

    kind: Literal["tpe", "nsga2", "nsga3", "cmaes", "gp", "random", "grid"] = "tpe"
    """``tpe``: multivariate, with conditional groups and limits; ``nsga2``, ``nsga3``: evolution of
    a front; ``cmaes``, ``gp``: numbers only, the others are drawn at random; ``grid``: everything,
    in random order."""
    startup_trials: int = Field(default=10, ge=0)
    """Trainings drawn at random before ``tpe``, ``gp`` and ``cmaes`` learn; first trials count."""
    population: int = Field(default=16, ge=2)
    """Candidates of a generation (``nsga2``, ``nsga3``)."""
    seed: int = 0
    """Of all draws."""


class PrunerConfig(Frozen):
    """Who stops trials that lag behind, by their evaluations in training."""

    kind: Literal["none", "asha", "hyperband", "median", "halving"] = "none"
    """``asha``, ``hyperband``, ``median``: for one objective. ``halving``: at each stage only the
    best share goes on, by fronts where there are several objectives."""
    reduction: int = Field(default=3, ge=2)
    """``asha``, ``hyperband`` and ``halving``: one of so many goes on."""
    first: int = Field(default=1, ge=1)
    """Evaluations before the first decision."""
    startup_trials: int = Field(default=5, ge=0)
    """``median``: trials that are never stopped."""


class PriorConfig(Frozen):
    """What is known before the first trial."""

    uniform: int = Field(default=5, ge=0)
    """So many first trials have one width for all tables, from the narrowest to the widest: what is
    found later must be better. Only where widths of tables are searched by powers of two."""
    importance: int = Field(default=0, ge=0)
    """So many first trials have widths by the importance of their fields: one training of the
    experiment, then widths under so many budgets."""
    supernet: int = Field(default=0, ge=0)
    """So many first trials have widths from a supernet's front of AUC against bytes: one training
    of the experiment with random widths, then an evolution that trains nothing. A proxy: zeros
    stand where a trial trains a matrix, see `recsys.tune.supernet`."""
    studies: tuple[Path, ...] = ()
    """Folders of earlier studies; their trials are told to the sampler, those of other values than
    this space has left out."""


class Sweep(Frozen):
    """Everything that defines a study. Folders, workers and storage are arguments."""

    config: Path
    """The experiment, relative to the sweep file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the experiment, by place."""
    groups: dict[str, Group | tuple[str, ...]] = Field(default_factory=dict)
    """Tables by name of the group: names, or by their rows."""
    space: dict[str, Any]
    """What to search: domains by place, see `recsys.tune.space`."""
    objectives: tuple[str, ...] = ("auc",)
    """What to search for; several give a front. Metrics are those of the validation split, see
    `recsys.tune.objectives`."""
    limits: Limits = Limits()
    """What every candidate must keep."""
    sampler: SamplerConfig = SamplerConfig()
    """Who proposes candidates."""
    pruner: PrunerConfig = PrunerConfig()
    """Who stops them."""
    prior: PriorConfig = PriorConfig()
    """What is known before."""
    trials: int = Field(default=30, ge=1)
    """Candidates to train, stopped ones included; those turned down before are not counted."""
    hours: float | None = Field(default=None, gt=0)
    """No new trial after so long, counted from every start, first trials' preparation included."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.objectives:
            direction_of(name)  # refuses what is unknown
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ConfigError(f"objectives: expected different ones, got {list(self.objectives)}.")
        if self.objectives[0] in COSTS:
            raise ConfigError(
                f"objectives: the first must be a metric ({', '.join(METRICS)}; of lists ndcg@20 "
                f"and the like), got `{self.objectives[0]}`. The smallest tables alone are no aim."
            )
        several, kind = len(self.objectives) > 1, self.pruner.kind
        if several and kind in ("asha", "hyperband", "median"):
            raise ConfigError(
                f"pruner.kind: Optuna's {kind} judges one objective, and there are "
                f"{len(self.objectives)}. Take `halving`, which compares fronts, or `none`."
            )
        if several and self.sampler.kind in ("cmaes",):
            raise ConfigError("sampler.kind: cmaes has one objective. Take nsga2, tpe or gp.")
        if not several and self.sampler.kind in ("nsga2", "nsga3"):
            raise ConfigError(
                f"sampler.kind: {self.sampler.kind} searches a front and there is one objective. "
                "Take tpe, or add `bytes` to the objectives."
            )
        return self

    @property
    def directions(self) -> list[Direction]:
        """Of the objectives."""
        return [direction_of(name) for name in self.objectives]

    def experiment(self, folder: Path) -> Searched:
        """The experiment that is searched around.

        Args:
            folder: Of the sweep file.

        Raises:
            ConfigError: The file or a change is wrong.
        """
        path = self.config if self.config.is_absolute() else folder / self.config
        base = load_searched(path)
        if not self.set:
            return base
        changed = put(base.model_dump(mode="json"), self.set)
        return validate(type(base), changed, (), f"{path}, set")

    def space_of(self, experiment: Searched, tables: Mapping[str, int]) -> Space:
        """The space, checked.

        Args:
            experiment: From `experiment`.
            tables: Rows by name of the table.

        Raises:
            ConfigError: Something in it is wrong.
        """
        groups: dict[str, tuple[str, ...]] = {}
        for name, group in self.groups.items():
            if isinstance(group, Group):
                groups[name] = tuple(table for table, rows in tables.items() if group.holds(rows))
                continue
            unknown = [table for table in group if table not in tables]
            if unknown:
                raise ConfigError(
                    f"groups.{name}: the data has no table `{unknown[0]}`. "
                    f"{did_you_mean(unknown[0], tables)}"
                )
            groups[name] = group
        return Space(experiment, self.space, tables, groups)


def load_sweep(path: Path | str, overrides: tuple[str, ...] = ()) -> Sweep:
    """Reads a sweep file.

    Args:
        path: YAML.
        overrides: Dotted places of the sweep to set, ``trials=10``.

    Raises:
        ConfigError: Something is wrong; all problems are named.
    """
    return validate(Sweep, read_mapping(Path(path)), overrides, str(path))
