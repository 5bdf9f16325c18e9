"""Batches of a prepared split, streamed by row group.

The order of rows is a pure function of (seed, epoch, rank, world size), see `recsys.data.order`. So
a position is a few numbers, and resuming reads only the buffer it falls into. A position may be
taken over by another number of ranks: they share out the rows that nobody has had.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from pydantic import Field

from recsys.data.blocks import RowBlock, concatenate
from recsys.data.order import Part, RowOrder, Stage
from recsys.data.prefetch import prefetch
from recsys.data.prepared import Prepared
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.schema import Frozen
from recsys.types import Batch


class LoaderConfig(Frozen):
    """How rows become batches."""

    batch_size: int = Field(default=4096, ge=1)
    """Rows of a batch on each rank."""
    shuffle: bool = False
    """Permute row groups, then the rows of every buffer."""
    seed: int = 0
    """Of the shuffle."""
    buffer_rows: int = Field(default=1 << 18, ge=1)
    """Rows that are permuted among each other, rounded up to whole row groups."""
    prefetch: int = Field(default=4, ge=0)
    """Batches made ahead in a thread; 0 makes them in the caller's thread."""
    pin_memory: bool = False
    """Put batches into page-locked memory, so that copies to a GPU overlap with its work."""


class BatchLoader:
    """Iterates over the batches of one epoch; every ``for`` is one pass.

    With several ranks every rank gets equally many batches, all of full size: the last ones are
    filled up with rows of weight 0. With one rank the last batch is short.

    Args:
        prepared: Prepared data.
        split: ``train``, ``valid`` or ``test``.
        config: Options.
        rank: This process.
        world_size: Number of processes that share the rows out.

    Raises:
        DataError: There is no such split.
        ConfigError: ``rank`` is not below ``world_size``.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        config: LoaderConfig | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in 0 .. {world_size - 1} (world_size - 1).")
        self.config = config or LoaderConfig()
        self.schema = prepared.schema
        self.split, self.rank, self.world_size = split, rank, world_size
        self._path = prepared.path(split)
        self._fingerprint = prepared.fingerprint
        metadata = self._open().metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        config = self.config
        self._order = RowOrder(rows, config.shuffle, config.seed, config.buffer_rows)
        self.num_rows = sum(rows)
        self._epoch, self._delivered = 0, 0
        self._before: tuple[Stage, ...] = ()
        self._resumes = False  # whether the next pass begins at the position

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self._count(self.num_rows)

    def batches_left(self) -> int:
        """Batches from the position to the end of the epoch, the same on every rank."""
        return self._count(self._order.num_rows(self._epoch, self._before)) - self._delivered

    def _count(self, rows: int) -> int:
        """Batches of so many rows."""
        per_rank = -(-rows // self.world_size)
        return -(-per_rank // self.config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self._resumes:
            self._before, self._delivered = (), 0
        self._resumes = False
        epoch, before, first = self._epoch, self._before, self._delivered
        batches = prefetch(lambda: self._made(epoch, before, first), self.config.prefetch)
        try:
            for batch in batches:
                self._delivered += 1
                yield batch
        finally:
            batches.close()  # type: ignore[attr-defined]
        self._epoch, self._before, self._delivered = epoch + 1, (), 0

    # -------------------------------------------------------------------------------- position

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a position loaded for that epoch is kept.

        Args:
            epoch: From 0. Without a call every complete pass moves on by one.
        """
        if epoch != self._epoch:
            self._epoch, self._before, self._delivered = epoch, (), 0
            self._resumes = False

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, batches delivered in it, and what these numbers depend on."""
        return {
            "epoch": self._epoch,
            "batches": self._delivered,
            "world_size": self.world_size,
            "before": [dataclasses.asdict(stage) for stage in self._before],
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin after the batches that had been delivered.

        Args:
            state: From ``state_dict`` of a loader of the same data and options. Where the number
                of ranks differs, the ranks there are now share out the rows that are left.

        Raises:
            CheckpointError: The data or the options differ, so the position has no meaning.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise CheckpointError(
                    f"the loader's position was saved with {name}={state.get(name)!r}, but now "
                    f"{name}={mine!r}. Resume with the same data and options, or start anew."
                )
        before = [Stage(**stage) for stage in state.get("before", ())]
        delivered = int(state["batches"])
        if delivered and state["world_size"] != self.world_size:
            before.append(Stage(int(state["world_size"]), delivered * self.config.batch_size))
            delivered = 0
        self._epoch, self._before, self._delivered = int(state["epoch"]), tuple(before), delivered
        self._resumes = True

    def _identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "split": self.split,
            "batch_size": config.batch_size,
            "shuffle": config.shuffle,
            "seed": config.seed,
            "buffer_rows": config.buffer_rows,
            "data": self._fingerprint,
        }

    # --------------------------------------------------------------------------------- batches

    def _made(self, epoch: int, before: tuple[Stage, ...], first: int) -> Iterator[Batch]:
        """What the thread makes."""
        batches = self._batches(epoch, before, first)
        return map(Batch.pin_memory, batches) if self.config.pin_memory else batches

    def _batches(self, epoch: int, before: tuple[Stage, ...], first: int) -> Iterator[Batch]:
        """Batches from number ``first`` on."""
        size, total = self.config.batch_size, self._count(self._order.num_rows(epoch, before))
        number, waiting = first, []
        held = 0
        for block in self._blocks(epoch, before, first * size):
            at = 0
            while held + block.num_rows - at >= size:
                take = size - held
                waiting.append(block.rows(at, at + take))
                yield concatenate(waiting).to_batch()
                number, waiting, held, at = number + 1, [], 0, at + take
            if at < block.num_rows:
                waiting.append(block.rows(at, block.num_rows))
                held += block.num_rows - at
        if self.world_size > 1:
            while number < total:
                rest = concatenate(waiting) if waiting else self._empty()
                yield rest.padded(size).to_batch()
                number, waiting = number + 1, []
        elif waiting:
            yield concatenate(waiting).to_batch()

    def _blocks(self, epoch: int, before: tuple[Stage, ...], skip: int) -> Iterator[RowBlock]:
        """Blocks of permuted rows, without the first ``skip`` rows."""
        file = self._open()
        buffers = self._order.buffers(epoch, self.rank, self.world_size, before)
        for number, parts in enumerate(buffers):
            rows = sum(map(len, parts))
            if skip >= rows:
                skip -= rows
                continue
            table = pa.concat_tables([self._read(file, part) for part in parts])
            order = self._order.within(epoch, self.rank, number, rows, before)
            block = RowBlock.from_table(table, self.schema, order)
            if self.world_size > 1:
                block = block.padded(rows)  # weights on every batch, also where all are 1
            yield block.rows(skip, rows)
            skip = 0

    # --------------------------------------------------------------------------------- reading

    def _open(self) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(
                self._path, memory_map=True, page_checksum_verification=True
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"prepared rows are not readable: {_line(error)} "
                "Delete the folder and prepare again.",
                file=str(self._path),
            ) from None

    def _read(self, file: pyarrow.parquet.ParquetFile, part: Part) -> pa.Table:
        try:
            table = file.read_row_group(part.group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"row group {part.group} of the prepared rows (its first row is below) is not "
                f"readable: {_line(error)} Delete the folder and prepare again.",
                file=str(self._path),
                row=sum(self._order.group_rows[: part.group]) + 1,
            ) from None
        if part.kept is not None:
            return table.take(part.kept[part.start : part.end])
        return table.slice(part.start, len(part))

    def _empty(self) -> RowBlock:
        schema = self._open().schema_arrow
        return RowBlock.from_table(schema.empty_table(), self.schema)


def _line(error: Exception) -> str:
    """Arrow's message without its line breaks."""
    return " ".join(str(error).split())
