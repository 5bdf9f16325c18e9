"""Tables that are spread over ranks, on disk: every rank writes its parts, any rank reads any.

Written by ``torch.distributed.checkpoint`` as safetensors, one file a rank, so there is no pickle
in it. Names and offsets are those of whole tensors without padding: they say nothing about the
plan or the number of ranks that wrote them.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
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
    rounds: list[list[TensorPart]] = []  # a file holds one part of a tensor
    for part in (part for part in parts if part.values.numel()):
        mine = next((r for r in rounds if all(other.name != part.name for other in r)), None)
        if mine is None:
            rounds.append(mine := [])
        mine.append(part)
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


class StoredTensor:
    """A whole tensor that lies in parts on disk; slicing reads what is asked for.

    Args:
        name: Of the tensor.
        shape: Of the whole.
        dtype: Of its values.
        chunks: Offsets, sizes and file of every part.
    """

    def __init__(
        self,
        name: str,
        shape: torch.Size,
        dtype: torch.dtype,
        chunks: Sequence[tuple[torch.Size, torch.Size, Path]],
    ) -> None:
        self.name, self.shape, self.dtype, self._chunks = name, shape, dtype, tuple(chunks)
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
        for offsets, sizes, path in self._chunks:
            overlap = [
                (max(start, first), min(end, first + size))
                for (start, end), first, size in zip(bounds, offsets, sizes)
            ]
            if any(start >= end for start, end in overlap):
                continue
            source = tuple(slice(a - first, b - first) for (a, b), first in zip(overlap, offsets))
            target = tuple(
                slice(a - start, b - start) for (a, b), (start, _) in zip(overlap, bounds)
            )
            try:
                with safe_open(str(path), framework="pt") as file:
                    found[target] = file.get_slice(self.name)[source]
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: not a whole safetensors file: {error}.") from error
            read += math.prod(end - start for start, end in overlap)
        if read != found.numel():
            raise CheckpointError(
                f"`{self.name}`: {found.numel() - read:,} of {found.numel():,} values are in none "
                f"of the files {sorted({path.name for *_, path in self._chunks})}. The checkpoint "
                "is damaged."
            )
        return found


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Everything that ranks wrote into a folder, by name; nothing is read yet.

    Args:
        folder: Of `write_parts`. It may be missing.

    Raises:
        CheckpointError: A file is damaged.
    """
    sizes: dict[str, tuple[torch.Size, torch.dtype]] = {}
    chunks: dict[str, list[tuple[torch.Size, torch.Size, Path]]] = {}
    for place in sorted(folder.glob("*/")):
        try:
            found = HuggingFaceStorageReader(str(place)).read_metadata()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{place}: the tables cannot be read: {error}.") from error
        for index, stored in (found.storage_data or {}).items():
            chunk = torch.Size(index.offset), stored.shape, Path(stored.relative_path)
            chunks.setdefault(index.fqn, []).append(chunk)
        for name, entry in found.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            before = sizes.get(name, (entry.size, None))[0]
            size = torch.Size(max(pair) for pair in zip(before, entry.size))
            sizes[name] = size, entry.properties.dtype
    return {name: StoredTensor(name, *sizes[name], chunks[name]) for name in sizes}
