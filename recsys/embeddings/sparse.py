"""Exact sparse training of local tables: backward puts row gradients aside, a step applies them.

Duplicates are summed first, so a step equals the dense step on the rows it touches, and rows that
no batch touched cost nothing. PAD rows are never trained.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from recsys.embeddings.ids import Ids

if TYPE_CHECKING:
    from recsys.embeddings.store import LocalStore, Lookup


@dataclasses.dataclass(frozen=True, slots=True)
class RowGradients:
    """What one backward left for the next step.

    Args:
        lookups: Whose columns stand side by side in ``grad``; their slots are those of ``ids``.
        ids: What was looked up.
        grad: Gradient of the pooled output.

    Shape:
        - grad: (B, sum of widths) float32
    """

    lookups: tuple[Lookup, ...]
    ids: Ids
    grad: Tensor


class SparsePooled(torch.autograd.Function):
    """Pooled lookup of all groups whose backward only remembers the gradient."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, weights: Tensor | None, store: LocalStore, ids: Ids
    ) -> Any:
        """Looks up without recording."""
        ctx.set_materialize_grads(False)
        ctx.store, ctx.ids = store, ids
        outputs = store.pooled_now(ids)
        return tuple(outputs[group] for group in store.by_group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Puts the gradients aside."""
        store, weight_grad = ctx.store, None
        for (_, lookups), grad in zip(store.by_group.items(), grads):
            if grad is None:
                continue
            kept = RowGradients(lookups, ctx.ids, grad.float().contiguous())
            store.pending.append(kept)
            if ctx.needs_input_grad[1]:
                share = _weight_gradient(store, kept)
                weight_grad = share if weight_grad is None else weight_grad + share
        return None, weight_grad, None, None


class SparseRows(torch.autograd.Function):
    """Unpooled lookup whose backward only remembers the gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, store: LocalStore, only: Ids, lookup: Lookup) -> Tensor:
        """Looks up without recording."""
        ctx.store, ctx.lookup = store, dataclasses.replace(lookup, slot=0, mean=False)
        count = only.values.shape[0]
        ctx.ids = Ids(only.values, torch.ones_like(only.values), 1, (count,))
        return store.plain_rows(only, lookup)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Puts the gradient aside."""
        ctx.store.pending.append(
            RowGradients((ctx.lookup,), ctx.ids, grads[0].float().contiguous())
        )
        return None, None, None, None


def index_gradients(
    store: LocalStore, kept: RowGradients, dim: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The gradient of every looked-up row of one width, before summing duplicates.

    Returns:
        Rows of the flat tensor (L,), whether each is not PAD (L,), gradients before weights
        (L, D) and after; None if no lookup has this width.
    """
    mine, columns, start = [], [], 0
    for lookup in kept.lookups:
        end = start + store.dim(lookup)
        if store.dim(lookup) == dim:
            mine.append(lookup)
            columns.append(kept.grad[:, start:end])
        start = end
    if not mine:
        return None
    rows, real, lengths, _ = store.flat_rows(kept.ids, mine)
    bags = torch.stack(columns)  # (n, B, D); the copy makes reading by bag fast
    if any(lookup.mean for lookup in mine):
        mean = torch.tensor([lookup.mean for lookup in mine], device=bags.device)[:, None]
        count = lengths.view(len(mine), -1).clamp(min=1)
        bags = bags / torch.where(mean, count, 1).unsqueeze(2)
    bag_of = torch.arange(lengths.shape[0], device=rows.device).repeat_interleave(
        lengths, output_size=rows.shape[0]
    )
    return rows, real, bags.reshape(-1, dim).index_select(0, bag_of)


def _weight_gradient(store: LocalStore, kept: RowGradients) -> Tensor:
    """Gradient of ``value_weights``: of each value, its row times the gradient of its bag."""
    ids = kept.ids
    result = torch.zeros_like(ids.values, dtype=torch.float32)
    ends = [0]
    for count in ids.counts or ():
        ends.append(ends[-1] + count)
    start = 0
    for lookup in kept.lookups:
        dim = store.dim(lookup)
        only = dataclasses.replace(lookup, slot=0)
        one = RowGradients((only,), store.only(ids, lookup), kept.grad[:, start : start + dim])
        found = index_gradients(store, one, dim)
        if found is not None:
            rows, real, grads = found
            vectors = store.flat(dim).detach().index_select(0, rows)
            share = (vectors * grads).sum(1) * real
            result[ends[lookup.slot] : ends[lookup.slot + 1]] += share
        start += dim
    return result


def summed_gradients(
    store: LocalStore, pending: Sequence[RowGradients], dim: int
) -> tuple[Tensor, Tensor] | None:
    """Row gradients of one flat tensor, duplicates summed.

    Returns:
        Distinct rows (R,) and gradients (R, D), PAD left out; None if there are none.
    """
    all_rows, all_grads = [], []
    for kept in pending:
        found = index_gradients(store, kept, dim)
        if found is None:
            continue
        rows, real, grads = found
        mine = [lookup for lookup in kept.lookups if store.dim(lookup) == dim]
        weights = store.flat_rows(kept.ids, mine)[3]
        if weights is not None:
            grads = grads * weights.detach().unsqueeze(1)
        if not bool(real.all()):
            rows, grads = rows[real], grads[real]
        all_rows.append(rows)
        all_grads.append(grads)
    if not all_rows or not sum(rows.numel() for rows in all_rows):
        return None
    rows, grads = (x[0] if len(x) == 1 else torch.cat(x) for x in (all_rows, all_grads))
    rows, order = rows.sort(stable=True)  # a fixed order of summation, on any device
    distinct, counts = rows.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    return distinct, functional.embedding_bag(order, grads, starts, mode="sum")
