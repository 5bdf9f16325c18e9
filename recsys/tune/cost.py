"""What a candidate costs, known before it is trained.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from recsys.base import RecModel
from recsys.data.prepared import Prepared
from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.scheme import Dtype
from recsys.errors import BudgetInfeasible, ConfigError, SchemaError
from recsys.tune.click_workload import ClickWorkload
from recsys.tune.sweep import Limits
from recsys.tune.workload import Searched, Workload, served_bytes

REASONS: tuple[str, ...] = ("plan", "dtype", "bytes", "lookup_us")
"""Why a candidate may be turned down; constraints of the study where there are limits."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a candidate, before training.

    Args:
        bytes: Of the tables as they will be served; 0 where there are none.
        lookup_us: Microseconds to look up a row; None where it was not asked for.
        refused: Why it is turned down, by limit: a text and how far it is beyond, 0.5 for half as
            much again.
    """

    bytes: int
    lookup_us: float | None = None
    refused: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)


class Costs:
    """Knows what candidates cost.

    Args:
        base: The experiment of the sweep.
        data: Its workload, or the prepared data of models that predict clicks.
        limits: What candidates must keep.
        lookups: Whether the time of a lookup is wanted, also without a limit.
    """

    def __init__(
        self, base: Searched, data: Workload | Prepared, limits: Limits, lookups: bool = False
    ) -> None:
        self.workload: Workload = ClickWorkload(data) if isinstance(data, Prepared) else data
        """What the candidates are trained on."""
        self.limits = limits
        self._lookups = lookups or limits.lookup_us is not None
        self.full_bytes = sum(map(full_bytes, self._groups(base).values()))
        """Of the experiment's own tables in fp32, without compression."""
        allowed = [] if limits.bytes is None else [limits.bytes]
        if limits.ratio is not None:
            allowed.append(int(limits.ratio * self.full_bytes))
        self.most_bytes: int | None = min(allowed, default=None)

    def _groups(self, experiment: Searched) -> Mapping[str, tuple]:
        if not self.workload.has_tables:
            return {}
        return self.workload.plan(experiment).embeddings.groups

    def tables(self, base: Searched) -> dict[str, int]:
        """Rows of the experiment's tables by name.

        Args:
            base: The experiment.
        """
        groups = self._groups(base).values()
        return {table.name: table.num_embeddings for tables in groups for table in tables}

    def of(self, experiment: Searched, dtype: Dtype) -> Cost:
        """The cost of a candidate.

        Args:
            experiment: To be trained.
            dtype: How its tables will be stored.

        Raises:
            ConfigError: The settings contradict each other or the data.
        """
        if not self.workload.has_tables:
            return Cost(0)
        try:
            model = self.workload.plan(experiment)
            size = served_bytes(model, dtype)
            refused = _refused_dtype(model, dtype)
        except BudgetInfeasible as error:
            beyond = error.min_bytes / max(1, self.most_bytes or error.min_bytes // 2) - 1
            return Cost(error.min_bytes, refused={"plan": (str(error), max(beyond, 1e-6))})
        except SchemaError as error:
            raise ConfigError(str(error)) from None
        if self.most_bytes is not None and size > self.most_bytes:
            text = f"{size:,} bytes, and at most {self.most_bytes:,} are allowed"
            refused["bytes"] = text, size / self.most_bytes - 1
        most, speed = self.limits.lookup_us, None
        if self._lookups and not refused:
            speed = self.workload.lookup_us(experiment, dtype)
            if most is not None and speed > most:
                text = f"{speed:.2f} us a lookup, and at most {most:g} are allowed"
                refused["lookup_us"] = text, speed / most - 1
        return Cost(size, speed, refused)


def _refused_dtype(model: RecModel, dtype: Dtype) -> dict[str, tuple[str, float]]:
    """Schemes that cannot be stored so."""
    for name, scheme in model.embeddings.schemes.items():
        try:
            scheme.check_dtype(dtype)
        except ConfigError as error:
            return {"dtype": (f"table `{name}`: {error}", 1.0)}
    return {}
