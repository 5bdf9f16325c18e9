"""Ids with large gradients have rows of their own, found while training; the others share.

Stability: experimental
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, distributed

from recsys.embeddings.compression.chosen_rows import ChosenRows, ChosenRowsEncoder
from recsys.embeddings.compression.hot_rows import HotRows
from recsys.embeddings.compression.sketch import HotSketch
from recsys.embeddings.ids import is_traced
from recsys.embeddings.scheme import Decoder, Part, Rows, Successor, Trained
from recsys.schema import PAD_INDEX, TableSpec

_CALLS = 256  # most forwards remembered between two steps


class GradientWatch(Decoder):
    """The vectors as they are, noting the norm of every index's gradient.

    The gradient of an index is that of its bag, times its weight, and divided by the bag's
    length where the pooling is mean: what its row gets.

    Args:
        mean: Whether the pooling is mean.

    Shape:
        - as `Decoder`
    """

    watches = True

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self._mean = mean
        self._next: tuple[Tensor, Tensor | None, Tensor | None] | None = None
        self._seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=_CALLS)

    def watch(self, indices: Tensor, lengths: Tensor | None, weights: Tensor | None) -> None:
        """Remembers the indices until the vectors come."""
        wanted = self.training and not is_traced(indices)
        self._next = (indices, lengths, weights) if wanted else None

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """The only probe's vectors."""
        output, now, self._next = probes[0], self._next, None
        if now is not None and output.requires_grad:
            output.register_hook(functools.partial(self._note, *now))
        return output

    def _note(
        self, indices: Tensor, lengths: Tensor | None, weights: Tensor | None, grad: Tensor
    ) -> None:
        norms = grad.detach().float().norm(dim=1)
        if lengths is not None:
            if self._mean:
                norms = norms / lengths.clamp(min=1)
            norms = norms.repeat_interleave(lengths.long(), output_size=indices.shape[0])
        if weights is not None:
            norms = norms * weights.abs()
        self._seen.append((indices, norms))

    def take(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Indices and norms since the last call, PAD left out, and forgets them.

        Args:
            device: Where they are wanted.

        Shape:
            - output: (L,) int64, (L,) float32
        """
        seen = list(self._seen)
        self._seen.clear()
        if not seen:
            return (
                torch.empty(0, dtype=torch.int64, device=device),
                torch.empty(0, device=device),
            )
        indices = torch.cat([indices for indices, _ in seen]).to(device, torch.int64)
        norms = torch.cat([norms for _, norms in seen]).to(device)
        real = indices != PAD_INDEX
        return indices[real], norms[real]


class Migration:
    """Feeds the sketch after every step, and copies rows of ids that became hot."""

    def __init__(self, sketch: HotSketch, watch: GradientWatch) -> None:
        self._sketch, self._watch = sketch, watch

    def after_step(self, rows: Rows) -> None:
        """Counts what the step's batch taught. All ranks see the batches of all."""
        indices, norms = from_all_ranks(*self._watch.take(self._sketch.keys.device))
        total = norms.sum()
        if not self._sketch.hot_rows or not math.isfinite(float(total)) or not float(total):
            return
        ids, own = self._sketch.update(indices, norms * (indices.shape[0] / total))
        if ids.shape[0]:
            rows.write(0, own, rows.read(0, self._sketch.shared_rows(ids)))


def from_all_ranks(indices: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scored indices of all ranks, one rank after the other; on one rank the same.

    Args:
        indices: (L,) int64.
        scores: (L,) float32.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return indices, scores
    world = distributed.get_world_size()
    if world == 1:
        return indices, scores
    mine = torch.tensor([indices.shape[0]], device=indices.device)
    counts = [torch.empty_like(mine) for _ in range(world)]
    distributed.all_gather(counts, mine)
    lengths = [int(count) for count in counts]
    found = []
    for values in (indices, scores):
        padded = values.new_zeros(max(lengths))
        padded[: values.shape[0]] = values
        parts = [torch.empty_like(padded) for _ in range(world)]
        distributed.all_gather(parts, padded)
        found.append(torch.cat([part[:n] for part, n in zip(parts, lengths)]))
    return found[0], found[1]


class CAFE(HotRows):
    """A sketch of gradient norms decides which ids own one of ``hot_rows`` rows.

    The others share ``num_buckets`` rows by hash. Both kinds of rows are one physical table, so a
    lookup is one gather after a look into the sketch. An id that becomes hot starts from a copy
    of the row it shared; one that loses its row goes back to sharing. Prefer it where
    frequencies drift, or where the ids that matter are not the frequent ones; else `AdaptEmb`
    does the same without a sketch. Multiplexed, tables of few ids have a row for each of them, and
    the larger ones the same number of own rows.

    Memory: ``4 D (1 + hot_rows + num_buckets) + 48 hot_rows + 32`` bytes a table in training: rows,
    then the sketch (key, score and row of four slots a hot row), salts and its state. Frozen it
    is `ChosenRows`, whose list takes ``8 hot_rows + 8``.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=100_000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = CAFE().plan([table], budget=64_000)["user"]
        >>> plan.hot_rows, plan.num_buckets
        (621, 300)

    Source:
        Zhang et al., "CAFE: Towards Compact, Adaptive, and Fast Embedding for Large-scale
        Recommendation Models", SIGMOD 2024; sizes and the sketch after github.com/HugoZHL/CAFE.
        Differs: a sketch a table, not one over all (multiplexed, tables get the same number of
        rows); the budget counts what is served, without the sketch; the sketch is fed after the
        step, with scores per index also for bags of several indices; see `HotSketch` for the
        sketch. Not built: the second, lower threshold of the multi-level variant.
    """

    narrow: ClassVar[bool] = False
    owner_bytes: ClassVar[int] = ChosenRows.owner_bytes
    kind: Literal["cafe"] = "cafe"
    """Name in configurations."""
    threshold: float = Field(default=10.0, gt=0)
    """Least score for a row. An average index adds 1 each time it is seen."""
    decay: float = Field(default=0.99, gt=0, le=1)
    """Factor on all scores, each time that ten times the threshold was added for every row."""

    def part(self, table: TableSpec) -> Part:
        """One probe, and what moves its rows."""
        hot, buckets, start, before = self.sizes()
        sketch = HotSketch(
            table.name, hot, buckets, start, before, self.threshold, self.decay, self.salt
        )
        watch = GradientWatch(table.pooling == "mean")
        return Part((self.probe(table, "cafe"),), sketch, watch, Migration(sketch, watch))

    def frozen_scheme(self) -> ChosenRows:
        """The list instead of the sketch."""
        fields = HotRows.model_fields
        return ChosenRows.model_validate({name: getattr(self, name) for name in fields})

    def frozen(self, trained: Trained) -> Successor:
        """Writes the list; rows stay where they are."""
        scheme, sketch = self.frozen_scheme(), trained.part.encoder
        assert isinstance(sketch, HotSketch)
        encoder = scheme.part(trained.table).encoder
        assert isinstance(encoder, ChosenRowsEncoder)
        encoder.initialize()
        encoder.hash.load_state_dict(sketch.hash.state_dict())
        ids, rows = sketch.owners()
        encoder.ids[: ids.shape[0]] = ids.int()
        encoder.rows[: ids.shape[0]] = rows.int()
        return Successor(scheme, trained.probes, encoder.state_dict())
