"""The optimizer of rows that are held as integers: it rounds what it has updated.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from recsys.embeddings.optimizer import (
    STATES,
    EmbeddingOptimizer,
    EmbeddingOptimizerConfig,
    check_state,
)
from recsys.schema import PAD_INDEX

if TYPE_CHECKING:
    from recsys.embeddings.compression.integer_rows import IntegerRows


class RowStates:
    """The states of one optimizer kind for rows of a width, and its update.

    Args:
        config: What to run.
        rows: How many.
        dim: Width.
        device: Of the states.
    """

    def __init__(
        self, config: EmbeddingOptimizerConfig, rows: int, dim: int, device: torch.device
    ) -> None:
        self.config = config
        self._start = config.initial_accumulator_value if "adagrad" in config.kind else 0.0
        shape = (rows,) if config.kind == "rowwise_adagrad" else (rows, dim)
        self.tensors = {
            name: torch.full(shape, self._start, device=device) for name in STATES[config.kind]
        }

    def change(self, rows: Tensor, grads: Tensor, rate: float, step: int) -> Tensor:
        """What is taken off the rows, as in `SparseOptimizer`.

        Args:
            rows: (R,) int64, distinct.
            grads: (R, D).
            rate: Learning rate.
            step: Number of this step, from 1.
        """
        kind, state = self.config.kind, self.tensors
        if kind == "sgd":
            return grads * rate
        if kind == "adam":
            beta1, beta2 = self.config.betas
            first = state["exp_avg"].index_select(0, rows).lerp_(grads, 1 - beta1)
            second = state["exp_avg_sq"].index_select(0, rows).lerp_(grads.square(), 1 - beta2)
            state["exp_avg"].index_copy_(0, rows, first)
            state["exp_avg_sq"].index_copy_(0, rows, second)
            if self.config.mode == "dense":  # as torch.optim.Adam: eps after the correction
                root = second.div(1 - beta2**step).sqrt_().add_(self.config.eps)
                return first.div(root).mul_(rate / (1 - beta1**step))
            rate = rate * math.sqrt(1 - beta2**step) / (1 - beta1**step)
            return first.div(second.sqrt_().add_(self.config.eps)).mul_(rate)
        square = grads.square()
        if kind == "rowwise_adagrad":
            square = square.mean(1)
        total = state["sum"].index_select(0, rows).add_(square)
        state["sum"].index_copy_(0, rows, total)
        return grads * (rate / total.sqrt_().add_(self.config.eps).view(rows.shape[0], -1))

    def reset(self, rows: Tensor) -> None:
        """Makes rows as if never trained.

        Args:
            rows: (R,) int64.
        """
        for tensor in self.tensors.values():
            tensor[rows] = self._start


class IntegerOptimizer(EmbeddingOptimizer):
    """Dequantises the rows that a backward touched, updates them, rounds them again.

    On several ranks every rank holds all rows. ``step`` is collective: it gathers the gradients of
    all ranks, averages them as for other tables, and makes the same update everywhere, so that
    ranks stay equal bit for bit. Memory is not shared out.

    Args:
        config: What to run. ``mode=dense`` updates (and rounds) every row at every step.
        rows: Trained in place.
    """

    def __init__(self, config: EmbeddingOptimizerConfig, rows: IntegerRows) -> None:
        self.config, self._rows = config, rows
        self._learning_rate, self._step = config.learning_rate, 0
        count, dim = rows.codes.shape
        self._states = RowStates(config, count, dim, rows.codes.device)

    def step(self) -> None:
        """Applies the gradients since the last ``zero_grad`` and forgets them."""
        self._step += 1
        with torch.no_grad():
            found = self._gradients()
            if found is not None:
                self.update(*found)
            self._rows.noise[1] += 1
        self.zero_grad()

    def update(self, rows: Tensor, grads: Tensor, count: int) -> None:
        """One step of distinct rows.

        Args:
            rows: (R,) int64.
            grads: (R, D), duplicates summed.
            count: Indices that were looked up, with duplicates, on all ranks.
        """
        values = self._rows.read(rows)
        if self.config.l2:
            grads = grads + self.config.l2 * values.float()
        values -= self._states.change(rows, grads, self._learning_rate, self._step).double()
        self._rows.write(rows, values)

    def _gradients(self) -> tuple[Tensor, Tensor, int] | None:
        """Distinct rows, their gradients on all ranks, and how many indices there were."""
        pending, codes = self._rows.pending or [], self._rows.codes
        rows = torch.cat([codes.new_zeros(0, dtype=torch.int64), *(r for r, _ in pending)])
        grads = torch.cat(
            [torch.zeros(0, codes.shape[1], device=codes.device)] + [grad for _, grad in pending]
        )
        real = rows != PAD_INDEX
        rows, grads = rows[real], grads[real]
        count = rows.shape[0]
        rows, grads = _summed(rows, grads)
        if _world_size() > 1:
            rows, grads, count = _from_all_ranks(rows, grads, count)
        if self.config.mode == "dense":
            whole = torch.zeros(codes.shape, device=codes.device).index_copy_(0, rows, grads)
            return torch.arange(1, len(whole), device=codes.device), whole[1:], count
        return (rows, grads, count) if rows.shape[0] else None

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        if self._rows.pending is not None:
            self._rows.pending.clear()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size."""
        self._learning_rate = learning_rate

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self._learning_rate

    def tensors(self) -> dict[str, Tensor]:
        """The states themselves, by name."""
        return self._states.tensors

    def state_dict(self) -> dict[str, Tensor]:
        """State tensors by name; equal on every rank."""
        state = {name: value.clone() for name, value in self.tensors().items()}
        if self.config.kind == "adam":
            state["step"] = torch.tensor(float(self._step))
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave."""
        check_state(state, {name: value.shape for name, value in self.state_dict().items()})
        for name, value in self.tensors().items():
            value.copy_(state[name])
        if self.config.kind == "adam":
            self._step = int(state["step"])

    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows the state of rows that were never trained."""
        self._states.reset(rows.long())

    def state_bytes(self) -> int:
        """Bytes of all states."""
        return sum(value.untyped_storage().nbytes() for value in self.tensors().values())


def _world_size() -> int:
    alone = not distributed.is_available() or not distributed.is_initialized()
    return 1 if alone else distributed.get_world_size()


def _summed(rows: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows and the sums of their gradients, added up in a fixed order on any device."""
    if not rows.shape[0]:
        return rows, grads
    rows, order = rows.sort(stable=True)
    distinct, counts = rows.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    return distinct, torch.nn.functional.embedding_bag(order, grads, starts, mode="sum")


def _from_all_ranks(rows: Tensor, grads: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """Rows and averaged gradients of all ranks, the same everywhere."""
    world = distributed.get_world_size()
    mine = torch.tensor([rows.shape[0], count], device=rows.device)
    sizes = [torch.zeros_like(mine) for _ in range(world)]
    distributed.all_gather(sizes, mine)
    most = max(int(size[0]) for size in sizes)
    rows = torch.nn.functional.pad(rows, (0, most - rows.shape[0]))
    grads = torch.nn.functional.pad(grads, (0, 0, 0, most - grads.shape[0]))
    all_rows = [torch.zeros_like(rows) for _ in range(world)]
    all_grads = [torch.zeros_like(grads) for _ in range(world)]
    distributed.all_gather(all_rows, rows)
    distributed.all_gather(all_grads, grads.contiguous())
    held = [int(size[0]) for size in sizes]
    rows = torch.cat([part[:size] for part, size in zip(all_rows, held)])
    grads = torch.cat([part[:size] for part, size in zip(all_grads, held)]) / world
    return *_summed(rows, grads), sum(int(size[1]) for size in sizes)
