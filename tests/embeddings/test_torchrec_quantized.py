"""Frozen tables in torchrec's quantized module: the same bytes and the same outputs."""

from __future__ import annotations

import pytest
import torch
import torchrec
from torchrec.modules.embedding_configs import DataType, QuantConfig
from torchrec.quant.embedding_modules import EmbeddingBagCollection as QuantizedBags

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.freeze import freeze
from recsys.embeddings.row_format import BITS
from recsys.embeddings.torchrec_quantized import to_quantized_ebc
from recsys.errors import ConfigError, SchemaError
from recsys.types import Batch
from tests.embeddings.test_packed_store import make_batch, make_collection

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def to_kjt(batch: Batch) -> torchrec.KeyedJaggedTensor:
    return torchrec.KeyedJaggedTensor(
        keys=list(batch.keys), values=batch.values, lengths=batch.lengths,
        weights=batch.value_weights,
    )  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", BITS)
def test_equals_the_frozen_collection(dtype: str, weighted: bool) -> None:
    """Sum and mean, a shared table, PAD, empty bags; width 1 is in fp16."""
    frozen, batch = freeze(make_collection((16, 20)), dtype), make_batch(weighted=weighted)
    for group in ("d16", "d20", "linear"):
        bags = to_quantized_ebc(frozen, group, weighted)
        assert isinstance(bags, QuantizedBags)
        got, expected = bags(to_kjt(batch)), frozen(batch)[group]
        assert set(got.keys()) == set(expected.keys)
        for key in expected.keys:
            torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-6)
        assert not got["user"][0].any()  # PAD


@pytest.mark.parametrize("dtype", BITS)
def test_holds_the_same_bytes(dtype: str) -> None:
    frozen = freeze(make_collection((16,)), dtype)
    bags = to_quantized_ebc(frozen, "d16")
    sizes = {"fp32": 64, "fp16": 32, "int8": 20, "int4": 12, "int2": 8}
    found = {}
    for tables, module in zip(bags._key_to_tables.values(), bags._emb_modules):
        for config, (rows, _) in zip(tables, module.split_embedding_weights(False)):
            found[config.name] = rows
    assert found["person"].shape == (41, sizes[dtype])
    for name, rows in found.items():
        assert torch.equal(rows, frozen.store.stored()[f"d16.{name}"].view(torch.uint8))
    held = sum(module.weights_host.untyped_storage().nbytes() for module in bags._emb_modules)
    total = sum(rows.numel() for rows in found.values())
    assert total <= held < total + 128 * len(bags._emb_modules)  # whole cache lines


def quantized_by_torchrec(collection: EmbeddingCollection, data_type: DataType) -> QuantizedBags:
    """What torchrec makes of the same weights."""
    configs = [
        torchrec.EmbeddingBagConfig(
            name=spec.name, num_embeddings=spec.num_embeddings, embedding_dim=spec.embedding_dim,
            feature_names=list(spec.feature_names),
            pooling={"sum": torchrec.PoolingType.SUM, "mean": torchrec.PoolingType.MEAN}[
                spec.pooling
            ],
        )
        for spec in collection.groups["d16"]
    ]  # fmt: skip
    bags = torchrec.EmbeddingBagCollection(configs)
    with torch.no_grad():
        for name, bag in bags.embedding_bags.items():
            bag.weight.copy_(collection.store.weights()[f"d16.{name}"])
    bags.qconfig = QuantConfig(
        activation=torch.quantization.PlaceholderObserver.with_args(dtype=torch.float),
        weight=torch.quantization.PlaceholderObserver.with_args(dtype=torch.quint8),
        per_table_weight_dtype={c.name: _TORCH[data_type] for c in configs},
    )
    bags.row_alignment = 1
    return QuantizedBags.from_float(bags)


_TORCH = {
    DataType.FP16: torch.float16,
    DataType.INT8: torch.int8,
    DataType.INT4: torch.quint4x2,
    DataType.INT2: torch.quint2x4,
}


@pytest.mark.parametrize(
    ("dtype", "data_type"),
    [("fp16", DataType.FP16), ("int8", DataType.INT8), ("int4", DataType.INT4)],
)
def test_is_as_close_to_the_weights_as_torchrecs_own(dtype: str, data_type: DataType) -> None:
    """Rounding differs (ours rounds ranges outwards), errors do not."""
    collection, batch = make_collection((16,)), make_batch()
    with torch.no_grad():
        exact = collection(batch)["d16"]
    ours = to_quantized_ebc(freeze(collection, dtype), "d16")(to_kjt(batch))
    theirs = quantized_by_torchrec(collection, data_type)(to_kjt(batch))

    def error(found: torchrec.KeyedTensor) -> float:
        return (
            torch.stack([(found[k] - exact[k]).square().mean() for k in exact.keys]).mean().item()
        )

    assert 0 < error(ours) <= 1.02 * error(theirs)


def test_what_is_refused() -> None:
    collection = make_collection((16, 8))
    with pytest.raises(ConfigError, match=r"not frozen\. Freeze them first"):
        to_quantized_ebc(collection)
    frozen = freeze(collection, "int8")
    with pytest.raises(SchemaError, match=r"groups \['d16', 'd8', 'linear'\]; pass one"):
        to_quantized_ebc(frozen)
    with pytest.raises(SchemaError, match=r"no group `d61`\. Did you mean `d16`"):
        to_quantized_ebc(frozen, "d61")
    hashed = EmbeddingCollection(
        {"d16": collection.groups["d16"]}, collection.keys,
        schemes={"d16.person": Hash(num_buckets=10)},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"table `d16\.person` is held by scheme `hash`"):
        to_quantized_ebc(freeze(hashed, "int8"))
