"""ROBE: vectors are put together of blocks of one array.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.budget import check_fixed, full_bytes
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.multiplex import fit_share, keep_full
from recsys.embeddings.compression.shared_table import (
    by_start,
    half_width,
    share_out,
    side_by_side,
)
from recsys.embeddings.scheme import Decoder, Encoder, Full, Part, Scheme
from recsys.errors import ConfigError
from recsys.hashing import hash_strings, splitmix64
from recsys.schema import PAD_INDEX, TableSpec

_WORD = 64
_MOST = (1 << 31) - 2


class ROBE(Scheme):
    """Random offset block embeddings: one array A of |M| = ``num_blocks block`` floats.

        e_t(x)[i] = g(x, i; t) A[(h(x, i // Z; t) + i mod Z) mod |M|],   Z = ``block``

    with signs g in {-1, +1}. The array is held as a table of blocks. ``aligned`` offsets are whole
    blocks, so every piece of a vector is one row. Others are any position: a piece is cut out of
    two rows that follow each other (the first block follows the last).

    Memory: ``4 (num_blocks + 1) Z`` bytes for all tables (row 0 is PAD), and in each table 8 bytes
    a salt: ``ceil(D / Z)`` for the offsets (twice if not aligned, since the decoder hashes too) and
    ``ceil(D / 64)`` for the signs.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=16,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 1000), ("item", 600))]
        >>> plan = ROBE().plan(tables, budget=10_000)
        >>> plan["user"].block, plan["user"].num_blocks
        (8, 310)

    Source:
        Desai, Chou, Shrivastava, "Random Offset Block Embedding (ROBE) for Compressed Embedding
        Tables in Deep Learning Recommendation Systems", MLSys 2022, Section 3. There |M| need not
        be a multiple of Z. Optimizers that keep one state a row keep it for a block of Z floats.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["robe"] = "robe"
    """Name in configurations."""
    block: int | None = Field(default=None, ge=1)
    """Floats that are read in one piece; at most the widest table's width. None: half of that,
    rounded up to a multiple of 4."""
    num_blocks: int | None = Field(default=None, ge=1)
    """Length of the array in blocks; None is set by the budget."""
    aligned: bool = True
    """Pieces start at whole blocks. False reads twice as many rows and mixes floats more."""
    sign: bool = True
    """Multiply by hashed signs, so that colliding gradients cancel on average. False makes the
    aligned form linear in the rows, which is faster."""
    multiplex: bool = True
    """One array for all tables; False gives each its own."""
    pool: int = Field(default=0, ge=0)
    """Which shared array: tables that start differently (`TableSpec.init`) cannot share one. Set
    by the plan."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The longest array that fits; everything in `Full` where that fits."""
        if budget is None:
            self.need(num_blocks=self.num_blocks)
        elif self.num_blocks is None and full_bytes(tables) <= budget:
            return {table.name: Full() for table in tables}
        pools = by_start(tables) if self.multiplex else [[table] for table in tables]
        widest = [max(table.embedding_dim for table in mine) for mine in pools]
        blocks = [min(self.block or half_width(width), width) for width in widest]

        def at(number: int, count: int) -> Scheme:
            pool = number if self.multiplex else 0
            sizes = {"block": blocks[number], "pool": pool, "num_blocks": count}
            return self.model_copy(update=sizes)

        if self.num_blocks is not None:
            count = self.num_blocks
            fixed = {t.name: at(number, count) for number, mine in enumerate(pools) for t in mine}
            fixed = keep_full(tables, fixed, self.multiplex)
            return check_fixed(self.kind, tables, budget, fixed)
        assert budget is not None
        if self.multiplex:
            return share_out(self.kind, budget, pools, [4 * block for block in blocks], at)

        def alone(share: float) -> dict[str, Scheme]:
            counts = [t.num_embeddings * t.embedding_dim / z for t, z in zip(tables, blocks)]
            return {
                table.name: at(number, max(1, math.ceil(share * count)))
                for number, (table, count) in enumerate(zip(tables, counts))
            }

        return fit_share(self.kind, tables, budget, False, alone)

    def part(self, table: TableSpec) -> Part:
        """Probes of the table of blocks: one a piece, or two where a piece can start anywhere."""
        self.need(block=self.block, num_blocks=self.num_blocks)
        assert self.block is not None and self.num_blocks is not None
        dim, block = table.embedding_dim, self.block
        if self.num_blocks * block > _MOST:
            raise ConfigError(
                f"scheme `robe`: {self.num_blocks} blocks of {block} floats are more than the "
                f"{_MOST} that positions can address. Lower `num_blocks`."
            )
        owner = f"shared@robe{block}" if self.multiplex else f"{table.name}@robe"
        probe = table.model_copy(
            update={
                "name": f"{owner}-{self.pool}" if self.pool else owner,
                "num_embeddings": self.num_blocks + 1,
                "embedding_dim": block,
            }
        )
        names = [f"{table.name}#{piece}" for piece in range(-(-dim // block))]
        signs = Signs(table.name, dim, self.salt) if self.sign else None
        if not self.aligned:
            length = [self.num_blocks * block] * len(names)
            encoder = Neighbours(HashEncoder(names, length, self.salt), block, self.num_blocks)
            windows = Windows(HashEncoder(names, length, self.salt), dim, block, signs)
            return Part((probe, probe) * len(names), encoder, windows)
        encoder = HashEncoder(names, [self.num_blocks] * len(names), self.salt)
        whole = side_by_side(len(names) * block, dim)
        decoder = whole if signs is None else Signed(dim, signs)
        return Part((probe,) * len(names), encoder, decoder)


class Neighbours(Encoder):
    """Two rows a piece: the block where it starts and the one after.

    Args:
        starts: 1 + the position of every piece in the array.
        block: Z.
        num_blocks: Of the array.

    Shape:
        - as `Encoder`
    """

    def __init__(self, starts: HashEncoder, block: int, num_blocks: int) -> None:
        super().__init__()
        self.starts, self.block, self.num_blocks = starts, block, num_blocks

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """First block, next block, for every piece."""
        real, rows = (indices != PAD_INDEX).int(), []
        for start in self.starts(indices):
            first = torch.div(start - 1, self.block, rounding_mode="floor")
            rows += [(first + 1) * real, ((first + 1) % self.num_blocks + 1) * real]
        return tuple(rows)


class Signs(nn.Module):
    """Hashed signs: column i of index x has bit ``i mod 64`` of word ``i // 64`` of x's hash.

    Args:
        name: Of the table.
        dim: D.
        salt: Seed.

    Shape:
        - input: (L,)
        - output: (L, D) of -1 and 1
    """

    def __init__(self, name: str, dim: int, salt: int) -> None:
        super().__init__()
        self.dim, self._salt = dim, salt
        self._names = [f"{name}#sign{word}" for word in range(-(-dim // _WORD))]
        self.salts: Tensor
        self.register_buffer("salts", torch.empty(len(self._names), dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salts: of the names alone, not of the run's seed."""
        del generator
        if not self.salts.is_meta:
            self.salts.copy_(torch.from_numpy(hash_strings(self._names, self._salt)))

    def forward(self, indices: Tensor) -> Tensor:
        """Hashes, then spreads the bits."""
        # Times odd numbers, not xor: bits of splitmix64 of consecutive numbers are not unrelated.
        words = splitmix64(indices.long().unsqueeze(1) * (self.salts | 1))  # (L, words)
        bits = torch.arange(min(self.dim, _WORD), device=indices.device)
        spread = (words.unsqueeze(2) >> bits).bitwise_and_(1).flatten(1)[:, : self.dim]
        return spread.to(torch.get_default_dtype()).mul_(2).sub_(1)


class Signed(Decoder):
    """Blocks side by side, times signs. Not linear: the signs depend on the index.

    Args:
        dim: D.
        signs: Of every index.

    Shape:
        - as `Decoder`
    """

    linear = False

    def __init__(self, dim: int, signs: Signs) -> None:
        super().__init__()
        self.dim, self.signs = dim, signs

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Concatenates, cuts and multiplies."""
        assert indices is not None
        return torch.cat(list(probes), dim=1)[:, : self.dim] * self.signs(indices)


class Windows(Decoder):
    """Every piece cut out of its two blocks, side by side, times signs.

    Args:
        starts: 1 + the position of every piece in the array.
        dim: D.
        block: Z.
        signs: Of every index, or None.

    Shape:
        - as `Decoder`
    """

    linear = False

    def __init__(self, starts: HashEncoder, dim: int, block: int, signs: Signs | None) -> None:
        super().__init__()
        self.starts, self.dim, self.block, self.signs = starts, dim, block, signs

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Cuts the pieces out."""
        assert indices is not None
        columns, pieces = torch.arange(self.block, device=indices.device), []
        for piece, start in enumerate(self.starts(indices)):
            within = (start.long() - 1).remainder(self.block).unsqueeze(1) + columns
            both = torch.cat([probes[2 * piece], probes[2 * piece + 1]], dim=1)
            pieces.append(both.gather(1, within))
        rows = torch.cat(pieces, dim=1)[:, : self.dim]
        return rows if self.signs is None else rows * self.signs(indices)
