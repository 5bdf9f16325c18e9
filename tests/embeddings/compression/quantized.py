"""Plain versions of learned product quantization, for the tests of `DPQ`, `MGQE` and `Codes`."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.quantizer import Quantizer
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.testing.table import vectors


def plain_codes(queries: Tensor, keys: Tensor, mode: str, few: dict[int, int]) -> list[list[int]]:
    """Codes of indices 1, 2, ...: loops over everything, in float64."""
    parts, centroids, width = keys.shape
    found = []
    for index in range(1, queries.shape[0]):
        row = []
        for part in range(parts):
            query = queries[index, part * width : (part + 1) * width].double()
            best, choice = -float("inf"), -1
            for k in range(few.get(index, centroids)):
                key = keys[part, k].double()
                score = float(query @ key) if mode == "sx" else -float(((query - key) ** 2).sum())
                if score > best:
                    best, choice = score, k
            row.append(choice)
        found.append(row)
    return found


def plain_rows(codes: list[list[int]], books: Tensor) -> Tensor:
    """Vectors of all indices, PAD's zeros first."""
    rows = [torch.cat([books[p, k] for p, k in enumerate(row)]) for row in codes]
    return torch.stack([torch.zeros_like(rows[0]), *rows])


def quantizer_of(tables: EmbeddingCollection) -> Quantizer:
    decoder = tables.trained()["embedding.item"].part.decoder
    assert isinstance(decoder, Quantizer)
    return decoder


def queries_of(tables: EmbeddingCollection) -> Tensor:
    return tables.trained()["embedding.item"].probes[0]


def spread(tables: EmbeddingCollection) -> None:
    """Gives queries and centroids other values than those of the start."""
    generator = torch.Generator().manual_seed(5)
    state = tables.state_dict()
    for name, value in state.items():
        if "queries" in name or "decoders" in name:
            state[name] = torch.randn(value.shape, generator=generator)
    tables.load_state_dict(state)


def learn(tables: EmbeddingCollection, targets: Tensor, steps: int) -> list[float]:
    """Regression on vectors of indices 1, 2, ... with the auxiliary loss; losses without it."""
    rows = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.2))
    adam = torch.optim.Adam(tables.decoders.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        rows.zero_grad()
        adam.zero_grad()
        loss = ((vectors(tables, range(1, targets.shape[0] + 1)) - targets) ** 2).mean()
        (loss + tables.aux_loss()).backward()
        rows.step()
        adam.step()
        losses.append(loss.item())
    return losses
