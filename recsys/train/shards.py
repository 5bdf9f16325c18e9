"""Tables that are spread over ranks, on disk: every rank writes its parts, any rank reads any.

Written by ``torch.distributed.checkpoint`` as safetensors, one file a rank, so there is no pickle
in it. Names and offsets are those of whole tensors without padding: they say nothing about the
plan or the number of ranks that wrote them.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save

from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.train.storage import Place, read_range

_FILE_BYTES = 1 << 29
"""Most bytes of a file, unless one row has more."""
_READ_BYTES = 1 << 26
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class _PartsPlanner(SavePlanner):
    """Writes parts as they are."""

    def __init__(self, parts: Sequence[TensorPart]) -> None:
        self._parts = {(part.name, part.offsets): part for part in parts}

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Nothing: the parts are known."""

    def create_local_plan(self) -> SavePlan:
        """One item a part."""
        return SavePlan(
            [
                WriteItem(
                    index=MetadataIndex(part.name, torch.Size(part.offsets)),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=ChunkStorageMetadata(
                            torch.Size(part.offsets), torch.Size(part.values.shape)
                        ),
                        properties=TensorProperties.create_from_tensor(part.values),
                        size=torch.Size(part.size),
                    ),
                )
                for part in self._parts.values()
            ]
        )

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """All plans together."""
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """The plan is final."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The values of an item."""
        offset = write_item.index.offset
        assert offset is not None
        values = self._parts[write_item.index.fqn, tuple(offset)].values
        return values.detach().cpu().contiguous()


def write_parts(
    parts: Sequence[TensorPart],
    folder: Path,
    group: distributed.ProcessGroup | None = None,
) -> list[Path]:
    """Writes what this rank holds. Collective where there is a process group.

    Args:
        parts: At most one of each tensor, and together with those of the other ranks all of it.
        folder: The same on all ranks; made if it is missing.
        group: Of the ranks; by default all.

    Returns:
        The files that this rank wrote.

    Raises:
        CheckpointError: A rank could not write; raised on all.
    """
    alone = not distributed.is_initialized()
    rank = 0 if alone else distributed.get_rank(group)
    rounds = _rounds(parts)
    count = torch.tensor(max(1, len(rounds)))
    if not alone:
        distributed.all_reduce(count, distributed.ReduceOp.MAX, group=group)
    written: list[Path] = []
    for number in range(int(count)):
        place = folder / str(number)
        items = rounds[number] if number < len(rounds) else []
        _write_round(items, place, group, alone)
        written += sorted(place.glob(f"shard-{rank + 1:05d}-*.safetensors"))
    return written


def _write_round(
    parts: Sequence[TensorPart], folder: Path, group: distributed.ProcessGroup | None, alone: bool
) -> None:
    """One file a rank."""
    try:
        save(
            {},
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            planner=_PartsPlanner(parts),
            process_group=group,
            no_dist=alone,
        )
    except CheckpointException as error:
        blamed = "; ".join(
            f"rank {rank}: {type(cause).__name__}: {cause}"
            for rank, (cause, _) in sorted(error.failures.items())
        )
        raise CheckpointError(
            f"{folder}: the tables could not be saved ({blamed}). Free some space or choose "
            "another folder; the checkpoint before this one is kept."
        ) from error


def _rounds(parts: Sequence[TensorPart]) -> list[list[TensorPart]]:
    """What goes into which file: one part of a tensor each, and no more bytes than memory bears.

    Torch builds a file in memory before it writes it, so large parts are cut by rows.
    """
    rounds: list[list[TensorPart]] = []
    sizes: list[int] = []
    for part in parts:
        for piece in _pieces(part):
            size = piece.values.nbytes
            for number, held in enumerate(rounds):
                fits = sizes[number] + size <= _FILE_BYTES
                if fits and all(other.name != piece.name for other in held):
                    break
            else:
                number = len(rounds)
                rounds.append([])
                sizes.append(0)
            rounds[number].append(piece)
            sizes[number] += size
    return rounds


def _pieces(part: TensorPart) -> Iterator[TensorPart]:
    """A part cut into blocks of rows."""
    values = part.values
    if not values.numel():
        return
    rows = max(1, _FILE_BYTES // max(1, values.nbytes // len(values)))
    for start in range(0, len(values), rows):
        offsets = (part.offsets[0] + start, *part.offsets[1:])
        block = values[start : start + rows]
        yield dataclasses.replace(part, offsets=offsets, values=block)


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """A part of a tensor in a safetensors file.

    Args:
        file: Where.
        start: Of its values in the file.
        offsets: In the whole tensor.
        sizes: Of the block.
    """

    file: Place
    start: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """Rows of the block, read now."""
        row = math.prod(self.sizes[1:])
        start = self.start + first * row * dtype.itemsize
        count = (last - first) * row * dtype.itemsize
        content = read_range(self.file, start, count)
        if len(content) != count:
            raise CheckpointError(
                f"{self.file}: not a whole safetensors file: expected {count:,} bytes at "
                f"{start:,}, got {len(content):,}. The checkpoint is damaged."
            )
        values = torch.frombuffer(bytearray(content), dtype=dtype)
        return values.view(last - first, *self.sizes[1:])


class StoredTensor:
    """A whole tensor that lies in parts on disk; slicing reads what is asked for.

    Args:
        name: Of the tensor.
        shape: Of the whole.
        dtype: Of its values.
        blocks: Of all ranks.
    """

    def __init__(
        self, name: str, shape: torch.Size, dtype: torch.dtype, blocks: Sequence[_Block]
    ) -> None:
        self.name, self.shape, self.dtype, self._blocks = name, shape, dtype, tuple(blocks)
        self.ndim = len(shape)

    def is_floating_point(self) -> bool:
        """Whether values are floats."""
        return self.dtype.is_floating_point

    def __getitem__(self, index: slice | tuple[slice, ...]) -> Tensor:
        """A block, read now.

        Args:
            index: Slices without a step, for the first dimensions.

        Raises:
            CheckpointError: A file is damaged, or parts of the block are nowhere.
        """
        asked = (index,) if isinstance(index, slice) else index
        bounds = [
            (asked[d] if d < len(asked) else slice(None)).indices(size)[:2]
            for d, size in enumerate(self.shape)
        ]
        found = torch.empty([max(0, end - start) for start, end in bounds], dtype=self.dtype)
        read = 0
        for block in self._blocks:
            overlap = [
                (max(start, first), min(end, first + size))
                for (start, end), first, size in zip(bounds, block.offsets, block.sizes)
            ]
            if any(start >= end for start, end in overlap):
                continue
            source = [slice(a - o, b - o) for (a, b), o in zip(overlap, block.offsets)]
            target = [slice(a - o, b - o) for (a, b), (o, _) in zip(overlap, bounds)]
            step = max(1, _READ_BYTES // max(1, math.prod(block.sizes[1:]) * self.dtype.itemsize))
            for first in range(source[0].start, source[0].stop, step):
                last = min(first + step, source[0].stop)
                at = target[0].start + first - source[0].start
                rows = block.rows(first, last, self.dtype)
                found[slice(at, at + last - first), *target[1:]] = rows[:, *source[1:]]
            read += math.prod(end - start for start, end in overlap)
        if read != found.numel():
            raise CheckpointError(
                f"`{self.name}`: {found.numel() - read:,} of {found.numel():,} values are in none "
                f"of the files {sorted({block.file.name for block in self._blocks})}. The "
                "checkpoint is damaged."
            )
        return found


def stored_tensors(folder: Place) -> dict[str, StoredTensor]:
    """Everything that ranks wrote into a folder, by name; no values are read yet.

    Args:
        folder: Of `write_parts`, here or on storage. It may be missing.

    Raises:
        CheckpointError: A file is damaged.
    """
    dtypes: dict[str, torch.dtype] = {}
    blocks: dict[str, list[_Block]] = {}
    rounds = [place for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []
    for place in rounds:
        for file in place.iterdir():
            for name, dtype, block in _blocks(file):
                dtypes[name] = dtype
                blocks.setdefault(name, []).append(block)
    found = {}
    for name, held in blocks.items():
        ends = ([o + n for o, n in zip(block.offsets, block.sizes)] for block in held)
        shape = torch.Size(max(sizes) for sizes in zip(*ends))
        found[name] = StoredTensor(name, shape, dtypes[name], held)
    return found


def _blocks(file: Place) -> Iterator[tuple[str, torch.dtype, _Block]]:
    """What is in a file, from the header of the safetensors format and torch's note in it."""
    try:
        length = int.from_bytes(read_range(file, 0, 8), "little")
        header = json.loads(read_range(file, 8, length))
        notes = json.loads(header.pop("__metadata__")[CUSTOM_METADATA_KEY])
        for name, entry in header.items():
            start, _ = entry["data_offsets"]
            offsets = tuple(notes[name][SAVED_OFFSETS_KEY])
            block = _Block(file, 8 + length + start, offsets, tuple(entry["shape"]))
            yield name, _DTYPES[entry["dtype"]], block
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{file}: not a whole safetensors file: {type(error).__name__}: {error}. The "
            "checkpoint is damaged."
        ) from error
