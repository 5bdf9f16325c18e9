"""OptEmbed: which rows of a table are needed, and how wide each table has to be.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings import start_values
from recsys.embeddings.compression.budget import (
    check_fixed,
    fit,
    planned_bytes,
    search_first,
    smaller_of,
)
from recsys.embeddings.compression.evolution import Evolution
from recsys.embeddings.compression.opt_embed_supernet import Supernet
from recsys.embeddings.compression.ranked import BitSet, ListSet, kept_rows, kept_rows_bytes
from recsys.embeddings.scheme import (
    Decoder,
    Encoder,
    Full,
    Part,
    Phase,
    Scheme,
    SearchContext,
    Successor,
    Trained,
    successor_as_is,
)
from recsys.errors import ConfigError
from recsys.schema import TableSpec


class KeptRows(Encoder):
    """Indices to the rows that stayed; pruned ones to PAD. Starts with the most frequent ids.

    Args:
        rows: Of the logical table.
        kept: How many stay.

    Shape:
        - as `Encoder`
    """

    def __init__(self, rows: int, kept: int) -> None:
        super().__init__()
        smaller = kept_rows(rows, kept)
        self.rows = _FirstBits(rows, kept) if isinstance(smaller, BitSet) else _FirstList(kept)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """1 + position among the kept rows, or 0."""
        return (self.rows(indices).int(),)


class _FirstBits(BitSet):
    def __init__(self, universe: int, count: int) -> None:
        super().__init__(universe)
        self.count = count

    def initialize(self, generator: torch.Generator | None = None) -> None:
        super().initialize(generator)
        if not self.words.is_meta:
            self.fill(torch.arange(1, self.count + 1, device=self.words.device))


class _FirstList(ListSet):
    def initialize(self, generator: torch.Generator | None = None) -> None:
        super().initialize(generator)
        if not self.members.is_meta:
            count = self.members.shape[0]
            self.fill(torch.arange(1, count, device=self.members.device))


class Widen(Decoder):
    """Zeros behind narrow rows.

    Args:
        narrow: d.
        wide: D.

    Shape:
        - as `Decoder`, one probe
    """

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.missing = wide - narrow

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Padded on the right."""
        return nn.functional.pad(probes[0], (0, self.missing))


class OptEmbed(Scheme):
    """Learns which rows to keep and how wide each table is, then trains what is left anew.

    Phase ``supernet`` trains a full table whose rows must exceed a learned threshold of their
    table (`Supernet`), with a random number of leading columns at every look-up. Then evolution
    searches a width for every table: the validation AUC of the trained supernet is the fitness.
    Phase ``retrain`` trains the kept rows in their widths, from their start values.

    Under a budget rows go, those least above their table's threshold first, until the rest fits
    at some width: half of the width, a quarter, and so on to 1, or all of it. The validation
    metric of the supernet chooses among these. Evolution then shares the bytes out over widths.

    Memory: ``4 (k + 1) d`` bytes a table of k kept rows of width d, and where rows were pruned
    ``min(10 W + 4 ceil(W / 512), 4 (k + 1))`` for the set of kept rows, ``W = ceil(n / 64)``. The
    supernet is as large as the full table.

    Source:
        Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate
        Prediction", CIKM 2022, sections 3.1 to 3.4. Different: every look-up draws its width, so
        the indices of one bag differ; the budget; rows are removed, not masked; the elite of a
        generation survives it and mutation leaves its parents alone (the authors' code changes
        them). Thresholds have plain SGD as there, with a larger step: sparse optimizers do not
        decay rows that are never seen.
    """

    kind: Literal["opt_embed"] = "opt_embed"
    """Name in configurations."""
    rows: bool = True
    """Whether rows are pruned. Off: only a width a table."""
    alpha: float = Field(default=1e-3, ge=0)
    """Weight of the loss that raises the thresholds."""
    threshold_learning_rate: float = Field(default=0.1, gt=0)
    """Of SGD on the thresholds."""
    evolution: Evolution = Evolution()
    """How widths are searched; it takes about ``generations * (mutations + crossovers)`` passes
    over the validation split."""
    supernet_epochs: float = Field(default=1.0, gt=0)
    """Length of the first phase, as a share of ``train.num_epochs``."""
    num_rows: int | None = Field(default=None, ge=0)
    """Rows that are kept; None is learned."""
    width: int | None = Field(default=None, ge=1)
    """Width of the rows; None is searched."""
    expected: tuple[int, int] | None = None
    """Rows and width for which bytes are counted before the search. Written by recsys."""
    budget: int | None = Field(default=None, ge=0)
    """Most bytes of all searched tables together. Written by recsys."""

    # ------------------------------------------------------------------------------- planning

    @property
    def found(self) -> bool:
        """Whether the search is over."""
        return self.num_rows is not None and self.width is not None

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Tables to search; rows are expected to take the budget, or widths without pruning."""
        if self.found or (self.num_rows, self.width) != (None, None):
            self.need(num_rows=self.num_rows, width=self.width)
            fixed = {table.name: smaller_of(table, self) for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        if budget is None:
            return self._at(tables, 1.0)
        plan = fit(self.kind, tables, budget, lambda share: self._at(tables, share))
        if not self.rows:
            plan = self._widened(tables, plan, budget)
        return {name: s.model_copy(update={"budget": budget}) for name, s in plan.items()}

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        """The plan that expects this share of the rows, or of the columns."""
        plan: dict[str, Scheme] = {}
        for table in tables:
            most, wide = table.num_embeddings - 1, table.embedding_dim
            expected = (most, max(1, int(share * wide)))
            if self.rows:
                expected = (max(1, int(share * most)), wide)
            plan[table.name] = self.model_copy(update={"expected": expected})
        return plan

    def _widened(
        self, tables: Sequence[TableSpec], plan: dict[str, Scheme], budget: int
    ) -> dict[str, Scheme]:
        """More columns for tables that still fit, the largest first."""
        left = budget - planned_bytes(tables, plan)
        for table in sorted(tables, key=lambda table: -table.num_embeddings):
            scheme, column = plan[table.name], 4 * table.num_embeddings
            assert isinstance(scheme, OptEmbed) and scheme.expected is not None
            kept, width = scheme.expected
            more = min(table.embedding_dim - width, left // column)
            left -= more * column
            update = {"expected": (kept, width + more)}
            plan[table.name] = scheme.model_copy(update=update)
        return plan

    def final(self, table: TableSpec, kept: int, width: int) -> Scheme:
        """The scheme of a searched table.

        Args:
            table: Which.
            kept: Rows, PAD left out.
            width: Of them.
        """
        update = {"num_rows": kept, "width": width, "expected": None, "budget": None}
        return smaller_of(table, self.model_copy(update=update))

    def frozen(self, trained: Trained) -> Successor:
        """The kept rows, as they are."""
        if not self.found:
            raise search_first(self.kind, trained.table)
        return successor_as_is(trained)

    def frozen_scheme(self) -> Scheme:
        """That of the expected rows and width."""
        if self.found or self.expected is None:
            return self
        kept, width = self.expected
        update = {"num_rows": kept, "width": width, "expected": None, "budget": None}
        return self.model_copy(update=update)

    # ------------------------------------------------------------------------------- tables

    def part(self, table: TableSpec) -> Part:
        """The supernet, or a table of the kept rows and columns."""
        wide, most = table.embedding_dim, table.num_embeddings - 1
        if self.num_rows is None or self.width is None:
            decoder = Supernet(wide, self.alpha, self.threshold_learning_rate, self.rows)
            probe = table.model_copy(update={"name": f"{table.name}@supernet"})
            return Part((probe,), Encoder(), decoder, decoder)
        if self.num_rows > most or self.width > wide:
            raise ConfigError(
                f"scheme `{self.kind}`, table `{table.name}`: expected at most {most} rows of "
                f"width {wide}, got num_rows={self.num_rows} and width={self.width}. Lower them."
            )
        name, size = f"{table.name}@kept", self.num_rows + 1
        update = {"name": name, "num_embeddings": size, "embedding_dim": self.width}
        encoder = Encoder() if self.num_rows == most else KeptRows(most + 1, self.num_rows)
        decoder = Decoder() if self.width == wide else Widen(self.width, wide)
        return Part((table.model_copy(update=update),), encoder, decoder)

    def phases(self) -> tuple[Phase, ...]:
        """Supernet and retrain; only one where rows and width are stated."""
        if self.found:
            return (Phase("train"),)
        return (Phase("supernet", epochs=self.supernet_epochs), Phase("retrain", start="initial"))

    # ------------------------------------------------------------------------------- search

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """The kept rows of every table, in its best width, at their start values."""
        del phase
        searched = {name: table for name, table in trained.items() if _supernet(table) is not None}
        margins = {name: _margin(table) for name, table in searched.items()}
        groups: dict[tuple[str, int], list[str]] = {}
        for name, table in searched.items():
            assert isinstance(table.scheme, OptEmbed)
            if table.scheme.budget is not None:
                group = name.partition(".")[0], table.scheme.budget
                groups.setdefault(group, []).append(name)
        for (_, budget), names in groups.items():
            _prune(budget, {name: (searched[name], margins[name]) for name in names}, context)
        kept = {name: int((margin > 0).sum()) for name, margin in margins.items()}
        for name, count in kept.items():
            context.say(f"{name}: {count:,} of {margins[name].shape[0] - 1:,} rows")

        def size(name: str, width: int) -> int:
            table = searched[name].table
            return planned_bytes([table], {table.name: self.final(table, kept[name], width)})

        widths = self._search(searched, groups, size, context)
        found = {n: successor_as_is(table) for n, table in trained.items() if n not in searched}
        for name, table in searched.items():
            rows = (margins[name] > 0).nonzero().squeeze(1)
            found[name] = _retrained(name, table, rows, widths[name], context.seed)
        return found

    def _search(
        self,
        searched: Mapping[str, Trained],
        groups: Mapping[tuple[str, int], Sequence[str]],
        size: Callable[[str, int], int],
        context: SearchContext,
    ) -> dict[str, int]:
        """The best width of every table."""
        names = list(searched)
        limits = [searched[name].table.embedding_dim for name in names]
        bytes_ = [[size(n, d) for d in range(1, most + 1)] for n, most in zip(names, limits)]
        budgets = [
            (budget, [names.index(name) for name in members])
            for (_, budget), members in groups.items()
        ]

        def fits(widths: Sequence[int]) -> bool:
            return all(
                sum(bytes_[i][widths[i] - 1] for i in members) <= budget
                for budget, members in budgets
            )

        def fitness(widths: Sequence[int]) -> float:
            for name, width in zip(names, widths):
                supernet = _supernet(searched[name])
                assert supernet is not None
                supernet.width.fill_(width)
            return context.validate()

        best = self.evolution.run(limits, fitness, fits, context.seed, context.say)
        return dict(zip(names, best))


def _supernet(trained: Trained) -> Supernet | None:
    decoder = trained.part.decoder
    return decoder if isinstance(decoder, Supernet) else None


def _margin(trained: Trained) -> Tensor:
    """Above 0 for rows that stay."""
    supernet = _supernet(trained)
    assert supernet is not None
    return supernet.margin(trained.probes[0])


def _prune(
    budget: int, tables: Mapping[str, tuple[Trained, Tensor]], context: SearchContext
) -> None:
    """Raises all thresholds by one number, so that the rest fits a budget at some width.

    Args:
        budget: Most bytes.
        tables: With the margins of their rows, which are lowered by that number.
        context: Judges the widths.
    """
    if not all(margin.isfinite().any() for _, margin in tables.values()):
        return  # rows are not pruned
    width = max(trained.table.embedding_dim for trained, _ in tables.values())
    offsets = {width: _offset(budget, tables, width)}
    while width > 1 and offsets[width] > 0:
        width = -(-width // 2)
        offsets[width] = _offset(budget, tables, width)
    applied, scores = 0.0, {}
    for width, offset in offsets.items():
        applied = _apply(tables, width, offset - applied, offset)
        scores[width] = context.validate() if len(offsets) > 1 else 0.0
        if len(offsets) > 1:
            kept = sum(int((margin > offset).sum()) for _, margin in tables.values())
            context.say(f"search: {kept:,} rows of width {width}: {scores[width]:.5f}")
    best = max(scores, key=lambda width: (scores[width], -width))
    _apply(tables, best, offsets[best] - applied, offsets[best])
    for _, margin in tables.values():
        margin -= offsets[best]


def _apply(
    tables: Mapping[str, tuple[Trained, Tensor]], width: int, raised: float, offset: float
) -> float:
    """Sets the supernets to a width and higher thresholds; returns the offset."""
    for trained, _ in tables.values():
        supernet = _supernet(trained)
        assert supernet is not None
        supernet.raise_threshold(raised)
        supernet.width.fill_(min(width, trained.table.embedding_dim))
    return offset


def _offset(budget: int, tables: Mapping[str, tuple[Trained, Tensor]], width: int) -> float:
    """By how much thresholds must rise until rows of a width fit a budget."""

    def bytes_at(offset: float) -> int:
        total = 0
        for trained, margin in tables.values():
            kept = (margin > offset).sum()
            index = kept_rows_bytes(margin.shape[0], kept.cpu())
            whole = int(kept) == margin.shape[0] - 1
            row = 4 * min(width, trained.table.embedding_dim)
            total += row * (int(kept) + 1) + (0 if whole else int(index))
        return total

    if bytes_at(0.0) <= budget:
        return 0.0
    low, high = 0.0, max(float(margin.max()) for _, margin in tables.values())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if bytes_at(middle) <= budget else (middle, high)
    return high


def _retrained(name: str, trained: Trained, rows: Tensor, width: int, seed: int) -> Successor:
    """Start values of the kept rows and columns: those that the supernet started with."""
    table, scheme, probe = trained.table, trained.scheme, trained.part.probes[0]
    assert isinstance(scheme, OptEmbed)
    final = scheme.final(table, rows.shape[0], width)
    weight = torch.empty(table.num_embeddings, table.embedding_dim)
    start_values.fill(weight, probe.init, seed, (name.partition(".")[0], probe.name))
    if isinstance(final, Full):
        return Successor(final, (weight,))
    encoder = final.part(table).encoder
    if not isinstance(encoder, KeptRows):
        return Successor(final, (weight[:, :width],))
    rows = rows.cpu()
    encoder.rows.fill(rows)
    kept = torch.cat([weight[:1], weight[rows]])[:, :width].contiguous()
    return Successor(final, (kept,), encoder.state_dict())
