"""Methods that train several times: the phases of a model, and the model that follows a phase.

A phase is an ordinary training in a folder of its own, ``phase-<n>-<name>/`` with its metrics and
checkpoints; the last one is the run folder itself. Between two phases the scheme decides how every
table goes on, and what comes of it is written to ``phases/``: a run that is resumed starts from
there and repeats no phase that is done.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from recsys.base import RecModel
from recsys.config import TrainConfig
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.scheme import (
    Full,
    Phase,
    Scheme,
    SearchContext,
    Successor,
    Trained,
    successor_as_is,
)
from recsys.errors import CheckpointError, ConfigError, TrainingError
from recsys.evaluate.predictions import collect
from recsys.evaluate.summary import flat_metrics
from recsys.train.checkpoint import CheckpointStore
from recsys.train.ranks import Ranks
from recsys.train.storage import Place
from recsys.train.trainer import FitResult
from recsys.types import Batch

_Model = TypeVar("_Model", bound=RecModel)
_ONLY = (Phase("train"),)
_Schemes = TypeAdapter(dict[str, AnyScheme])


def phases_of(schemes: Mapping[str, Scheme]) -> tuple[Phase, ...]:
    """How often a model is trained, and how.

    Args:
        schemes: Of all tables, by ``<group>.<table>``.

    Raises:
        ConfigError: Two methods want different phases.

    Example:
        >>> from recsys.embeddings.scheme import Full
        >>> [phase.name for phase in phases_of({"embedding.user": Full()})]
        ['train']
    """
    found: dict[tuple[Phase, ...], str] = {}
    for name, scheme in schemes.items():
        phases = scheme.phases()
        if phases != _ONLY:
            found.setdefault(phases, f"`{_kind(scheme)}` (table `{name}`)")
    kinds = {_kind(scheme) for scheme in schemes.values() if scheme.phases() != _ONLY}
    if len(found) > 1 or len(kinds) > 1:
        names = sorted(found.values()) if len(found) > 1 else sorted(f"`{kind}`" for kind in kinds)
        raise ConfigError(
            f"compression: {' and '.join(names)} are trained in phases of their own, which do not "
            "fit together in one model. Use one of them, with the same settings of its phases, "
            "and schemes of one phase for the other tables."
        )
    return next(iter(found), _ONLY)


def in_phases(schemes: Mapping[str, Scheme]) -> frozenset[str]:
    """Tables of the scheme that trains several times.

    Args:
        schemes: Of all tables, before the first phase.
    """
    return frozenset(name for name, scheme in schemes.items() if scheme.phases() != _ONLY)


def _kind(scheme: Scheme) -> str:
    return str(getattr(scheme, "kind", type(scheme).__name__))


def phase_config(train: TrainConfig, phase: Phase) -> TrainConfig:
    """The training of one phase: its share of the epochs and steps, rounded up.

    A phase that does not keep its best weights makes the model worse on purpose. It is not stopped
    early: that would end it before it is through, or before it has recovered.

    Args:
        train: Of the run.
        phase: Which.

    Example:
        >>> phase_config(TrainConfig(num_epochs=5), Phase("search", epochs=0.5)).num_epochs
        3
    """

    def share(whole: int) -> int:
        return max(1, math.ceil(whole * phase.epochs - 1e-9))

    steps = None if train.max_steps is None else share(train.max_steps)
    patience = train.early_stop_patience if phase.keeps == "best" else None
    return train.model_copy(
        update={
            "num_epochs": share(train.num_epochs),
            "max_steps": steps,
            "early_stop_patience": patience,
        }
    )


def folder_of(directory: Path, phases: tuple[Phase, ...], number: int) -> Path:
    """Where the metrics and checkpoints of a phase are.

    Args:
        directory: Of the run.
        phases: All.
        number: From 0; the last phase has the run folder itself.
    """
    if number == len(phases) - 1:
        return directory
    return directory / f"phase-{number + 1}-{phases[number].name}"


# ------------------------------------------------------------------------------- between phases


def validation(
    model: RecModel, valid: Iterable[Batch] | None, train: TrainConfig, ranks: Ranks
) -> float:
    """AUC of the model as it is, the same number on every rank.

    Args:
        model: Of any state.
        valid: This rank's part of the validation split.
        train: Says the precision.
        ranks: Of the job.

    Raises:
        ConfigError: There is no validation split.
    """
    if valid is None:
        raise ConfigError(
            "the search of this compression scheme needs a validation split, and the data set "
            "has none. Add one, or choose a scheme without a search."
        )
    found = collect(model, valid, model.schema, precision=train.precision)
    return ranks.gather_objects(flat_metrics(found.reports())["auc"])[0]


def advance(
    model: RecModel,
    members: frozenset[str],
    phase: Phase,
    following: Phase,
    context: SearchContext,
) -> dict[str, Successor]:
    """How every table goes on after a phase.

    The scheme with phases is asked once for all of its tables; the others stay as they are, or
    start anew where the following phase does.

    Args:
        model: With the best weights of the phase.
        members: From `in_phases`.
        phase: That ended.
        following: The next one.
        context: What the search may use.

    Returns:
        By ``<group>.<table>``.
    """
    trained = model.embeddings.trained()
    mine: dict[str, Trained] = {}
    found: dict[str, Successor] = {}
    for name, table in trained.items():
        if name in members and not isinstance(table.scheme, Full):
            mine[name] = table
        elif following.start == "inherit":
            found[name] = successor_as_is(table)
        else:
            found[name] = Successor(table.scheme)
    for table in list(mine.values())[:1]:
        found |= table.scheme.advance(phase.name, mine, context)
    return {name: found[name] for name in trained}


def next_model(
    model: _Model, successors: Mapping[str, Successor], following: Phase, seed: int
) -> _Model:
    """The model of the next phase, on the CPU with local tables.

    Args:
        model: Of the phase that ended; collective where its tables are sharded.
        successors: From `advance`.
        following: Says where dense weights come from.
        seed: Of the run.

    Raises:
        TrainingError: The ranks decided differently.
    """
    planned = {name: successor.scheme for name, successor in successors.items()}
    before = {
        name: value
        for name, value in model.state_dict().items()
        if following.start == "inherit" and not name.startswith("embeddings.")
    }
    made = rebuilt(model, planned)
    made.reset_parameters(seed)
    state = made.state_dict()
    wanted = {**before, **_table_state(made, successors)}
    with torch.no_grad():
        for name, value in wanted.items():
            state[name].copy_(value)
    made.load_state_dict(state)
    return made


def rebuilt(model: _Model, planned: Mapping[str, Scheme]) -> _Model:
    """A model of the same class and options, with other schemes; fresh weights, on the CPU.

    Args:
        model: Compressed.
        planned: Schemes of all tables.
    """
    compression = getattr(model.config, "compression", None)
    assert isinstance(compression, CompressionConfig)
    compression = compression.model_copy(update={"planned": dict(planned)})
    config = model.config.model_copy(update={"compression": compression})
    return type(model)(config, model.schema)


def _table_state(model: RecModel, successors: Mapping[str, Successor]) -> dict[str, Tensor]:
    """The state of tables, encoders and decoders under the names of ``model``'s state dict."""
    state: dict[str, Tensor] = {}
    parts = {name: table.part for name, table in model.embeddings.trained().items()}
    for name, successor in successors.items():
        group, _, table = name.partition(".")
        for probe, weight in zip(parts[name].probes, successor.probes or ()):
            state[f"embeddings.{group}.{probe.name}.weight"] = weight
        for kind, values in (("encoders", successor.encoder), ("decoders", successor.decoder)):
            for key, value in (values or {}).items():
                state[f"embeddings.{kind}.{group}/{table}.{key}"] = value
    return state


# ------------------------------------------------------------------------------- going on


@dataclasses.dataclass(frozen=True, slots=True)
class PhaseStart:
    """Where a phase starts.

    Args:
        number: From 1, since the first phase starts from the seed alone.
        planned: Schemes of all tables.
        model: The whole state of the model.
        done: How the phases before ended, by name.
    """

    number: int
    planned: dict[str, Scheme]
    model: dict[str, Tensor]
    done: dict[str, FitResult]

    def build(self, model: _Model) -> _Model:
        """The model at the start of the phase, on the CPU.

        Args:
            model: Of any phase; its class and options are used.
        """
        made = rebuilt(model, self.planned)
        made.load_state_dict(self.model)
        return made


class PhaseStarts:
    """Where the latest phase started, on disk as a whole or not at all.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: Place) -> None:
        self._store = CheckpointStore(directory / "phases", keep=1)

    def save(self, start: PhaseStart, ranks: Ranks) -> None:
        """The first rank writes; all ranks must have decided the same.

        Args:
            start: To write.
            ranks: Of the job.

        Raises:
            TrainingError: They did not.
        """
        planned = {name: scheme.model_dump(mode="json") for name, scheme in start.planned.items()}
        if any(other != planned for other in ranks.gather_objects(planned)):
            raise TrainingError(
                "the ranks decided differently about the tables of the next phase. A scheme's "
                "`advance` must do the same on every rank; please report this."
            )
        if ranks.first:
            done = {name: dataclasses.asdict(fit) for name, fit in start.done.items()}
            state = {"planned": planned, "done": done}
            self._store.save(start.number, {"model": start.model}, state)
        ranks.wait()

    def load(self) -> PhaseStart | None:
        """What was saved last, None before the second phase.

        Raises:
            CheckpointError: It is damaged.
        """
        if not self._store.exists():
            return None
        found = self._store.load("last")
        try:
            planned: dict[str, Any] = _Schemes.validate_python(found.state["planned"])
        except ValueError as error:
            raise CheckpointError(
                f"{found.path}: the schemes do not fit this version of recsys: {error}. Start "
                "the run anew."
            ) from None
        done = {name: FitResult(**values) for name, values in found.state["done"].items()}
        number = int(found.path.name.rpartition("-")[2])
        return PhaseStart(number, planned, found.tensors["model"], done)
