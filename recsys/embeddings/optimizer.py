"""Optimizers of embedding tables: what to run, and the interface that trainers hold.

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys.embeddings.parts import TensorPart
from recsys.embeddings.store import LocalStore
from recsys.errors import CheckpointError, ConfigError
from recsys.schema import Frozen

STATES = {
    "sgd": (),
    "adagrad": ("sum",),
    "rowwise_adagrad": ("sum",),
    "adam": ("exp_avg", "exp_avg_sq"),
}
"""State tensors of each kind, beside ``step``. ``sum`` of rowwise_adagrad is one number a row."""


class EmbeddingOptimizerConfig(Frozen):
    """How embedding tables are trained."""

    kind: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    """``rowwise_adagrad`` keeps one accumulator a row. ``adam`` in sparse mode is lazy: rows that
    a step does not touch do not move (the semantics of ``torch.optim.SparseAdam``)."""
    mode: Literal["sparse", "dense"] = "sparse"
    """``sparse``: exact updates of the rows a batch touched. ``dense``: whole tables, as published
    numbers were made; slow, and needs a gradient as large as the tables."""
    learning_rate: float = Field(default=0.01, ge=0)
    """Step size."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments of ``adam``."""
    l2: float = Field(default=0.0, ge=0)
    """L2 of the whole tables, added to the gradient (``weight_decay`` of torch). Dense mode only:
    in sparse mode it would only reach the touched rows and mean something else."""
    initial_accumulator_value: float = Field(default=0.0, ge=0)
    """Start of ``sum``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "sparse" and self.l2:
            raise ConfigError(
                f"embedding: `l2` needs mode=dense, got l2={self.l2} with mode=sparse. "
                "Set mode=dense, or l2=0."
            )
        if self.mode == "dense" and self.kind == "rowwise_adagrad":
            raise ConfigError(
                "embedding: mode=dense knows kind=adam, adagrad and sgd, got rowwise_adagrad. "
                "Use mode=sparse, which gives the same result, or kind=adagrad."
            )
        return self


class EmbeddingOptimizer(abc.ABC):
    """Trains the tables of one `EmbeddingCollection`, on any backend.

    Call order of a training step: ``zero_grad(); forward; backward; step()``. A backend that
    updates inside backward makes ``step`` do nothing.
    """

    config: EmbeddingOptimizerConfig

    @abc.abstractmethod
    def step(self) -> None:
        """Applies the gradients since the last ``zero_grad`` and forgets them."""

    @abc.abstractmethod
    def zero_grad(self) -> None:
        """Forgets all gradients."""

    @abc.abstractmethod
    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size, from the next forward on."""

    @property
    @abc.abstractmethod
    def learning_rate(self) -> float:
        """The current step size."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Whole state tensors by ``<group>.<table>.<state>``, equal on every backend."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave, on any backend.

        Raises:
            CheckpointError: A state is missing, left over or of another size.
        """

    def parts(self) -> list[TensorPart]:
        """States that are spread over ranks: what this rank holds of them, none where none are.

        Together with `rest` this is what `state_dict` would gather.
        """
        return []

    def rest(self) -> dict[str, Tensor]:
        """States that every rank holds."""
        return self.state_dict()

    @abc.abstractmethod
    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows of ``<group>.<table>`` the state of rows that were never trained."""

    @abc.abstractmethod
    def state_bytes(self) -> int:
        """Bytes of the state held by this process."""


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Compares names and sizes of an optimizer state with what is expected.

    Raises:
        CheckpointError: They differ.
    """
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"embedding optimizer state: missing {missing[:5]}, unexpected {extra[:5]} "
            f"({len(missing)} and {len(extra)} in all). Was the checkpoint made with another "
            "`embedding.kind` or other tables?"
        )
    for name, size in expected.items():
        if state[name].shape != size:
            raise CheckpointError(
                f"embedding optimizer state `{name}`: expected {tuple(size)}, "
                f"got {tuple(state[name].shape)}. Was the vocabulary of this table fitted anew?"
            )


class DenseOptimizer(EmbeddingOptimizer):
    """Whole-table updates through torch's own Adam, Adagrad or SGD.

    PAD rows get no gradient and are zero, so their L2 is zero too: they stay zero.

    Args:
        config: With ``mode=dense``.
        store: Its flat tensors become ordinary parameters with dense gradients.
    """

    def __init__(self, config: EmbeddingOptimizerConfig, store: LocalStore) -> None:
        self.config, self._store = config, store
        self._flats = {dim: store.flat(dim) for dim in store.dims}
        for flat in self._flats.values():
            flat.requires_grad_(True)
        self._optimizer = torch_optimizer(config, self._flats.values())
        self._make_states()

    def _make_states(self) -> None:
        """Makes Adam's lazy states now, so that they can be saved and loaded at any time."""
        for flat in self._flats.values():
            state = self._optimizer.state[flat]
            for name in ("step", *STATES[self.config.kind]):
                if self.config.kind != "sgd" and name not in state:
                    state[name] = torch.zeros_like(flat if name != "step" else flat[0, 0])

    def step(self) -> None:
        """Updates every row of every table."""
        self._optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        self._optimizer.zero_grad()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self._optimizer.param_groups[0]["lr"]

    def _views(self) -> dict[str, Tensor]:
        views = {}
        for i, table in enumerate(self._store.tables):
            state = self._optimizer.state[self._flats[table.spec.embedding_dim]]
            for name in STATES[self.config.kind]:
                views[f"{table.name}.{name}"] = self._store.table_slice(i, state[name])
        return views

    def state_dict(self) -> dict[str, Tensor]:
        """Whole state tensors by ``<group>.<table>.<state>``."""
        state = {name: view.clone() for name, view in self._views().items()}
        if self.config.kind == "adam":
            for table in self._store.tables:
                flat = self._flats[table.spec.embedding_dim]
                state[f"{table.name}.step"] = self._optimizer.state[flat]["step"].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave."""
        views = self._views()
        expected = {name: view.shape for name, view in self.state_dict().items()}
        check_state(state, expected)
        for name, view in views.items():
            view.copy_(state[name][:])
        if self.config.kind == "adam":
            for table in self._store.tables:
                flat = self._flats[table.spec.embedding_dim]
                self._optimizer.state[flat]["step"].copy_(state[f"{table.name}.step"])

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
            for state in self._optimizer.state.values()
            for value in state.values()
            if value.ndim
        )


def torch_optimizer(
    config: EmbeddingOptimizerConfig, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """The torch optimizer that ``mode=dense`` stands for, in one pass over memory.

    Args:
        config: With ``mode=dense``.
        parameters: Whole tables.
    """
    rate, l2, parameters = config.learning_rate, config.l2, list(parameters)
    if config.kind == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=l2, fused=True)
    if config.kind == "adagrad":
        start = config.initial_accumulator_value
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        return torch.optim.Adagrad(
            parameters,
            lr=rate,
            weight_decay=l2,
            eps=config.eps,
            initial_accumulator_value=start,
            fused=on_cpu or None,  # torch has no such kernel for CUDA
        )
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=l2, eps=config.eps, betas=config.betas, fused=True
    )
