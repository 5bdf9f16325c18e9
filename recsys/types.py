"""What flows between the parts: batches of rows or of pairs, and embeddings by key.

Shape letters, used in every docstring and tensor suffix of the library:

    B batch, F fields, D embedding dim, L jagged length, T tasks (labels) or tables,
    N dense columns, V rows of a table, U users, I items, E edges, K candidates or top-k,
    H hidden width.

*id* is the caller's key (string or int64); *index* is the row in a table.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a click log as tensors, ready for a model.

    Indices are jagged and feature-major: all rows of the first key, then all of the second, in
    the one fixed order of ``keys``. That is the memory layout of torchrec's
    ``KeyedJaggedTensor``, which can therefore be made without a copy::

                 row 0   row 1   row 2
        "user"   [4]     [9]     [4]          values  = 4 9 4 | 2 3 5
        "tags"   [2 3]   []      [5]          lengths = 1 1 1 | 2 0 1

    Args:
        dense: Numeric features, then pretrained vectors, in schema order.
        values: Table indices of every key.
        lengths: Number of indices of every (key, row).
        labels: One column a task.
        keys: Feature names, in schema order.
        value_counts: Number of ``values`` of every key (known on the host, so that slicing by
            key never waits for a device).
        weights: Weight of every row; 0 marks padding. None means all 1.
        value_weights: Weight of every index in ``values``. None means all 1.
        groups: Group key of every row (for grouped AUC), hashed to int64.
        timestamps: Time of every row, in the unit of the log.

    Shape:
        - dense: (B, N) float32
        - values: (L,) int32
        - lengths: (F * B,) int32
        - labels: (B, T) float32
        - weights: (B,) float32
        - value_weights: (L,) float32
        - groups, timestamps: (B,) int64

    Example:
        >>> import torch
        >>> batch = Batch(dense=torch.zeros(2, 1), values=torch.tensor([4, 9], dtype=torch.int32),
        ...               lengths=torch.ones(2, dtype=torch.int32), labels=torch.ones(2, 1),
        ...               keys=("user",), value_counts=(2,))
        >>> batch.key_values("user")
        tensor([4, 9], dtype=torch.int32)
    """

    dense: Tensor
    values: Tensor
    lengths: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    value_counts: tuple[int, ...]
    weights: Tensor | None = None
    value_weights: Tensor | None = None
    groups: Tensor | None = None
    timestamps: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of rows, padding included."""
        return self.dense.shape[0]

    def key_range(self, key: str) -> tuple[int, int]:
        """First and last-plus-one position of a key in ``values``."""
        position = self.keys.index(key)
        ends = list(accumulate(self.value_counts[: position + 1]))
        return ends[-1] - self.value_counts[position], ends[-1]

    def key_values(self, key: str) -> Tensor:
        """The indices of one key, a view."""
        start, end = self.key_range(key)
        return self.values[start:end]

    def key_lengths(self, key: str) -> Tensor:
        """The lengths of one key, a view of shape (B,)."""
        position, size = self.keys.index(key), self.batch_size
        return self.lengths[position * size : (position + 1) * size]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by the name of their field."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if hasattr(value, "is_floating_point")}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved = {
            name: t.to(device, non_blocking=non_blocking) for name, t in self.tensors().items()
        }
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, so that ``to`` can overlap with work."""
        pinned = {name: tensor.pin_memory() for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **pinned)


@dataclasses.dataclass(frozen=True, slots=True)
class KeyedEmbeddings:
    """Embeddings of several features side by side, always in the order they were configured.

    Unlike torchrec's ``KeyedTensor`` the order of ``values`` never depends on a sharding plan.

    Args:
        keys: Feature names.
        dims: Width of every feature.
        values: The embeddings, concatenated.

    Shape:
        - values: (B, sum of dims)

    Example:
        >>> import torch
        >>> embeddings = KeyedEmbeddings(("a", "b"), (1, 2), torch.tensor([[1.0, 2.0, 3.0]]))
        >>> embeddings["b"]
        tensor([[2., 3.]])
    """

    keys: tuple[str, ...]
    dims: tuple[int, ...]
    values: Tensor

    def __getitem__(self, key: str) -> Tensor:
        position = self.keys.index(key)
        start = sum(self.dims[:position])
        return self.values[:, start : start + self.dims[position]]

    def stacked(self) -> Tensor:
        """All features as (B, F, D), a view. Needs equal widths.

        Raises:
            ValueError: The widths differ.
        """
        if len(set(self.dims)) != 1:
            raise ValueError(f"stacked() needs equal widths, got {dict(zip(self.keys, self.dims))}")
        return self.values.view(-1, len(self.keys), self.dims[0])

    def split(self) -> Sequence[Tensor]:
        """Every feature as (B, its width), views."""
        return self.values.split(list(self.dims), dim=1)


@dataclasses.dataclass(frozen=True, slots=True)
class PairBatch:
    """Training pairs with what was not seen, by number (not by row of a table).

    Args:
        user: Of every pair.
        item: That was seen.
        negatives: Items that were not: of every pair, or shared by all of them. None where the
            model needs none.
        log_q: Logarithm of the probability with which each shared negative was drawn, and of every
            item as one (for corrections), or None where it was uniform.
        known: Which shared negatives the user of a pair has seen, as positions ``(pair,
            negative)``: losses leave them out, say by ``scores[known[0], known[1]] = -inf``. None
            where no negative was seen, or nobody looked.

    Shape:
        - user, item: (B,) int64
        - negatives: (B, N), or (N,) where they are shared
        - log_q: (I,)
        - known: (2, number of them) int64
    """

    user: Tensor
    item: Tensor
    negatives: Tensor | None = None
    log_q: Tensor | None = None
    known: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.user)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """The same batch on another device."""
        moved = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True, slots=True)
class TripleBatch:
    """Triples of a knowledge graph, each with a tail that it does not have.

    Args:
        head: Node of every triple; nodes are numbered users first, then entities.
        relation: Its relation; each relation and its inverse are two.
        tail: Node that the triple has.
        negative: Node that it does not have.

    Shape:
        - head, relation, tail, negative: (B,) int64
    """

    head: Tensor
    relation: Tensor
    tail: Tensor
    negative: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.head)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TripleBatch:
        """The same batch on another device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=non_blocking)
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **moved)
