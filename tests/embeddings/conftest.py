"""Small tables and batches, and both implementations of the local store."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings import kernels
from recsys.embeddings.collection import EmbeddingCollection
from recsys.schema import Init, TableSpec
from recsys.types import Batch

KEYS = ("user", "tags", "friend", "city")


def spec(name: str, rows: int, dim: int, features: tuple[str, ...], pooling: str) -> TableSpec:
    return TableSpec(
        name=name,
        num_embeddings=rows,
        embedding_dim=dim,
        feature_names=features,
        pooling=pooling,
        init=Init(std=1.0),
    )


def make_collection() -> EmbeddingCollection:
    """A shared table, widths that are no multiple of 4, sum and mean, two groups."""
    return EmbeddingCollection(
        {
            "embedding": [
                spec("city", 6, 4, ("city",), "sum"),
                spec("person", 41, 4, ("user", "friend"), "sum"),
                spec("tags", 9, 6, ("tags",), "mean"),
            ],
            "linear": [
                spec("person", 41, 1, ("user", "friend"), "sum"),
                spec("tags", 9, 1, ("tags",), "mean"),
            ],
        },
        KEYS,
    )


def make_batch(seed: int, size: int = 8, weighted: bool = False) -> Batch:
    """Bags of 0 to 4 tags with PAD among them; `city` has no values at all."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, count: int) -> torch.Tensor:
        return torch.randint(0, high, (count,), generator=generator, dtype=torch.int32)

    lengths = draw(5, size)
    lengths[0], total = 0, int(lengths[1:].sum())
    ones, none = torch.ones(size, dtype=torch.int32), torch.zeros(size, dtype=torch.int32)
    values = torch.cat([draw(41, size), draw(9, total), draw(41, size)])
    return Batch(
        dense=torch.zeros(size, 0),
        values=values,
        lengths=torch.cat([ones, lengths, ones, none]),
        labels=torch.zeros(size, 1),
        keys=KEYS,
        value_counts=(size, total, size, 0),
        value_weights=torch.rand(values.shape[0], generator=generator) if weighted else None,
    )


def objective(outputs: dict) -> torch.Tensor:
    """A loss with a gradient everywhere, PAD rows and empty bags included."""
    total = torch.zeros(())
    for number, output in enumerate(outputs.values()):
        columns = torch.arange(1.0, output.values.shape[1] + 1)
        total = total + ((output.values - 0.1 * columns) ** 2).mean() * (number + 1)
    return total


@pytest.fixture(params=["compiled", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the C kernels and with plain torch operations."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "library", lambda: None)
    elif kernels.library() is None:
        pytest.skip("kernels were not built")
    return request.param


@pytest.fixture
def collection() -> EmbeddingCollection:
    return make_collection()
