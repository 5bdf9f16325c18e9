"""Frozen tables as torchrec's own quantized module, for servers that are built on torchrec.

Stability: experimental
"""

from __future__ import annotations

import torch
import torchrec
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torchrec.modules.embedding_configs import DataType
from torchrec.quant.embedding_modules import EmbeddingBagCollection as QuantizedBags

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.packed_store import PackedStore
from recsys.embeddings.scheme import Decoder, Dtype, Encoder
from recsys.errors import ConfigError, SchemaError, did_you_mean
from recsys.schema import TableSpec

_DATA_TYPES: dict[Dtype, DataType] = {
    "fp32": DataType.FP32,
    "fp16": DataType.FP16,
    "int8": DataType.INT8,
    "int4": DataType.INT4,
    "int2": DataType.INT2,
}
_POOLING = {"sum": torchrec.PoolingType.SUM, "mean": torchrec.PoolingType.MEAN}
_ROW_ALIGNMENT = 1


def to_quantized_ebc(
    collection: EmbeddingCollection, group: str | None = None, weighted: bool = False
) -> QuantizedBags:
    """A group of frozen tables as torchrec's quantized ``EmbeddingBagCollection``.

    A KeyedJaggedTensor in, a KeyedTensor out, by features. Rows are the bytes of the collection,
    unchanged: ``row_alignment`` is 1, where torchrec's default of 16 makes an int8 row of width 16
    as large as an fp16 row. PAD (index 0) gives zeros; indices must be in range, as torchrec does
    not check them.

    Args:
        collection: From `recsys.embeddings.freeze.freeze`.
        group: Which; may be left out where there is only one.
        weighted: Whether bags carry weights.

    Raises:
        ConfigError: The tables are not frozen; or a scheme encodes indices or decodes vectors,
            which torchrec's module cannot do.
        SchemaError: There is no such group.

    Example:
        >>> from recsys.embeddings.freeze import freeze
        >>> from recsys.schema import TableSpec
        >>> table = TableSpec(name="user", num_embeddings=10, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> tables = EmbeddingCollection({"embedding": [table]}, keys=("user",))
        >>> bags = to_quantized_ebc(freeze(tables, "int4"))
        >>> features = torchrec.KeyedJaggedTensor(keys=["user"], values=torch.tensor([1, 2]),
        ...                                       lengths=torch.tensor([2]))
        >>> bags(features)["user"].shape
        torch.Size([1, 16])

    Source:
        ``torchrec.quant.EmbeddingBagCollection``. Its ``from_float`` path is not used: it quantizes
        anew, leaves a bare module unquantized without a word, and ends the process on bfloat16.
    """
    store = collection.store
    if not isinstance(store, PackedStore):
        raise ConfigError(
            "the tables are not frozen. Freeze them first: freeze(collection, 'int8')."
        )
    name = _group(collection, group)
    configs, rows = [], {}
    for spec in collection.groups[name]:
        table = _plain_table(collection, name, spec)
        rows[spec.name] = store.stored()[table]
        configs.append(
            torchrec.EmbeddingBagConfig(
                name=spec.name,
                num_embeddings=spec.num_embeddings,
                embedding_dim=spec.embedding_dim,
                feature_names=list(spec.feature_names),
                pooling=_POOLING[spec.pooling],
                data_type=_DATA_TYPES[store.dtypes[table]],
            )
        )
    bags = QuantizedBags(configs, weighted, store.device, row_alignment=_ROW_ALIGNMENT)
    # Not through `state_dict`: what it shows of int4 and int2 counts codes, not bytes.
    for tables, module in zip(bags._key_to_tables.values(), bags._emb_modules, strict=True):
        assert isinstance(module, IntNBitTableBatchedEmbeddingBagsCodegen)
        held = module.split_embedding_weights(split_scale_shifts=False)
        for config, (target, _) in zip(tables, held, strict=True):
            target.copy_(rows[config.name].view(torch.uint8))
    return bags


def _group(collection: EmbeddingCollection, group: str | None) -> str:
    groups = list(collection.groups)
    if group is None and len(groups) == 1:
        return groups[0]
    if group is None:
        raise SchemaError(f"the tables have groups {groups}; pass one as `group`.")
    if group not in groups:
        raise SchemaError(f"no group `{group}`. {did_you_mean(group, groups)}")
    return group


def _plain_table(collection: EmbeddingCollection, group: str, spec: TableSpec) -> str:
    """Name of the one physical table that is the logical one, row for row."""
    scheme = collection.schemes[f"{group}.{spec.name}"]
    with torch.device("meta"):
        part = scheme.part(spec)
    if type(part.encoder) is not Encoder or type(part.decoder) is not Decoder:
        raise ConfigError(
            f"table `{group}.{spec.name}` is held by scheme `{getattr(scheme, 'kind', '?')}`, "
            "which computes rows from indices or vectors from rows; torchrec's module only looks "
            "up. Serve the frozen collection itself (it needs no torchrec), or compress this "
            "table by its dtype alone."
        )
    return f"{group}.{part.probes[0].name}"
