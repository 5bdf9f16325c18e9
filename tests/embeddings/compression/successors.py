"""What the trainer does between phases and on freezing, for the one table under test."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Dtype, SearchContext, Successor, Trained
from recsys.schema import TableSpec
from recsys.testing.table import OTHER


def collection_of(
    successor: Successor, spec: TableSpec, dtype: Dtype | None = None
) -> EmbeddingCollection:
    """What freezing does, for the one table."""
    tables = EmbeddingCollection(
        {"embedding": [OTHER, spec]},
        ("other", "item"),
        schemes={f"embedding.{spec.name}": successor.scheme},
        dtype=dtype,
    )
    tables.reset_parameters(0)
    part = tables._parts[f"embedding.{spec.name}"]
    if successor.encoder is not None:
        part.encoder.load_state_dict(dict(successor.encoder))
    if successor.decoder is not None:
        part.decoder.load_state_dict(dict(successor.decoder))
    if successor.probes:
        names = (f"embedding.{probe.name}" for probe in part.probes)
        tables.store.load_weights(dict(zip(names, successor.probes)))
    return tables


CONTEXT = SearchContext(validate=lambda: 0.5, say=lambda line: None, seed=0)


def item_of(tables: EmbeddingCollection) -> Trained:
    return tables.trained()["embedding.item"]


def advanced(tables: EmbeddingCollection, phase: str, spec: TableSpec) -> EmbeddingCollection:
    """The collection of the phase after this one."""
    item = item_of(tables)
    after = item.scheme.advance(phase, {"embedding.item": item}, CONTEXT)
    return collection_of(after["embedding.item"], spec)


def frozen(tables: EmbeddingCollection, spec: TableSpec) -> EmbeddingCollection:
    item = item_of(tables)
    return collection_of(item.scheme.frozen(item), spec, "fp32")


def train(
    tables: EmbeddingCollection,
    loss_of: Callable[[EmbeddingCollection], Tensor],
    steps: int,
    learning_rate: float = 0.05,
) -> list[float]:
    """A small training loop: tables by adagrad, decoders by Adam, adapters after every step."""
    rows = tables.attach_optimizer(
        EmbeddingOptimizerConfig(kind="adagrad", learning_rate=learning_rate)
    )
    apart = {id(parameter) for parameter in tables.architecture_parameters()}
    dense = [p for p in tables.decoders.parameters() if id(p) not in apart]
    adam = torch.optim.Adam(dense, lr=1e-3) if dense else None
    losses = []
    for _ in range(steps):
        rows.zero_grad()
        if adam is not None:
            adam.zero_grad()
        loss = loss_of(tables)
        (loss + tables.aux_loss()).backward()
        rows.step()
        if adam is not None:
            adam.step()
        tables.after_step(rows)
        losses.append(loss.item())
    return losses
