"""Training of sharded tables: inside backward (sparse), or by torch on whole shards (dense).

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from recsys.embeddings.optimizer import (
    STATES,
    EmbeddingOptimizer,
    EmbeddingOptimizerConfig,
    check_state,
    torch_optimizer,
)
from recsys.embeddings.parts import TensorPart
from recsys.embeddings.torchrec_plan import padded, stored_name, table_of
from recsys.errors import ShardingError
from recsys.schema import PAD_INDEX

if TYPE_CHECKING:
    from recsys.embeddings.store import PhysicalTable
    from recsys.embeddings.torchrec_backend import TorchrecStore

_FUSED_NAMES = {  # torchrec's names of our states
    "adagrad": {"sum": "momentum1"},
    "rowwise_adagrad": {"sum": "momentum1"},
    "adam": {"exp_avg": "momentum1", "exp_avg_sq": "momentum2"},
    "sgd": {},
}


def gradient_scale(kind: str, dim: int) -> float:
    """Factor on the gradients of a padded table that keeps rowwise Adagrad exact.

    FBGEMM's ``mean(g^2)`` runs over the stored width P, padding included. With gradients
    ``s g`` and the learning rate divided by s, for ``s = sqrt(P / D)``, both the mean and the step
    are those of width D.
    """
    return math.sqrt(padded(dim) / dim) if kind == "rowwise_adagrad" else 1.0


def state_in_backward(parameter: nn.Parameter, config: EmbeddingOptimizerConfig, dim: int) -> None:
    """States the optimizer of one table. Never left out: torchrec would train with SGD, 0.01."""
    rate = config.learning_rate / gradient_scale(config.kind, dim)
    kwargs: dict[str, Any] = {"lr": rate}
    if config.kind != "sgd":
        kwargs["eps"] = config.eps
    if config.kind == "adam":
        kwargs["betas"] = config.betas
    classes = {
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "rowwise_adagrad": RowWiseAdagrad,
        "adam": torch.optim.Adam,
    }
    apply_optimizer_in_backward(classes[config.kind], [parameter], kwargs)


def check_supported(config: EmbeddingOptimizerConfig, device: torch.device) -> None:
    """Refuses what FBGEMM lacks.

    Raises:
        ShardingError: Lazy Adam on CPU ranks.
    """
    if config.mode == "sparse" and config.kind == "adam" and device.type == "cpu":
        raise ShardingError(
            "embedding: kind=adam with mode=sparse has no kernel on sharded CPU tables (FBGEMM's "
            "fused Adam is CUDA only). Use kind=rowwise_adagrad, mode=dense for small tables, or "
            "backend=local."
        )


class Shard(NamedTuple):
    """A part of a table (or of its optimizer state) that this rank holds, a view."""

    row: int
    """First row."""
    column: int
    """First column."""
    values: Tensor
    """(rows, columns), padding at the end included; one number a row for rowwise states."""

    def columns(self, dim: int) -> Tensor:
        """Its columns that are not padding.

        Args:
            dim: Width of the table.
        """
        return self.values[:, : max(0, dim - self.column)]


def local_parts(value: Any) -> list[Shard]:
    """Every part of a sharded tensor held here."""
    if isinstance(value, ShardedTensor):
        found = []
        for shard in value.local_shards():
            offsets = shard.metadata.shard_offsets
            found.append(Shard(offsets[0], offsets[1] if len(offsets) > 1 else 0, shard.tensor))
        return found
    return [Shard(0, 0, value)]


def pad_rows(tables: Iterable[list[Shard]]) -> list[Tensor]:
    """The PAD rows among the parts held here, views."""
    return [
        shard.values.detach()[PAD_INDEX - shard.row]
        for shards in tables
        for shard in shards
        if shard.row <= PAD_INDEX < shard.row + len(shard.values)
    ]


def zero_rows(rows: list[Tensor]) -> None:
    """Zeroes rows in place, in one go."""
    if rows:
        torch._foreach_zero_(rows)  # pyright: ignore[reportPrivateImportUsage]


class CopiedTable:
    """Trains a table of which every rank holds a copy: SGD, Adagrad or rowwise Adagrad.

    Torchrec averages its gradient over ranks and leaves the step to others. Rows that no batch
    touched have gradient 0, which moves nothing: so this equals the sparse step.

    Args:
        name: ``<group>.<table>``.
        parameter: The copy, of padded width.
        config: With ``mode=sparse``.
        table: What it holds.
    """

    def __init__(
        self,
        name: str,
        parameter: nn.Parameter,
        config: EmbeddingOptimizerConfig,
        table: PhysicalTable,
    ) -> None:
        self.name, self.parameter, self._config = name, parameter, config
        self._scale = gradient_scale(config.kind, table.spec.embedding_dim)
        self.state: dict[str, Tensor] = {}
        if "adagrad" in config.kind:
            rows = parameter.detach()
            rows = rows[:, 0] if config.kind == "rowwise_adagrad" else rows
            self.state["sum"] = torch.zeros_like(rows, memory_format=torch.contiguous_format)

    def step(self, learning_rate: float) -> None:
        """Applies the gradient. Tables of one kernel share it, so forgetting it is for later."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        rate = learning_rate / self._scale
        with torch.no_grad():
            if self._config.kind == "sgd":
                self.parameter.sub_(gradient, alpha=rate)
            else:
                squares, moment = gradient.square(), self.state["sum"]
                rowwise = self._config.kind == "rowwise_adagrad"
                moment.add_(squares.mean(dim=1) if rowwise else squares)
                size = moment.sqrt().add_(self._config.eps)
                gradient = gradient / (size.unsqueeze(1) if rowwise else size)
                self.parameter.sub_(gradient, alpha=rate)


class TorchrecOptimizer(EmbeddingOptimizer):
    """Trains sharded tables.

    In sparse mode backward itself updates the tables, and ``step`` only puts PAD rows back to
    zero. `state_dict` and `load_state_dict` are collective.

    Args:
        config: How the store was built.
        store: Whose tables.
    """

    def __init__(self, config: EmbeddingOptimizerConfig, store: TorchrecStore) -> None:
        self.config, self._store, self._steps = config, store, 0
        self._learning_rate = config.learning_rate
        self._dense: torch.optim.Optimizer | None = None
        held = store.shards()
        self._parameters = {n: p for n, p in store.named_table_parameters() if held[n]}
        self._copies: list[CopiedTable] = []
        if config.mode == "dense":
            self._make_dense()
        else:
            self._copies = [
                CopiedTable(name, self._parameters[name], config, store.table(name))
                for name in sorted(store.replicated)
            ]
            if config.initial_accumulator_value and "adagrad" in config.kind:
                for shards in self._parts().get("sum", {}).values():
                    for shard in shards:
                        shard.values.fill_(config.initial_accumulator_value)
        states = [pad_rows(tables.values()) for tables in self._parts().values()]
        self._pad_rows = [*pad_rows(store.shards().values()), *(r for s in states for r in s)]

    def _make_dense(self) -> None:
        if not self._parameters:
            return  # this rank holds no table
        self._dense = torch_optimizer(self.config, self._parameters.values())
        if self.config.kind == "adam":
            for parameter in self._parameters.values():
                state = self._dense.state[parameter]
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)

    # ------------------------------------------------------------------------------- training

    def step(self) -> None:
        """Updates whole shards (dense), or ends the step that backward made (sparse)."""
        self._steps += 1
        if self._dense is not None:
            self._dense.step()
            self._dense.zero_grad()
        for copy in self._copies:
            copy.step(self._learning_rate)
        for copy in self._copies:
            copy.parameter.grad = None
        zero_rows(self._pad_rows)
        self._store.forget()

    def zero_grad(self) -> None:
        """Forgets gradients; in sparse mode there are none between backward and step."""
        if self._dense is not None:
            self._dense.zero_grad()
        for copy in self._copies:
            copy.parameter.grad = None
        self._store.forget()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size, from the next forward on."""
        self._learning_rate = learning_rate
        if self._dense is not None:
            for group in self._dense.param_groups:
                group["lr"] = learning_rate
        for fused in self._fused():
            for path in list(fused.params)[:1]:  # all tables of one kernel share the rate
                name = self._name(path)
                dim = self._store.table(name).spec.embedding_dim
                rate = learning_rate / gradient_scale(self.config.kind, dim)
                for group in fused.param_groups:
                    group["lr"] = rate
                fused.zero_grad()  # hands the rate to the kernel

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self._learning_rate

    def _fused(self) -> Iterator[Any]:
        """FBGEMM's optimizers, one a kernel."""
        stack = [self._store.fused_optimizer()] if self.config.mode == "sparse" else []
        while stack:
            found = stack.pop()
            inner = getattr(found, "optimizers", None)
            if inner is None:
                yield found
            else:
                stack.extend(optimizer for _, optimizer in inner)

    def _name(self, path: str) -> str:
        """Table of a parameter path inside a kernel's optimizer (any module prefix)."""
        end = path.removesuffix(".weight")
        for table in self._store.tables:
            if end == stored_name(table) or end.endswith(f".{stored_name(table)}"):
                return table.name
        raise RuntimeError(f"no table for {path}")

    # ------------------------------------------------------------------------------- states

    def _parts(self) -> dict[str, dict[str, list[Shard]]]:
        """Per state and table the parts held here."""
        kind = self.config.kind
        parts: dict[str, dict[str, list[Shard]]] = {n: {} for n in STATES[kind]}
        if self.config.mode == "dense":
            shards = self._store.shards()
            for name, parameter in self._parameters.items():
                assert self._dense is not None
                first = shards[name][0]
                for state in STATES[kind]:
                    values = self._dense.state[parameter][state]
                    parts[state][name] = [Shard(first.row, first.column, values)]
            return parts
        for path, states in self._store.fused_optimizer().state_dict()["state"].items():
            for state, fused in _FUSED_NAMES[kind].items():
                for key, value in states.items():
                    if key.endswith(f".{fused}"):
                        parts[state][table_of(path)] = local_parts(value)
        for copy in self._copies:
            for state, value in copy.state.items():
                parts[state][copy.name] = [Shard(0, 0, value)]
        return parts

    def state_dict(self) -> dict[str, Tensor]:
        """Whole state tensors by ``<group>.<table>.<state>``. Collective."""
        result: dict[str, Tensor] = {}
        for state, tables in self._parts().items():
            whole_rows = self.config.kind != "rowwise_adagrad"
            for name, whole in self._store.gather(tables, whole_rows).items():
                result[f"{name}.{state}"] = whole
        return result | self.rest()

    def parts(self) -> list[TensorPart]:
        """What this rank has to save of the states."""
        whole_rows = self.config.kind != "rowwise_adagrad"
        return [
            part
            for state, tables in self._parts().items()
            for part in self._store.parts_of(tables, state, whole_rows)
        ]

    def rest(self) -> dict[str, Tensor]:
        """The steps."""
        if self.config.kind != "adam":
            return {}
        steps = float(self._steps)
        return {f"{table.name}.step": torch.tensor(steps) for table in self._store.tables}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave, each rank its part."""
        check_state(state, self._expected())
        with torch.no_grad():
            for kind, tables in self._parts().items():
                for name, parts in tables.items():
                    whole = state[f"{name}.{kind}"]
                    for first, column, part in parts:
                        mine = whole[first : first + len(part)].to(part.device)
                        if whole.ndim == 1:
                            part.copy_(mine.view(part.shape))
                        else:
                            part.zero_()
                            mine = mine[:, column : column + part.shape[1]]
                            part[:, : mine.shape[1]] = mine
        if self.config.kind == "adam":
            self._steps = int(state[f"{self._store.tables[0].name}.step"])
            if self._dense is not None:
                for held in self._dense.state.values():
                    held["step"].fill_(self._steps)
            for fused in self._fused():
                fused.set_optimizer_step(self._steps)

    def _expected(self) -> dict[str, torch.Size]:
        sizes = {}
        for table in self._store.tables:
            rows, dim = table.spec.num_embeddings, table.spec.embedding_dim
            for state in STATES[self.config.kind]:
                rowwise = self.config.kind == "rowwise_adagrad"
                sizes[f"{table.name}.{state}"] = torch.Size((rows,) if rowwise else (rows, dim))
            if self.config.kind == "adam":
                sizes[f"{table.name}.step"] = torch.Size(())
        return sizes

    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows the state of rows that were never trained, on each rank those it holds."""
        start = self.config.initial_accumulator_value if "adagrad" in self.config.kind else 0.0
        with torch.no_grad():
            for tables in self._parts().values():
                for first, _, part in tables.get(table, ()):
                    mine = rows.long() - first
                    part[mine[(mine >= 0) & (mine < len(part))]] = start

    def state_bytes(self) -> int:
        """Bytes of the states held here, padding included."""
        return sum(
            part.numel() * part.element_size()
            for tables in self._parts().values()
            for parts in tables.values()
            for _, _, part in parts
        )
