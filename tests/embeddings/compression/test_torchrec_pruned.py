from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.pruned import Pruned, pruned
from recsys.embeddings.freeze import freeze
from recsys.embeddings.torchrec_pruned import FbgemmBags
from recsys.errors import ConfigError, SchemaError
from recsys.schema import Init, Pooling, TableSpec
from recsys.types import Batch

KEYS = ("user", "tags", "friend")


def specs(pooling: Pooling) -> list[TableSpec]:
    shared = {"init": Init(std=0.5)}
    return [
        TableSpec(name="person", num_embeddings=200, embedding_dim=8,
                  feature_names=("user", "friend"), pooling="sum", **shared),
        TableSpec(name="tags", num_embeddings=30, embedding_dim=8,
                  feature_names=("tags",), pooling=pooling, **shared),
    ]  # fmt: skip


def weight() -> Tensor:
    """Every third row of 200 is kept."""
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    return rows * (torch.arange(200) % 3 == 1).unsqueeze(1)


def collection(pooling: Pooling = "mean", dtype: str = "fp32") -> EmbeddingCollection:
    successor = pruned(specs(pooling)[0], weight())
    assert isinstance(successor.scheme, Pruned) and successor.scheme.layout == "rows"
    tables = EmbeddingCollection(
        {"g": specs(pooling)}, KEYS, schemes={"g.person": successor.scheme}
    )
    tables.reset_parameters(1)
    assert successor.probes is not None and successor.encoder is not None
    tables.store.load_weights({"g.person@rows": successor.probes[0]})
    tables.encoders["g/person"].load_state_dict(dict(successor.encoder))
    return freeze(tables, dtype)  # type: ignore[arg-type]


def batch(weighted: bool) -> Batch:
    lengths = torch.tensor([1, 1, 1, 3, 0, 2, 2, 0, 1], dtype=torch.int32)
    values = torch.tensor([4, 5, 199, 2, 3, 0, 29, 29, 1, 7, 7], dtype=torch.int32)
    weights = torch.linspace(-1.0, 2.0, 11) if weighted else None
    empty = torch.zeros(3, 0)
    return Batch(empty, values, lengths, empty, KEYS, (3, 5, 3), None, weights)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4", "int2"])
def test_fbgemm_gives_what_the_frozen_collection_gives(pooling, weighted, dtype):
    tables = collection(pooling, dtype)
    bags, rows = FbgemmBags(tables, "g"), batch(weighted)
    expected, got = tables(rows)["g"], bags(rows)
    for key in KEYS:
        torch.testing.assert_close(got[key], expected[key], atol=1e-6, rtol=1e-5)
    if not weighted:
        assert not got["user"][1].any()  # 5 was pruned
        assert got["user"][[0, 2]].any(1).all()  # 4 and 199 were not


def test_what_it_cannot_serve_is_refused():
    with pytest.raises(ConfigError, match="freeze"):
        FbgemmBags(EmbeddingCollection({"g": specs("sum")}, KEYS), "g")
    scheme = Pruned(layout="csr", kept=3, nnz=5)
    tables = EmbeddingCollection({"g": specs("sum")}, KEYS, None, {"g.person": scheme}, "fp32")
    with pytest.raises(ConfigError, match="whole rows"):
        FbgemmBags(tables, "g")
    wrong = dataclasses.replace(batch(False), keys=("user", "friend", "tags"))
    with pytest.raises(SchemaError, match="keys"):
        FbgemmBags(collection(), "g")(wrong)
