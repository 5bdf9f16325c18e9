"""What tests of schemes share: tables of several sizes, dense gradients, a small regression."""

from __future__ import annotations

import torch
from pydantic import TypeAdapter
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Scheme
from recsys.schema import Init, TableSpec
from recsys.testing.table import bag_batch, make_tables, vectors

BAGS, WEIGHTS = [[2, 3, 2], [], [7, 0, 39], [1]], [0.5, 2.0, 1.0, -1.0, 3.0, 0.25, 1.5]


def table(name: str, rows: int, dim: int = 16, std: float = 0.5) -> TableSpec:
    return TableSpec(
        name=name,
        num_embeddings=rows,
        embedding_dim=dim,
        feature_names=(name,),
        pooling="sum",
        init=Init(std=std),
    )


def round_trip(scheme: Scheme) -> Scheme:
    adapter: TypeAdapter[Scheme] = TypeAdapter(AnyScheme)
    return adapter.validate_json(adapter.dump_json(scheme))


def check_bags(tables: EmbeddingCollection, dense: Tensor) -> None:
    """Weighted bags with repeats, PAD and an empty one equal pooling of a dense (n, D) table."""
    spec = next(spec for spec in tables.groups["embedding"] if spec.name == "item")
    mean, rows, start = spec.pooling == "mean", [], 0
    for bag in BAGS:
        weights = torch.tensor(WEIGHTS[start : start + len(bag)])
        start += len(bag)
        row = (dense[bag] * weights[:, None]).sum(0) if bag else torch.zeros(dense.shape[1])
        rows.append(row / max(len(bag), 1) if mean else row)
    got = tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"]
    torch.testing.assert_close(got, torch.stack(rows), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(tables.all_rows("embedding", "item"), dense, atol=1e-6, rtol=1e-5)


def regress(tables: EmbeddingCollection, targets: Tensor, steps: int = 150) -> list[float]:
    """Trains rows and decoders to give the targets of indices 1, 2, ...; the losses."""
    rows = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1))
    dense = [*tables.decoders.parameters()]
    adam = torch.optim.Adam(dense, lr=0.02) if dense else None
    indices, losses = range(1, targets.shape[0] + 1), []
    for _ in range(steps):
        rows.zero_grad()
        if adam is not None:
            adam.zero_grad()
        loss = ((vectors(tables, indices) - targets) ** 2).mean()
        loss.backward()
        rows.step()
        if adam is not None:
            adam.step()
        tables.after_step(rows)
        losses.append(loss.item())
    return losses


def made(scheme: Scheme, spec: TableSpec, seed: int = 1) -> EmbeddingCollection:
    tables = make_tables(scheme, spec)
    tables.reset_parameters(seed)
    return tables
