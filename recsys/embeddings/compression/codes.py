"""Tables that are served as codes: every id names one row of each of a few codebooks.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.scheme import Concat, Dtype, Encoder, Part, Scheme
from recsys.errors import ConfigError
from recsys.schema import PAD_INDEX, TableSpec


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"must be a power of two, so that a code is whole bits; got {value}")
    return value


Centroids = Annotated[int, Field(ge=2, le=256), AfterValidator(_power_of_two)]
"""Rows of a codebook."""


def code_bits(centroids: int) -> int:
    """Bits of one code.

    Args:
        centroids: A power of two.
    """
    return centroids.bit_length() - 1


def packed_width(parts: int, centroids: int) -> int:
    """Bytes of the codes of one id.

    Args:
        parts: Codes of an id.
        centroids: Values of a code.

    Example:
        >>> packed_width(8, 256), packed_width(8, 32), packed_width(3, 2)
        (8, 5, 1)
    """
    return -(-parts * code_bits(centroids) // 8)


def pack(codes: Tensor, centroids: int) -> Tensor:
    """Codes without gaps inside a row, lowest bits first.

    Args:
        codes: Below ``centroids``.
        centroids: A power of two, at most 256.

    Shape:
        - codes: (n, P) int64
        - output: (n, packed_width) uint8

    Example:
        >>> pack(torch.tensor([[1, 2, 3]]), 8).tolist()  # 011 010 001
        [[209, 0]]
    """
    bits, parts = code_bits(centroids), codes.shape[1]
    packed = codes.new_zeros(codes.shape[0], packed_width(parts, centroids))
    for part in range(parts):
        byte, shift = divmod(part * bits, 8)
        shifted = codes[:, part] << shift
        packed[:, byte] |= shifted & 255
        if shift + bits > 8:
            packed[:, byte + 1] |= shifted >> 8
    return packed.to(torch.uint8)


def unpack(packed: Tensor, parts: int, centroids: int) -> Tensor:
    """What `pack` was given, as int32.

    Args:
        packed: Rows of bytes.
        parts: Codes of a row.
        centroids: As packed.
    """
    bits = code_bits(centroids)
    if bits == 8:
        return packed.int()
    wide = packed.int()
    places = torch.arange(parts, device=packed.device) * bits
    low = places // 8
    both = wide[:, low] | (wide[:, (low + 1).clamp(max=packed.shape[1] - 1)] << 8)
    return (both >> (places % 8).int()) & (centroids - 1)


class CodesEncoder(Encoder):
    """Codes of an index as rows of one table that holds all codebooks one after the other.

    Args:
        rows: Of the logical table.
        parts: Codes of an index.
        centroids: Rows of a codebook.
        hot_rows: Indices whose codes have all these values; None for all.
        rare_centroids: Values of the codes of the other indices.

    Shape:
        - as `Encoder`
    """

    def __init__(
        self,
        rows: int,
        parts: int,
        centroids: int,
        hot_rows: int | None,
        rare_centroids: int | None,
    ) -> None:
        super().__init__()
        self._parts, self._centroids = parts, centroids
        self._rare_centroids = rare_centroids or centroids
        hot = rows - 1 if hot_rows is None else min(hot_rows, rows - 1)
        self.hot: Tensor
        self.rare: Tensor
        for name, count, values in (
            ("hot", hot, centroids),
            ("rare", rows - 1 - hot, self._rare_centroids),
        ):
            width = packed_width(parts, values)
            self.register_buffer(name, torch.empty(count, width, dtype=torch.uint8))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes random codes, until learned ones are loaded."""
        for codes in (self.hot, self.rare):
            if not codes.is_meta:
                drawn = torch.randint(256, codes.shape, generator=generator, dtype=torch.uint8)
                codes.copy_(drawn)

    def codes(self, indices: Tensor) -> Tensor:
        """The codes of indices, (L, P) int32; those of PAD mean nothing."""
        rows, hot = (indices.long() - 1).clamp(min=0), self.hot.shape[0]
        if not self.rare.shape[0]:
            return unpack(self.hot.index_select(0, rows), self._parts, self._centroids)
        rare = self.rare.index_select(0, (rows - hot).clamp(min=0))
        rare = unpack(rare, self._parts, self._rare_centroids)
        if not hot:
            return rare
        own = unpack(
            self.hot.index_select(0, rows.clamp(max=hot - 1)), self._parts, self._centroids
        )
        return torch.where((rows < hot).unsqueeze(1), own, rare)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One row of the codebooks' table a part."""
        first = 1 + self._centroids * torch.arange(
            self._parts, dtype=torch.int32, device=indices.device
        )
        rows = self.codes(indices) + first
        return rows.masked_fill((indices == PAD_INDEX).unsqueeze(1), PAD_INDEX).unbind(1)


class Codes(Scheme):
    """``num_parts`` codes an id, each a row of a codebook of width ``D / num_parts``.

    It is what `DPQ` and `MGQE` freeze into. Codes are packed to whole bytes an id; ids after the
    ``hot_rows`` most frequent ones may have shorter codes. A lookup is one gather of bytes and
    ``num_parts`` gathers from a table that fits the cache.

    Memory: ``h ceil(P log2(K) / 8) + (n - 1 - h) ceil(P log2(K_rare) / 8)`` bytes of codes and
    ``4 (D / P) (1 + P K)`` of codebooks.
    """

    served_only: ClassVar[bool] = True
    kind: Literal["codes"] = "codes"
    """Name in configurations."""
    num_parts: int | None = Field(default=None, ge=1)
    """P, codes of an id; divides the width. Written by recsys."""
    num_centroids: Centroids | None = None
    """K, rows of a codebook. Written by recsys."""
    hot_rows: int | None = Field(default=None, ge=0)
    """h, indices whose codes choose among all rows; None for all. Written by recsys."""
    rare_centroids: Centroids | None = None
    """First rows of a codebook that the other indices choose among. Written by recsys."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """As it is: sizes come from a trained table."""
        if self.num_parts is None or self.num_centroids is None:
            raise ConfigError(
                "scheme `codes` is what quantization ends in: its codes are not trained. Use "
                "`dpq` or `mgqe`; their frozen tables are `codes`."
            )
        plan: dict[str, Scheme] = {table.name: self for table in tables}
        return check_fixed(self.kind, tables, budget, plan)

    def part(self, table: TableSpec) -> Part:
        """One probe a code, all into one table."""
        self.need(num_parts=self.num_parts, num_centroids=self.num_centroids)
        assert self.num_parts is not None and self.num_centroids is not None
        parts, centroids = self.num_parts, self.num_centroids
        check_parts(self.kind, table, parts)
        encoder = CodesEncoder(
            table.num_embeddings, parts, centroids, self.hot_rows, self.rare_centroids
        )
        probe = table.model_copy(
            update={
                "name": f"{table.name}@codes",
                "num_embeddings": 1 + parts * centroids,
                "embedding_dim": table.embedding_dim // parts,
            }
        )
        return Part((probe,) * parts, encoder, Concat())

    def check_dtype(self, dtype: Dtype) -> None:
        """Codebooks are fp32 or fp16."""
        refuse_integers(self.kind, dtype)


def check_parts(kind: str, table: TableSpec, parts: int) -> None:
    """Refuses parts of uneven width.

    Args:
        kind: Of the scheme, for the error.
        table: What is cut.
        parts: Into how many.

    Raises:
        ConfigError: The width is no multiple.
    """
    if table.embedding_dim % parts:
        raise ConfigError(
            f"scheme `{kind}`: table `{table.name}` of width {table.embedding_dim} cannot be cut "
            f"into {parts} parts. `num_parts` must divide the width."
        )


def refuse_integers(kind: str, dtype: Dtype) -> None:
    """Refuses to quantize codebooks.

    Args:
        kind: Of the scheme, for the error.
        dtype: Asked for.

    Raises:
        ConfigError: It is an integer one.
    """
    if dtype not in ("fp32", "fp16"):
        raise ConfigError(
            f"scheme `{kind}` cannot be frozen in {dtype}: nearly all of its bytes are codes, and "
            "rows of a codebook are so short that scale and offset outweigh what they save. "
            "Freeze in fp32 or fp16; for fewer bytes lower `num_parts` or `num_centroids`."
        )
