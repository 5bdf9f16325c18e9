"""One optimizer over a store's tables and over decoders that hold rows of their own.

A decoder may keep its rows itself, in a form that no store knows (integers that are trained as
integers). Then it is an `OwnsRows`: it hands out the optimizer of its rows, and
`EmbeddingCollection.attach_optimizer` and `to_torchrec` join it with the store's.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError

_ROLE = "@rows"


@runtime_checkable
class OwnsRows(Protocol):
    """A decoder that holds and trains rows of its own."""

    def attach(self, config: EmbeddingOptimizerConfig) -> EmbeddingOptimizer:
        """The optimizer of its rows. States are named without a table: ``sum``, ``step``.

        Args:
            config: What to run.
        """
        ...


def owners(decoders: nn.ModuleDict) -> dict[str, OwnsRows]:
    """Decoders that hold rows of their own, by ``<group>.<table>``.

    Args:
        decoders: Of a collection, by ``<group>/<table>``.
    """
    return {
        name.replace("/", ".", 1): decoder
        for name, decoder in decoders.items()
        if isinstance(decoder, OwnsRows)
    }


def combine(
    config: EmbeddingOptimizerConfig, store: EmbeddingOptimizer | None, decoders: nn.ModuleDict
) -> EmbeddingOptimizer:
    """The store's optimizer, joined with those of the decoders that own rows.

    Args:
        config: What to run.
        store: None for a store without tables.
        decoders: Of a collection.
    """
    owned = owners(decoders)
    if store is not None and not owned:
        return store
    parts = {name: owner.attach(config) for name, owner in owned.items()}
    return CombinedOptimizer(config, store, parts)


class CombinedOptimizer(EmbeddingOptimizer):
    """Steps the store's tables, then each decoder's rows.

    States of a decoder's rows are called ``<group>.<table>@rows.<state>``.

    Args:
        config: What all of them run.
        store: None for a store without tables.
        owned: By ``<group>.<table>``.
    """

    def __init__(
        self,
        config: EmbeddingOptimizerConfig,
        store: EmbeddingOptimizer | None,
        owned: Mapping[str, EmbeddingOptimizer],
    ) -> None:
        self.config, self._store, self._owned = config, store, dict(owned)
        self._learning_rate = config.learning_rate
        self._all = [*([] if store is None else [store]), *self._owned.values()]

    def step(self) -> None:
        """Applies the gradients since the last ``zero_grad`` and forgets them."""
        for optimizer in self._all:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for optimizer in self._all:
            optimizer.zero_grad()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size."""
        self._learning_rate = learning_rate
        for optimizer in self._all:
            optimizer.set_learning_rate(learning_rate)

    @property
    def learning_rate(self) -> float:
        """The current step size."""
        return self._learning_rate

    def state_dict(self) -> dict[str, Tensor]:
        """Whole state tensors by ``<group>.<table>.<state>``, also of decoders."""
        return ({} if self._store is None else self._store.state_dict()) | self._of_owned()

    def _of_owned(self) -> dict[str, Tensor]:
        return {
            f"{name}{_ROLE}.{key}": value
            for name, optimizer in self._owned.items()
            for key, value in optimizer.state_dict().items()
        }

    def parts(self) -> list[TensorPart]:
        """Those of the store's tables; decoders are alike on every rank."""
        return [] if self._store is None else self._store.parts()

    def rest(self) -> dict[str, Tensor]:
        """States of decoders' rows, and what the store's tables have beside parts."""
        return ({} if self._store is None else self._store.rest()) | self._of_owned()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave.

        Raises:
            CheckpointError: A state is missing, left over or of another size.
        """
        rest = dict(state)
        for name, optimizer in self._owned.items():
            prefix = f"{name}{_ROLE}."
            mine = {key: rest.pop(key) for key in list(rest) if key.startswith(prefix)}
            optimizer.load_state_dict({k.removeprefix(prefix): v for k, v in mine.items()})
        if self._store is not None:
            self._store.load_state_dict(rest)
        elif rest:
            raise CheckpointError(
                f"embedding optimizer state: unexpected {sorted(rest)[:5]}; no table has them. "
                "Was the checkpoint made with another compression?"
            )

    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows of a physical table the state of rows that were never trained."""
        if table in self._owned:
            self._owned[table].reset_rows(table, rows)
        elif self._store is not None:
            self._store.reset_rows(table, rows)

    def state_bytes(self) -> int:
        """Bytes of the state held by this process."""
        return sum(optimizer.state_bytes() for optimizer in self._all)
