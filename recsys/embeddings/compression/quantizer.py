"""Product quantization that is learned: what `DPQ` and `MGQE` share.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.embeddings.compression.budget import fit, full_bytes, smaller_of
from recsys.embeddings.compression.codes import Codes, check_parts, code_bits, pack, packed_width
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme, Successor, Trained
from recsys.layers.initialization import normal_
from recsys.schema import PAD_INDEX, Init, TableSpec

Mode = Literal["vq", "sx"]
_CHUNK = 1 << 22  # scores of one call when codes are made
_IN_CACHE = 1 << 16  # scores at a time


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a quantized table consists of; the fields are those of `Codes`."""

    parts: int
    centroids: int
    hot_rows: int | None = None
    rare_centroids: int | None = None

    def codes(self) -> Codes:
        """The frozen form."""
        return Codes(
            num_parts=self.parts,
            num_centroids=self.centroids,
            hot_rows=self.hot_rows,
            rare_centroids=self.rare_centroids,
        )

    def bytes(self, table: TableSpec) -> tuple[int, float]:
        """Of the frozen table, and bits of codes an id.

        Args:
            table: Logical.
        """
        ids, dim = table.num_embeddings - 1, table.embedding_dim
        hot = ids if self.hot_rows is None else min(self.hot_rows, ids)
        rare = self.rare_centroids or self.centroids
        size = hot * packed_width(self.parts, self.centroids)
        size += (ids - hot) * packed_width(self.parts, rare)
        bits = self.parts * (hot * code_bits(self.centroids) + (ids - hot) * code_bits(rare))
        return size + 4 * dim // self.parts * (1 + self.parts * self.centroids), bits / max(ids, 1)


class Quantizer(Decoder):
    """The centroid that is nearest to each part of a query (vq), or answers it best (sx).

        vq: code_p = argmin_k |q_p - c_pk|^2      e_p = c_p,code
        sx: code_p = argmax_k q_p . k_pk          e_p = v_p,code

    While training, vq passes the gradient of e on to q (straight-through) and adds
    ``weight mean |c_p,code - stop(q_p)|^2`` to the loss, which is all that moves centroids. sx has
    the gradient of the softmax over k. In evaluation the codes alone count; their scores are added
    up in one order whatever the batch is, so that frozen codes are the same bit by bit.

    Args:
        dim: Width.
        sizes: Parts and centroids.
        mode: How a centroid is chosen.
        weight: Of the loss of vq.
        std: Of start values of what is decoded.

    Shape:
        - queries: (L, D)
        - indices: (L,) int32
        - output: (L, D)
    """

    linear = False

    def __init__(self, dim: int, sizes: Sizes, mode: Mode, weight: float, std: float) -> None:
        super().__init__()
        self._mode: Mode = mode
        self._sizes, self._weight, self._std = sizes, weight, std
        shape = (sizes.parts, sizes.centroids, dim // sizes.parts)
        self.keys = nn.Parameter(torch.empty(shape))
        self.values: nn.Parameter | None = None
        if mode == "sx":
            self.values = nn.Parameter(torch.empty(shape))
        self._loss: Tensor | None = None

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws centroids."""
        normal_(self.keys, query_std(self._mode, self._std, self.keys.shape[2]), generator)
        if self.values is not None:
            normal_(self.values, self._std, generator)

    @property
    def codebooks(self) -> Tensor:
        """What is decoded, (P, K, D / P)."""
        return self.keys if self.values is None else self.values

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One vector an index."""
        assert indices is not None
        queries = self._parts(probes[0])
        if not (self.training and torch.is_grad_enabled()):
            decoded = self._chosen(self.codes(probes[0], indices))
        elif self._mode == "vq":
            decoded = self._straight_through(queries, indices)
        else:
            logits = self._limit(torch.bmm(queries, self.keys.transpose(1, 2)), indices)
            soft = logits.softmax(2)
            hard = torch.zeros_like(soft).scatter_(2, logits.argmax(2, keepdim=True), 1.0)
            decoded = torch.bmm(hard - soft.detach() + soft, self.codebooks)
        return decoded.transpose(0, 1).reshape(probes[0].shape)

    def codes(self, queries: Tensor, indices: Tensor) -> Tensor:
        """The codes (P, L) int64 of queries (L, D), the same in every batch."""
        step = max(1, _IN_CACHE // (self.keys.shape[0] * self.keys.shape[1]))
        with torch.no_grad():
            blocks = zip(queries.split(step), indices.split(step))
            found = [self._limit(self._scores(*block), block[1]).argmax(2) for block in blocks]
        shape = (self.keys.shape[0], 0)
        return torch.cat(found, 1) if found else indices.new_zeros(shape, dtype=torch.int64)

    def _scores(self, queries: Tensor, indices: Tensor) -> Tensor:
        """Scores (P, L, K), added up column by column."""
        # Not a matrix product: its rounding depends on the shape, and codes near a tie with it.
        parts = self._parts(queries)
        total = queries.new_zeros(parts.shape[0], indices.shape[0], self.keys.shape[1])
        for column in range(self.keys.shape[2]):
            one, other = parts[:, :, column, None], self.keys[:, None, :, column]
            if self._mode == "vq":
                term = one - other
                total.sub_(term.mul_(term))
            else:
                total.add_(one * other)
        return total

    def aux_loss(self) -> Tensor | None:
        """Of all calls since it was last asked."""
        loss, self._loss = self._loss, None
        return loss

    def _straight_through(self, queries: Tensor, indices: Tensor) -> Tensor:
        with torch.no_grad():
            half = (self.keys**2).sum(2).unsqueeze(1) / 2
            scores = torch.bmm(queries, self.keys.transpose(1, 2)) - half
            codes = self._limit(scores, indices).argmax(2)
        chosen = self._chosen(codes)
        real = (indices != PAD_INDEX).to(queries.dtype)
        errors = ((chosen - queries.detach()) ** 2).mean((0, 2))
        loss = self._weight * (errors * real).sum() / real.sum().clamp(min=1)
        self._loss = loss if self._loss is None else self._loss + loss
        return queries + (chosen - queries).detach()

    def _parts(self, queries: Tensor) -> Tensor:
        """(L, D) to (P, L, D / P)."""
        sizes = self.keys.shape
        return queries.view(queries.shape[0], sizes[0], sizes[2]).transpose(0, 1)

    def _chosen(self, codes: Tensor) -> Tensor:
        """Codes (P, L) to centroids (P, L, D / P)."""
        return self.codebooks.gather(1, codes.unsqueeze(2).expand(-1, -1, self.keys.shape[2]))

    def _limit(self, scores: Tensor, indices: Tensor) -> Tensor:
        """Leaves rare indices the first centroids only."""
        hot, few = self._sizes.hot_rows, self._sizes.rare_centroids
        if hot is None or few is None:
            return scores
        late = torch.arange(scores.shape[2], device=scores.device) >= few
        return scores.masked_fill((indices > hot).unsqueeze(1) & late, -torch.inf)


def query_std(mode: Mode, std: float, width: int) -> float:
    """Standard deviation of start values of queries and keys.

    Args:
        mode: Queries of vq are as large as what is decoded; scores of sx start with variance 1.
        std: Of what is decoded.
        width: Of a part.
    """
    return std if mode == "vq" else width**-0.25


def quantized_part(table: TableSpec, sizes: Sizes, mode: Mode, weight: float) -> Part:
    """A table of queries before a quantizer.

    Args:
        table: Logical.
        sizes: Parts and centroids.
        mode: See `Quantizer`.
        weight: See `Quantizer`.
    """
    check_parts("dpq", table, sizes.parts)
    width, std = table.embedding_dim // sizes.parts, table.init.std
    init = Init(kind="normal", std=query_std(mode, std, width))
    queries = table.model_copy(update={"name": f"{table.name}@queries", "init": init})
    quantizer = Quantizer(table.embedding_dim, sizes, mode, weight, std)
    return Part((queries,), Encoder(), quantizer)


def frozen_codes(trained: Trained, sizes: Sizes) -> Successor:
    """Codes and codebooks of a trained table.

    Args:
        trained: Made by `quantized_part`.
        sizes: Of it.
    """
    quantizer, queries = trained.part.decoder, trained.probes[0]
    assert isinstance(quantizer, Quantizer)
    rows, parts = queries.shape[0], sizes.parts
    hot = rows - 1 if sizes.hot_rows is None else min(sizes.hot_rows, rows - 1)
    step, state = max(1, _CHUNK // (parts * sizes.centroids)), {}
    for name, first, last, values in (
        ("hot", 1, 1 + hot, sizes.centroids),
        ("rare", 1 + hot, rows, sizes.rare_centroids or sizes.centroids),
    ):
        width = packed_width(parts, values)
        packed = torch.empty(last - first, width, dtype=torch.uint8, device=queries.device)
        for begin in range(first, last, step):
            end = min(begin + step, last)
            indices = torch.arange(begin, end, device=queries.device)
            codes = quantizer.codes(queries[begin:end], indices).transpose(0, 1)
            packed[begin - first : end - first] = pack(codes, values)
        state[name] = packed
    books = quantizer.codebooks.detach().reshape(-1, queries.shape[1] // parts)
    table = torch.cat([torch.zeros_like(books[:1]), books])
    return Successor(sizes.codes(), (table,) * parts, state, None)


def plan_codes(
    kind: str,
    tables: Sequence[TableSpec],
    budget: int | None,
    options: Callable[[TableSpec], list[Sizes]],
    resolved: Callable[[Sizes], Scheme],
) -> dict[str, Scheme]:
    """Gives every table the longest codes that its share of a budget allows.

    Among codes of one length those of larger codebooks come first: fewer, larger parts lose less.

    Args:
        kind: Of the scheme, for errors.
        tables: Of one group.
        budget: Most bytes; None takes the first option.
        options: What a table may be made of.
        resolved: Writes sizes into the scheme.
    """
    choices = {table.name: options(table) for table in tables}
    if budget is None:
        return {t.name: smaller_of(t, resolved(choices[t.name][0])) for t in tables}
    sized = {t.name: [(*s.bytes(t), s) for s in choices[t.name]] for t in tables}

    def at(share: float) -> dict[str, Scheme]:
        plan = {}
        for table in tables:
            mine = sized[table.name]
            fitting = [one for one in mine if one[0] <= share * full_bytes([table])]
            if fitting:
                best = max(fitting, key=lambda one: (one[1], one[2].centroids, -one[0]))
            else:
                best = min(mine, key=lambda one: one[0])
            plan[table.name] = smaller_of(table, resolved(best[2]))
        return plan

    return fit(kind, tables, budget, at)


def part_options(dim: int, parts: int | None, preferred: int) -> list[int]:
    """Numbers of parts to choose from, the preferred one first.

    Args:
        dim: Width.
        parts: The only one, where stated.
        preferred: Taken where it divides the width, else the next smaller that does.
    """
    if parts is not None:
        return [parts]
    divisors = [count for count in range(1, dim + 1) if dim % count == 0]
    first = max(count for count in divisors if count <= preferred)
    return [first, *(count for count in divisors if count != first)]


def centroid_options(rows: int, centroids: int | None, preferred: int) -> list[int]:
    """Sizes of codebooks to choose from, the preferred one first; none larger than the table.

    Args:
        rows: Of the table.
        centroids: The only one, where stated.
        preferred: Taken where the table is large enough.
    """
    if centroids is not None:
        return [centroids]
    sizes = [1 << bits for bits in range(1, 9) if 1 << bits <= max(2, rows)]
    first = max(size for size in sizes if size <= preferred)
    return [first, *(size for size in sizes if size != first)]
