"""Clustered compositional embeddings: sums of two rows, one of them found by k-means.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, distributed

from recsys.embeddings.compression.budget import check_fixed, fit, planned_bytes, smaller_of
from recsys.embeddings.compression.kmeans import cluster_means, kmeans
from recsys.embeddings.scheme import Decoder, Encoder, Part, Rows, Scheme
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.hashing import hash_strings, splitmix64, to_buckets
from recsys.schema import PAD_INDEX, TableSpec

_CHUNKS = (4, 2, 1)


class ClusterEncoder(Encoder):
    """Chunk c of x is row ``codes[c, x]`` of the means plus row ``h(x; salt c)`` of the rest.

    Codes start as another hash and are replaced by clusterings, with new salts.

    Args:
        table: Name, from which salts are made.
        ids: n, PAD included.
        chunks: C.
        num_clusters: k.
        salt: Seed.

    Shape:
        - input: (L,)
        - output: C rows of the means, then C rows of the rest
    """

    def __init__(self, table: str, ids: int, chunks: int, num_clusters: int, salt: int) -> None:
        super().__init__()
        self.chunks, self.num_clusters = chunks, num_clusters
        self._table, self._salt = table, salt
        small = torch.uint8 if num_clusters <= 1 << 8 else torch.int16
        dtype = small if num_clusters <= 1 << 16 else torch.int32
        self.codes: Tensor
        self.salts: Tensor
        self.progress: Tensor  # steps, clusterings
        self.register_buffer("codes", torch.empty(chunks, ids, dtype=dtype))
        self.register_buffer("salts", torch.empty(chunks, dtype=torch.int64))
        self.register_buffer("progress", torch.empty(2, dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes hashes of the table's name alone, not of the run's seed."""
        del generator
        if self.codes.is_meta:
            return
        names = [f"{self._table}/{role}{c}" for role in ("means", "rest") for c in self._range]
        salts = torch.from_numpy(hash_strings(names, self._salt))
        self.salts.copy_(salts[self.chunks :])
        self.progress.zero_()
        ids = torch.arange(self.codes.shape[1], device=self.codes.device)
        for c in self._range:
            self.set_codes(c, self._hash(ids, salts[c].to(ids.device)))

    @property
    def _range(self) -> range:
        return range(self.chunks)

    def _hash(self, values: Tensor, salt: Tensor) -> Tensor:
        return to_buckets(splitmix64(values ^ salt), self.num_clusters)

    def set_codes(self, chunk: int, codes: Tensor) -> None:
        """Replaces the codes of a chunk.

        Args:
            chunk: Which.
            codes: (n,), each below k. int16 keeps those from 2^15 on as negative numbers.
        """
        self.codes[chunk].copy_(codes.to(torch.int32).to(self.codes.dtype))

    def codes_of(self, chunk: int, values: Tensor) -> Tensor:
        """The cluster of every id, (L,) int64.

        Args:
            chunk: Which.
            values: (L,) int64.
        """
        codes = self.codes[chunk].index_select(0, values).long()
        return codes & 0xFFFF if self.codes.dtype == torch.int16 else codes

    def hashes_of(self, chunk: int, values: Tensor) -> Tensor:
        """The row of the rest of every id, PAD and the other chunks not counted, (L,) int64.

        Args:
            chunk: Which.
            values: (L,) int64.
        """
        return self._hash(values, self.salts[chunk])

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One tensor of rows a probe."""
        values, real = indices.long(), indices != PAD_INDEX
        means = [self.codes_of(c, values) for c in self._range]
        rest = [self.hashes_of(c, values) for c in self._range]
        first = [1 + c * self.num_clusters for c in self._range] * 2
        return tuple(((row + start) * real).int() for row, start in zip(means + rest, first))


class AddChunks(Decoder):
    """The first half of the probes plus the second half, each side by side."""

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One sum."""
        half = len(probes) // 2
        return torch.cat(tuple(probes[:half]), dim=1) + torch.cat(tuple(probes[half:]), dim=1)


class Clustering:
    """Clusters all vectors at set steps.

    Every rank reads the same rows and the first one's result is taken by all.

    Args:
        encoder: Holds codes, salts and progress.
        every: Steps up to the first clustering.
        growth: Steps up to the next one, over steps up to the one before.
        times: How many.
    """

    def __init__(self, encoder: ClusterEncoder, every: int, growth: float, times: int) -> None:
        self.encoder, self.every, self.growth, self.times = encoder, every, growth, times

    def after_step(self, rows: Rows) -> None:
        """Counts, and clusters when it is time."""
        progress = self.encoder.progress
        progress[0] += 1
        steps, done = progress.tolist()
        due = self.every * sum(self.growth**i for i in range(done + 1))
        if done < self.times and steps >= due:
            self.cluster(rows)
            progress[1] += 1

    @torch.no_grad()
    def cluster(self, rows: Rows) -> None:
        """New codes, new salts, and tables that are nearest to the vectors of now.

        Args:
            rows: The physical tables.
        """
        encoder, size = self.encoder, self.encoder.num_clusters
        tables = [rows.read(0), rows.read(encoder.chunks)]
        means, rest = ([table[1:].view(encoder.chunks, size, -1)] for table in tables)
        ids = torch.arange(1, encoder.codes.shape[1], device=tables[0].device)
        for c in range(encoder.chunks):
            points = means[0][c].index_select(0, encoder.codes_of(c, ids))
            points += rest[0][c].index_select(0, encoder.hashes_of(c, ids))
            seed = int(encoder.salts[c]) & ((1 << 63) - 1)
            centroids, owner = kmeans(points, size, torch.Generator().manual_seed(seed))
            owner = _of_first_rank(owner)
            encoder.set_codes(c, torch.cat([owner.new_zeros(1), owner]))
            encoder.salts[c : c + 1] = splitmix64(encoder.salts[c : c + 1])
            points -= centroids.index_select(0, owner)
            means[0][c] = centroids
            rest[0][c] = cluster_means(points, encoder.hashes_of(c, ids), size)
        every = torch.arange(tables[0].shape[0], device=ids.device)
        rows.write(0, every, _of_first_rank(tables[0]))
        rows.write(encoder.chunks, every, _of_first_rank(tables[1]))


def _of_first_rank(values: Tensor) -> Tensor:
    """The same on all ranks: sums on a GPU have no fixed order."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(values, 0)
    return values


class CCE(Scheme):
    """Chunk c of x is ``T0[c, code(c, x)] + T1[c, h(c, x)]``; D / C wide, k rows each, C chunks.

    Codes are random at first. At some training steps the vectors of all ids are clustered (k-means
    in every chunk): codes become the clusters, T0 the centroids, h is drawn anew, and T1 becomes
    the mean of what is left of the ids that share its row. Written rows start anew in the
    optimizer. The first clustering comes after ``cluster_every`` steps, and every next one after
    ``cluster_growth`` times as many as the one before, so that short runs have some and long runs
    train long after the last.

    Memory: ``b C n + 8 D k + 8 D / C + 8 C + 16`` bytes a table: codes of b bytes (1 up to 256
    clusters, 2 up to 65536, else 4), two tables with a row of PAD each, salts, counters. The codes
    set the floor: n bytes with one chunk. A clustering needs the vectors of one chunk for a moment,
    ``4 n D / C`` bytes and some more.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=10_000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> found = CCE().plan([table], budget=64_000)["user"]  # a tenth
        >>> found.chunks, found.num_clusters
        (4, 186)

    Source:
        Tsang and Ahle, "Clustering the Sketch: Dynamic Compression for Embedding Tables", NeurIPS
        2023 (arXiv:2210.05974), Algorithm 3; T1 as in the authors' code (thomasahle/cce).
        There h is a stored table; here it is a salted hash, which halves the indices. The paper
        clusters once an epoch; more than 512 clusters are found in two levels here.
    """

    kind: Literal["cce"] = "cce"
    """Name in configurations."""
    chunks: int | None = Field(default=None, ge=1)
    """C, a divisor of the width. None: 4, or fewer where that leaves no room for rows or where
    fewer use up the budget better."""
    num_clusters: int | None = Field(default=None, ge=1)
    """k; None is set by the budget."""
    cluster_every: int = Field(default=200, ge=1)
    """Steps up to the first clustering."""
    cluster_growth: float = Field(default=2.0, ge=1)
    """Steps up to the next clustering, over steps up to the one before. 1 spaces them evenly."""
    cluster_times: int = Field(default=5, ge=0)
    """How many clusterings."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Clusters in proportion to the rows of each table; the most chunks that fill the budget.

        Full means nine tenths of it; otherwise the chunks that use most.
        """
        if budget is None or self.num_clusters is not None:
            self.need(num_clusters=self.num_clusters)
            fixed = {t.name: smaller_of(t, self._of(t, 4, self.num_clusters or 1)) for t in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        found: list[tuple[int, dict[str, Scheme]]] = []
        errors: list[BudgetInfeasible] = []
        for chunks in _CHUNKS if self.chunks is None else (self.chunks,):
            try:
                plan = fit(
                    self.kind, tables, budget, lambda share, c=chunks: self._at(tables, c, share)
                )
            except BudgetInfeasible as error:
                errors.append(error)
                continue
            found.append((planned_bytes(tables, plan), plan))
            if found[-1][0] >= 0.9 * budget:
                return plan
        if not found:
            raise min(errors, key=lambda error: error.min_bytes)
        return max(found, key=lambda entry: entry[0])[1]

    def _at(self, tables: Sequence[TableSpec], chunks: int, share: float) -> dict[str, Scheme]:
        """The plan with so many clusters an id."""
        return {
            table.name: smaller_of(
                table, self._of(table, chunks, max(1, int(share * table.num_embeddings)))
            )
            for table in tables
        }

    def _of(self, table: TableSpec, chunks: int, num_clusters: int) -> CCE:
        """For one table; chunks that are not stated are lowered to a divisor of its width."""
        mine = math.gcd(chunks, table.embedding_dim) if self.chunks is None else self.chunks
        return self.model_copy(update={"chunks": mine, "num_clusters": num_clusters})

    def part(self, table: TableSpec) -> Part:
        """Two probes a chunk, of two physical tables."""
        self.need(chunks=self.chunks, num_clusters=self.num_clusters)
        assert self.chunks is not None and self.num_clusters is not None
        if table.embedding_dim % self.chunks:
            raise ConfigError(
                f"scheme `{self.kind}`, table `{table.name}`: expected `chunks` that divide its "
                f"width {table.embedding_dim}, got {self.chunks}. Take another number."
            )
        init = table.init.model_copy(update={"std": table.init.std / math.sqrt(2.0)})
        means, rest = (
            table.model_copy(
                update={
                    "name": f"{table.name}@{role}",
                    "num_embeddings": self.chunks * self.num_clusters + 1,
                    "embedding_dim": table.embedding_dim // self.chunks,
                    "init": init,
                }
            )
            for role in ("means", "rest")
        )
        encoder = ClusterEncoder(
            table.name, table.num_embeddings, self.chunks, self.num_clusters, self.salt
        )
        adapter = Clustering(encoder, self.cluster_every, self.cluster_growth, self.cluster_times)
        return Part((means,) * self.chunks + (rest,) * self.chunks, encoder, AddChunks(), adapter)
