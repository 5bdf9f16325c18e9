"""MPE: the number of bits of every frequency group is learned.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed, fit, smaller_of
from recsys.embeddings.compression.fake_quantization import (
    BlockQuantized,
    Levels,
)
from recsys.embeddings.compression.grid import Block, Grid, block_rows, packed_bytes
from recsys.embeddings.compression.measured_widths import Choice, Measured
from recsys.embeddings.compression.qat import block_state
from recsys.embeddings.scheme import (
    Dtype,
    Encoder,
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

_STEP_BYTES = 4  # of a block


def group_rows(count: int, groups: int) -> list[int]:
    """Sizes of frequency groups: their ends grow geometrically, so the first are small.

    Args:
        count: Indices, PAD left out.
        groups: At most so many.

    Example:
        >>> group_rows(1000, 3), group_rows(2, 5)
        ([10, 90, 900], [1, 1])
    """
    ends = sorted({max(1, round(count ** (k / groups))) for k in range(1, groups + 1)})
    return [end - begin for begin, end in zip([0, *ends], ends)]


def allocate(
    sizes: Sequence[int],
    dim: int,
    candidates: Sequence[Choice],
    scores: Sequence[Sequence[float]],
    budget: int,
) -> list[tuple[int, int, Choice]]:
    """Bits for every group: the best ones, changed as little as a budget asks.

    While the groups are too large, the move to fewer bits that loses least score a byte is made.
    While there is room, the move to more bits that loses least (or gains most) a byte is made;
    where it does not fit whole, only the more frequent part of its group makes it.

    Args:
        sizes: Indices in every group.
        dim: Width.
        candidates: Rising.
        scores: Of every candidate of every group, the higher the better.
        budget: Most bytes of codes and steps.

    Returns:
        Group, rows and bits of every block, in index order.
    """
    chosen = [max(range(len(candidates)), key=lambda j: row[j]) for row in scores]
    room = budget - _STEP_BYTES * (len(sizes) + 1)  # one more for a group in two parts

    def size(group: int, choice: int) -> int:
        return packed_bytes(sizes[group], dim, candidates[choice])

    def cost(group: int, to: int) -> float:
        lost = scores[group][chosen[group]] - scores[group][to]
        return lost / max(1, abs(size(group, to) - size(group, chosen[group])))

    used = sum(size(group, choice) for group, choice in enumerate(chosen))
    while used > room:
        lower = [group for group, choice in enumerate(chosen) if choice > 0]
        if not lower:
            break
        # Ties: the rarest group first.
        group = min(lower, key=lambda g: (cost(g, chosen[g] - 1), -g))
        used -= size(group, chosen[group]) - size(group, chosen[group] - 1)
        chosen[group] -= 1
    while used < room:
        upper = [group for group, choice in enumerate(chosen) if choice + 1 < len(candidates)]
        if not upper:
            break
        group = min(upper, key=lambda g: (cost(g, chosen[g] + 1), g))
        more = size(group, chosen[group] + 1) - size(group, chosen[group])
        if used + more > room:
            low, high = candidates[chosen[group]], candidates[chosen[group] + 1]
            part = min((room - used) * 8 // (dim * (high - low)), sizes[group] - 1)
            # Two parts may each end with a byte that is not full.
            while part > 0 and (
                packed_bytes(part, dim, high) + packed_bytes(sizes[group] - part, dim, low)
                > room - used + size(group, chosen[group])
            ):
                part -= 1
            return _blocks(sizes, candidates, chosen, group, part)
        used, chosen[group] = used + more, chosen[group] + 1
    return _blocks(sizes, candidates, chosen)


def _blocks(
    sizes: Sequence[int],
    candidates: Sequence[Choice],
    chosen: Sequence[int],
    split: int = -1,
    part: int = 0,
) -> list[tuple[int, int, Choice]]:
    """Blocks of the choices, one group's first part with one choice more."""
    found: list[tuple[int, int, Choice]] = []
    for group, (rows, choice) in enumerate(zip(sizes, chosen)):
        more = part if group == split else 0
        if more:
            found.append((group, more, candidates[choice + 1]))
        found.append((group, rows - more, candidates[choice]))
    return found


class MixedPrecision(Scheme):
    """Searches the bits of every frequency group, 0 included, then trains rows of these bits.

    Indices are in frequency order, so a group is a range of them; ends of groups grow
    geometrically. Phase ``search`` trains rows of the widest candidate; every
    ``architecture_every``-th batch is held out and measures what each width would cost each group
    (`Cost`). Then bits are taken where they cost least a byte, until the budget fits (`allocate`);
    one group may be cut in two, so that the budget is used. Phase ``retrain`` goes on from the
    searched rows with `BlockQuantized`. Rows with 0 bits are zero vectors and are not stored.

    Memory: sum over groups of ``rows D bits / 8``, plus 4 bytes a group. In training ``4 n D``.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> scheme = MixedPrecision(groups=3).plan([table], budget=2000)["user"]
        >>> [phase.name for phase in scheme.phases()]
        ['search', 'retrain']

    Source:
        "Mixed-Precision Embeddings for Large-Scale Recommendation Models", arXiv 2409.20305:
        frequency groups, a search of widths, retraining. Known to us from its abstract and
        summaries, so details are ours: candidates 0, 2, 4, 8 (what packs into bytes), groups by
        table, each table with the same share of the budget, learned steps as in `QAT`. There,
        widths have a learned distribution; here their cost is measured, by the diagonal of the
        empirical Fisher matrix. (A mixture of all widths, trained by gradients, was tried: it
        learns how long vectors should be, and 0 and 8 bits came out as by lot.)
    """

    narrow: ClassVar[bool] = True
    kind: Literal["mixed_precision"] = "mixed_precision"
    """Name in configurations."""
    groups: int = Field(default=12, ge=1)
    """Frequency groups a table."""
    candidates: tuple[Choice, ...] = Field(default=(0, 2, 4, 8), min_length=1)
    """Widths to choose from, rising."""
    bits: float | None = Field(default=None, gt=0, le=8)
    """Mean bits a number; None is set by the budget."""
    period: int = Field(default=200, ge=1)
    """Steps between two looks at the sizes of a whole table's rows."""
    architecture_every: int = Field(default=5, ge=2)
    """Every so many batches one measures costs and trains nothing."""
    search_epochs: float = Field(default=1.0, gt=0)
    """Length of the search, as a share of ``train.num_epochs``."""
    blocks: tuple[Block, ...] | None = None
    """What is stored: an allocation of the planned size before the search, then the one found.
    Written by recsys."""
    searched: bool = False
    """Whether ``blocks`` were found. Written by recsys."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The same mean bits for all tables."""
        if self.blocks is not None:
            fixed: dict[str, Scheme] = {table.name: self for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        if budget is None or self.bits is not None:
            self.need(bits=self.bits)
            assert self.bits is not None
            return check_fixed(self.kind, tables, budget, self._at(tables, self.bits))
        widest = max(self.candidates)
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share * widest))

    def _at(self, tables: Sequence[TableSpec], bits: float) -> dict[str, Scheme]:
        """The plan with so many mean bits."""
        plan: dict[str, Scheme] = {}
        for table in tables:
            sizes = group_rows(table.num_embeddings - 1, self.groups)
            even = [[0.0] * len(self.candidates)] * len(sizes)
            numbers = (table.num_embeddings - 1) * table.embedding_dim
            budget = math.ceil(numbers * bits / 8) + _STEP_BYTES * (len(sizes) + 1)
            blocks = self._found(table, even, budget)[0].blocks or ()
            # The step of a group that the search may cut in two is counted from the start.
            spare = (Block(bits=0, rows=0),) * (len(sizes) + 1 - len(blocks))
            scheme = self.model_copy(update={"blocks": (*blocks, *spare)})
            plan[table.name] = smaller_of(table, scheme)
        return plan

    def _found(
        self, table: TableSpec, scores: Sequence[Sequence[float]], budget: int
    ) -> tuple[MixedPrecision, list[int]]:
        """The scheme of an allocation, and the group of every block."""
        sizes = group_rows(table.num_embeddings - 1, self.groups)
        found = allocate(sizes, table.embedding_dim, self.candidates, scores, budget)
        blocks = tuple(Block(bits=bits, rows=rows) for _, rows, bits in found)
        scheme = self.model_copy(update={"blocks": blocks, "searched": True})
        return scheme, [group for group, _, _ in found]

    def _stored(self, table: TableSpec) -> tuple[list[int], int]:
        """Rows of the blocks, and bytes of their codes and steps."""
        self.need(blocks=self.blocks)
        assert self.blocks is not None
        rows = block_rows(self.blocks, table)
        codes = sum(
            packed_bytes(count, table.embedding_dim, block.bits)
            for count, block in zip(rows, self.blocks)
        )
        return rows, codes + _STEP_BYTES * len(rows)

    def part(self, table: TableSpec) -> Part:
        """Float rows, and a decoder that mixes or rounds them."""
        rows, _ = self._stored(table)
        assert self.blocks is not None
        probe = table.model_copy(update={"name": f"{table.name}@mpe"})
        if self.searched:
            bits = [block.bits for block in self.blocks]
            decoder: Levels = BlockQuantized(table, rows, bits, learned=True, period=self.period)
        else:
            sizes = group_rows(table.num_embeddings - 1, self.groups)
            decoder = Measured(table, sizes, self.candidates, self.period)
        return Part((probe,), Encoder(), decoder, adapter=decoder)

    def phases(self) -> tuple[Phase, ...]:
        """Search and retrain; only one where the bits are known."""
        if self.searched:
            return (Phase("train"),)
        search = Phase(
            "search",
            trains_architecture=True,
            architecture_every=self.architecture_every,
            architecture_learning_rate=1.0,
            epochs=self.search_epochs,
        )
        return (search, Phase("retrain"))

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """The bits that cost least within the budget, with the searched rows."""
        found: dict[str, Successor] = {}
        for name, table in trained.items():
            scheme, measured = table.scheme, table.part.decoder
            if not isinstance(scheme, MixedPrecision) or not isinstance(measured, Measured):
                found[name] = successor_as_is(table)
                continue
            scores = measured.alpha.detach().double().tolist()
            _, planned = scheme._stored(table.table)
            after, groups = scheme._found(table.table, scores, planned)
            assert after.blocks is not None
            places = [scheme.candidates.index(_choice(block)) for block in after.blocks]
            state = {
                "level": measured.level[groups].clone(),
                "seen": measured.seen.clone(),
                "log_factor": measured.log_factor.detach()[groups, places].clone(),
            }
            found[name] = Successor(after, table.probes, decoder=state)
            parts = ", ".join(f"{block.rows} x {block.bits}" for block in after.blocks)
            context.say(f"{name}: rows x bits by frequency: {parts}")
        return found

    def frozen(self, trained: Trained) -> Successor:
        """The codes that the forward rounds to, packed."""
        decoder = trained.part.decoder
        if not isinstance(decoder, BlockQuantized):
            raise ConfigError(
                f"table `{trained.table.name}`: the search of `{self.kind}` has ended in no widths "
                "yet. Train all phases, then freeze."
            )
        scheme = self.frozen_scheme()
        return Successor(scheme, decoder=block_state(decoder, trained, scheme.blocks))

    def frozen_scheme(self) -> Grid:
        """A grid of the same blocks."""
        self.need(blocks=self.blocks)
        assert self.blocks is not None
        return Grid(blocks=self.blocks)

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows keep their own width."""
        self.frozen_scheme().check_dtype(dtype)


def _choice(block: Block) -> Choice:
    assert block.bits != 16
    return block.bits
