"""The optimizer of local tables in sparse mode.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.embeddings import kernels
from recsys.embeddings.optimizer import (
    STATES,
    EmbeddingOptimizer,
    EmbeddingOptimizerConfig,
    check_state,
)
from recsys.embeddings.sparse import summed_gradients
from recsys.embeddings.store import LocalStore


class SparseOptimizer(EmbeddingOptimizer):
    """Updates the rows that the last backward touched, exactly.

    With g the summed gradient of a row and t the number of steps::

        sgd              w -= lr g
        adagrad          s += g^2;        w -= lr g / (sqrt(s) + eps)
        rowwise_adagrad  s += mean(g^2);  w -= lr g / (sqrt(s) + eps)
        adam             m += (1 - b1)(g - m);  v += (1 - b2)(g^2 - v)
                         w -= lr sqrt(1 - b2^t) / (1 - b1^t)  m / (sqrt(v) + eps)

    Args:
        config: With ``mode=sparse``.
        store: Its tables stop taking dense gradients.

    Source:
        FBGEMM's exact optimizers; ``torch.optim.SparseAdam`` for the lazy Adam.
    """

    def __init__(self, config: EmbeddingOptimizerConfig, store: LocalStore) -> None:
        self.config, self._store = config, store
        self._learning_rate, self._step = config.learning_rate, 0
        store.attach_sparse()
        self._states: dict[int, dict[str, Tensor]] = {}
        for dim in store.dims:
            flat = store.flat(dim)
            shape = flat.shape[:1] if config.kind == "rowwise_adagrad" else flat.shape
            start = config.initial_accumulator_value if "adagrad" in config.kind else 0.0
            self._states[dim] = {
                name: torch.full(shape, start, device=flat.device) for name in STATES[config.kind]
            }
        states = {dim: list(state.values()) for dim, state in self._states.items()}
        self._updater = kernels.Updater(store, states)

    def step(self) -> None:
        """Applies the gradients since the last ``zero_grad`` and forgets them."""
        self._step += 1
        pending = self._store.pending
        if kernels.fit(*(self._store.flat(dim) for dim in self._store.dims)):
            kind, betas = kernels.KINDS[self.config.kind], self.config.betas
            rate = self._adam_rate() if self.config.kind == "adam" else self._learning_rate
            self._updater.update(pending, (kind, rate, self.config.eps, *betas))
            self.zero_grad()
            return
        with torch.no_grad():
            for dim in self._store.dims:
                found = summed_gradients(self._store, pending, dim)
                if found is not None:
                    self._update(dim, *found)
        self.zero_grad()

    def _update(self, dim: int, rows: Tensor, grads: Tensor) -> None:
        """One step of the distinct rows of one flat tensor."""
        flat, state, kind = self._store.flat(dim), self._states[dim], self.config.kind
        rate, eps = self._learning_rate, self.config.eps
        if kind == "sgd":
            change = grads.mul_(rate)
        elif kind == "adam":
            beta1, beta2 = self.config.betas
            first = state["exp_avg"].index_select(0, rows).lerp_(grads, 1 - beta1)
            second = state["exp_avg_sq"].index_select(0, rows)
            second.lerp_(grads.square_(), 1 - beta2)
            state["exp_avg"].index_copy_(0, rows, first)
            state["exp_avg_sq"].index_copy_(0, rows, second)
            change = first.div_(second.sqrt_().add_(eps)).mul_(self._adam_rate())
        else:
            square = grads.square()
            if kind == "rowwise_adagrad":
                square = square.mean(1)
            total = state["sum"].index_select(0, rows).add_(square)
            state["sum"].index_copy_(0, rows, total)
            change = grads.mul_(rate / total.sqrt_().add_(eps).view(rows.shape[0], -1))
        flat.index_copy_(0, rows, flat.index_select(0, rows).sub_(change))

    def _adam_rate(self) -> float:
        beta1, beta2 = self.config.betas
        correction = math.sqrt(1 - beta2**self._step) / (1 - beta1**self._step)
        return self._learning_rate * correction

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self._store.pending.clear()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size."""
        self._learning_rate = learning_rate

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self._learning_rate

    def _views(self) -> dict[str, Tensor]:
        return {
            f"{table.name}.{name}": self._store.table_slice(i, state)
            for i, table in enumerate(self._store.tables)
            for name, state in self._states[table.spec.embedding_dim].items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Whole state tensors by ``<group>.<table>.<state>``."""
        state = {name: view.clone() for name, view in self._views().items()}
        if self.config.kind == "adam":
            for table in self._store.tables:
                state[f"{table.name}.step"] = torch.tensor(float(self._step))
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave."""
        check_state(state, {name: value.shape for name, value in self.state_dict().items()})
        for name, view in self._views().items():
            view.copy_(state[name][:])
        if self.config.kind == "adam":
            self._step = int(state[f"{self._store.tables[0].name}.step"])

    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows the state of rows that were never trained."""
        start = self.config.initial_accumulator_value if "adagrad" in self.config.kind else 0.0
        for name, view in self._views().items():
            if name.rpartition(".")[0] == table:
                view[rows.long()] = start

    def state_bytes(self) -> int:
        """Bytes of all states."""
        return sum(
            value.untyped_storage().nbytes()
            for state in self._states.values()
            for value in state.values()
        )
