"""Frozen tables in FBGEMM's inference kernel, rows that were pruned away included.

Stability: experimental
"""

from __future__ import annotations

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.pruned import KeptRows, Pruned
from recsys.embeddings.ids import Ids, ids_of, select
from recsys.embeddings.packed_store import PackedStore
from recsys.embeddings.scheme import Dtype, Full
from recsys.errors import ConfigError
from recsys.schema import PAD_INDEX, TableSpec
from recsys.types import Batch, KeyedEmbeddings

_TYPES: dict[Dtype, SparseType] = {
    "fp32": SparseType.FP32,
    "fp16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
    "int2": SparseType.INT2,
}


class FbgemmBags(nn.Module):
    """One group of frozen tables in one FBGEMM kernel, on the CPU.

    Pruned tables in layout ``rows`` keep their rows; which those are is FBGEMM's own index
    remapping, an array of 4 bytes a logical row and feature (our own index takes 1.25 bits a row).
    Bags are sums; means are weights of 1 / (number of indices).

    Args:
        frozen: A collection with ``dtype``, every table of the group in `Full` or in `Pruned`
            with layout ``rows``.
        group: Which tables.

    Shape:
        - input: `Batch` of B rows
        - output: `KeyedEmbeddings` (B, sum of the widths of the features)

    Raises:
        ConfigError: The collection is not frozen, or a table is held in another way.
    """

    def __init__(self, frozen: EmbeddingCollection, group: str) -> None:
        super().__init__()
        store = frozen.store
        if not isinstance(store, PackedStore):
            raise ConfigError(
                "FbgemmBags serves frozen tables, these can be trained. Call "
                "`recsys.embeddings.freeze.freeze` first."
            )
        self.keys = frozen.keys
        specs = frozen.groups[group]
        by_key = {key: number for number, spec in enumerate(specs) for key in spec.feature_names}
        self.features = tuple(key for key in self.keys if key in by_key)
        self.specs = tuple(specs[by_key[key]] for key in self.features)
        names = [_physical(frozen, group, spec) for spec in specs]
        stored, sizes = store.stored(), []
        for spec, name in zip(specs, names):
            kind = _TYPES[store.dtypes[name]]
            sizes.append(
                (name, len(stored[name]), spec.embedding_dim, kind, EmbeddingLocation.HOST)
            )
        self.tables = IntNBitTableBatchedEmbeddingBagsCodegen(
            embedding_specs=sizes,
            feature_table_map=[by_key[key] for key in self.features],
            pooling_mode=PoolingMode.SUM,
            device="cpu",
            bounds_check_mode=BoundsCheckMode.FATAL,
            output_dtype=SparseType.FP32,
            row_alignment=1,
        )
        self.tables.initialize_weights()
        held = self.tables.split_embedding_weights(split_scale_shifts=False)
        for (rows, _), name in zip(held, names):
            rows.copy_(stored[name].contiguous().view(torch.uint8))
        self._remap([_remapping(frozen, group, spec) for spec in self.specs])

    def _remap(self, by_feature: list[Tensor | None]) -> None:
        """Sets FBGEMM's remapping.

        Its lookup takes one a feature where its own setter takes one a table, which is wrong for
        tables of several features. Theirs is repeated.
        """
        sizes = [0 if rows is None else len(rows) for rows in by_feature]
        found = [rows for rows in by_feature if rows is not None]
        if found:
            counts = [spec.num_embeddings for spec in self.specs]
            self.tables.index_remappings_array = torch.cat(found)
            self.tables.index_remappings_array_offsets = torch.tensor([0, *sizes]).cumsum(0)
            self.tables.original_rows_per_table = torch.tensor(counts)

    def forward(self, batch: Batch) -> KeyedEmbeddings:
        """The group's vectors.

        Args:
            batch: With the keys of the collection.
        """
        ids = select(ids_of(batch, self.keys), [self.keys.index(key) for key in self.features])
        lengths = ids.lengths.int()
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
        values = self.tables(ids.values.int(), offsets, self._weights(ids))
        dims = tuple(spec.embedding_dim for spec in self.specs)
        return KeyedEmbeddings(self.features, dims, values)

    def _weights(self, ids: Ids) -> Tensor | None:
        """Weights of indices, means included; None where all are 1."""
        if not any(spec.pooling == "mean" for spec in self.specs):
            return ids.weights
        lengths = ids.lengths.view(len(self.specs), -1)
        means = torch.tensor([[spec.pooling == "mean"] for spec in self.specs])
        share = 1 / torch.where(means, lengths.clamp(min=1), 1).float()
        weights = share.flatten().repeat_interleave(ids.lengths.long())
        return weights if ids.weights is None else weights * ids.weights


def _physical(frozen: EmbeddingCollection, group: str, spec: TableSpec) -> str:
    """Name of the stored table of a logical one."""
    scheme = frozen.schemes[f"{group}.{spec.name}"]
    if isinstance(scheme, Full):
        return f"{group}.{spec.name}"
    if isinstance(scheme, Pruned) and scheme.layout == "rows":
        return f"{group}.{scheme.part(spec).probes[0].name}"
    raise ConfigError(
        f"table `{group}.{spec.name}` is held as {scheme!r}; FBGEMM's kernel knows whole rows only "
        "(`full`, or `pruned` with layout `rows`). Serve the collection itself."
    )


def _remapping(frozen: EmbeddingCollection, group: str, spec: TableSpec) -> Tensor | None:
    """For every index its row, -1 where it was pruned; None: all are there."""
    name = f"{group}/{spec.name}"
    if name not in frozen.encoders:
        return None
    encoder = frozen.encoders[name]
    assert isinstance(encoder, KeptRows)
    (rows,) = encoder(torch.arange(spec.num_embeddings, dtype=torch.int32))
    return torch.where(rows == PAD_INDEX, -1, rows)
