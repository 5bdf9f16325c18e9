"""One of two gloo ranks that train KGAT; started by test_kgat.py."""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from recsys.cf_config import CFEmbeddingConfig, CFTrainConfig, RankingConfig
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.kgat import KGAT
from recsys.testing.cf import tiny_interactions, tiny_knowledge
from recsys.train.backend import attach_tables
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.types import PairBatch, TripleBatch

EPOCHS = 3


def built() -> KGAT:
    """KGAT without dropout, which differs by rank."""
    config = KGAT.Config(embedding_dim=8, layers=(8,), message_dropout=0.0, l2=0.01)
    model = KGAT(config, InteractionGraph.of(tiny_interactions(), tiny_knowledge()))
    model.reset_parameters(4)
    return model


def together(first: Any, second: Any) -> Any:
    """The batches of both ranks as one."""
    assert type(first) is type(second)
    names = ["head", "relation", "tail", "negative"]
    if isinstance(first, PairBatch):
        names = ["user", "item", "negatives"]
    parts = [torch.cat([getattr(batch, name) for batch in (first, second)]) for name in names]
    return (PairBatch if isinstance(first, PairBatch) else TripleBatch)(*parts)


def train(model: KGAT, backend: Any, batches: Any) -> tuple[list[float], Tensor]:
    """Losses of the steps, their mean over ranks, and the vectors afterwards."""
    ranks = Ranks.current()
    tables = attach_tables(model, CFEmbeddingConfig(learning_rate=0.05), backend)
    config = CFTrainConfig(learning_rate=0.05)
    task = RankingTask(model, config, RankingConfig(ks=(5,)), tables, ranks)
    step, losses = TrainStep(task, tables, ranks), []
    model.train()
    for epoch in range(EPOCHS):
        task.begin_epoch(epoch)
        losses += [ranks.mean(float(step(batch, 1.0))) for batch in batches()]
    model.eval()
    return losses, torch.cat(model.vectors())


def main(rank: int, folder: Path) -> None:
    """Trains on this rank's part and writes what came of it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    model = built()
    mine = model.loader(batch_size=37, seed=6, rank=rank, world_size=2)
    losses, vectors = train(model, "torchrec", lambda: mine)
    torch.save({"losses": losses, "vectors": vectors}, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
