"""Jagged indices on their way to the tables, and the two checks they pass.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Proxy

from recsys.errors import SchemaError, did_you_mean
from recsys.types import Batch


@dataclasses.dataclass(frozen=True, slots=True)
class Ids:
    """Jagged indices, slot-major: all rows of slot 0, then all of slot 1.

    A slot is a feature of the batch, or one probe of a compressed table.

    Args:
        values: Table indices of all slots.
        lengths: Number of indices of every (slot, row).
        num_slots: Number of slots.
        counts: Number of values of every slot, on the host. None while tracing, where nothing may
            depend on data.
        weights: Weight of every value. None means all 1.

    Shape:
        - values, weights: (L,)
        - lengths: (num_slots * B,)
    """

    values: Tensor
    lengths: Tensor
    num_slots: int
    counts: tuple[int, ...] | None
    weights: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.lengths.shape[0] // self.num_slots

    def counts_tensor(self) -> Tensor:
        """Number of values of every slot, on the device of the lengths."""
        return self.lengths.view(self.num_slots, -1).sum(1)

    def slot(self, slot: int) -> Ids:
        """One slot alone: views, or a selection by mask while tracing."""
        if self.counts is None:
            return _select_traced(self, [slot])
        start, size = sum(self.counts[:slot]), self.batch_size
        end = start + self.counts[slot]
        return Ids(
            self.values[start:end],
            self.lengths[slot * size : (slot + 1) * size],
            1,
            (self.counts[slot],),
            None if self.weights is None else self.weights[start:end],
        )


def is_traced(values: object) -> bool:
    """Whether this forward is being recorded (FX, export, compile) and not run."""
    return isinstance(values, Proxy) or torch.compiler.is_compiling()


def ids_of(batch: Batch, keys: tuple[str, ...]) -> Ids:
    """The indices of a batch, after checking that its keys are those of the tables.

    Raises:
        SchemaError: The batch has other keys, or the same in another order, or its sizes
            contradict each other.
    """
    if is_traced(batch.values):
        return Ids(batch.values, batch.lengths, len(keys), None, batch.value_weights)
    if batch.keys != keys:
        _refuse_keys(batch.keys, keys)
    values, lengths = batch.values.shape[0], batch.lengths.shape[0]
    if sum(batch.value_counts) != values or lengths != len(keys) * batch.batch_size:
        raise SchemaError(
            f"the batch contradicts itself: {len(keys)} keys and {batch.batch_size} rows with "
            f"{lengths} lengths; `value_counts` adds up to {sum(batch.value_counts)} for {values} "
            "values. Make batches with BatchLoader or FeatureEncoder.batch."
        )
    return Ids(batch.values, batch.lengths, len(keys), batch.value_counts, batch.value_weights)


def _refuse_keys(got: Sequence[str], expected: Sequence[str]) -> None:
    missing = [key for key in expected if key not in got]
    extra = [key for key in got if key not in expected]
    if missing or extra:
        hint = did_you_mean(extra[0], missing) if missing and extra else ""
        difference = f"missing {missing}, unknown {extra}. {hint}".rstrip()
    else:
        place = next(i for i, (a, b) in enumerate(zip(got, expected)) if a != b)
        difference = (
            f"same keys in another order: position {place} is `{got[place]}`, "
            f"expected `{expected[place]}`."
        )
    raise SchemaError(
        f"the batch's keys differ from the {len(expected)} keys of the embedding tables: "
        f"{difference} Make batches with the schema the model was built from."
    )


def select(ids: Ids, slots: Sequence[int]) -> Ids:
    """Some slots, in the given order; the same object where that is all of them."""
    if list(slots) == list(range(ids.num_slots)):
        return ids
    if ids.counts is not None:
        return join([ids.slot(slot) for slot in slots])
    return _select_traced(ids, slots)


def join(parts: Sequence[Ids]) -> Ids:
    """Several single slots as one set of indices."""
    if len(parts) == 1:
        return parts[0]
    weighted = any(part.weights is not None for part in parts)
    return Ids(
        torch.cat([part.values for part in parts]),
        torch.cat([part.lengths for part in parts]),
        sum(part.num_slots for part in parts),
        None
        if any(part.counts is None for part in parts)
        else tuple(count for part in parts for count in part.counts or ()),
        torch.cat(
            [
                torch.ones_like(part.values, dtype=torch.float32)
                if part.weights is None
                else part.weights
                for part in parts
            ]
        )
        if weighted
        else None,
    )


def _select_traced(ids: Ids, slots: Sequence[int]) -> Ids:
    """Slots of traced indices: no host counts, so by a mask over all values."""
    slot_of = torch.arange(ids.num_slots, device=ids.values.device).repeat_interleave(
        ids.counts_tensor(), output_size=ids.values.shape[0]
    )
    lengths = ids.lengths.view(ids.num_slots, -1)
    parts = []
    for slot in slots:
        keep = (slot_of == slot).nonzero().squeeze(1)
        weights = None if ids.weights is None else ids.weights.index_select(0, keep)
        parts.append(Ids(ids.values.index_select(0, keep), lengths[slot], 1, None, weights))
    return join(parts)


def _one_each(rows: Tensor, lengths: Tensor) -> bool:
    """Whether every bag has one index; never asked where that would wait for a device."""
    if is_traced(lengths) or lengths.device.type != "cpu" or rows.shape[0] != lengths.shape[0]:
        return False
    return bool((lengths == 1).all())


def pool(rows: Tensor, one: Ids, mean: bool) -> Tensor:
    """Pools vectors that belong to the indices of one slot.

    Args:
        rows: A vector for every index.
        one: The slot alone.
        mean: Divide by the number of indices.

    Shape:
        - rows: (L, D)
        - output: (B, D)
    """
    lengths = one.lengths.long()
    if one.weights is not None:
        rows = rows * one.weights.unsqueeze(1)
    if _one_each(rows, lengths):
        return rows
    bag = torch.arange(lengths.shape[0], device=rows.device).repeat_interleave(
        lengths, output_size=rows.shape[0]
    )
    sums = rows.new_zeros(lengths.shape[0], rows.shape[1]).index_add(0, bag, rows)
    return sums / lengths.clamp(min=1).unsqueeze(1) if mean else sums
