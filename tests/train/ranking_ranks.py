"""One of two gloo ranks that train LightGCN; started by test_ranking_task.py."""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from recsys.cf import EmbeddingModel
from recsys.cf_config import CFEmbeddingConfig, CFTrainConfig, RankingConfig
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.sampling import PairLoader
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.cf import tiny_interactions
from recsys.train.backend import attach_tables
from recsys.train.ranking_task import RankingTask, Validation
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.types import PairBatch

BATCH_SIZE, EPOCHS = 37, 2
WHOLE = tiny_interactions()
PAIRS = WHOLE.take(np.arange(len(WHOLE)) > 0)  # an odd number: the last parts differ


CONFIGS = {
    "dense": CFEmbeddingConfig(learning_rate=0.05),
    "sparse": CFEmbeddingConfig(kind="adagrad", mode="sparse", learning_rate=0.05),
}


def built() -> EmbeddingModel:
    config = LightGCN.Config(embedding_dim=8, num_layers=2, l2=0.01)
    model = LightGCN(config, InteractionGraph.of(PAIRS))
    model.reset_parameters(4)
    return model


def loader(model: EmbeddingModel, rank: int) -> PairLoader:
    return PairLoader(model.graph, batch_size=BATCH_SIZE, seed=6, rank=rank, world_size=2)


def together(first: PairBatch, second: PairBatch) -> PairBatch:
    """The batches of both ranks as one."""
    assert first.negatives is not None and second.negatives is not None
    return PairBatch(
        torch.cat([first.user, second.user]), torch.cat([first.item, second.item]),
        torch.cat([first.negatives, second.negatives]),
    )  # fmt: skip


def train(
    model: EmbeddingModel, config: CFEmbeddingConfig, backend, batches
) -> tuple[list[float], Tensor]:
    """Losses of the steps, their mean over ranks, and the vectors afterwards."""
    ranks = Ranks.current()
    tables = attach_tables(model, config, backend)
    task = RankingTask(model, CFTrainConfig(), RankingConfig(ks=(5,)), tables, ranks)
    step = TrainStep(task, tables, ranks)
    model.train()
    losses = [ranks.mean(float(step(batch, 1.0))) for _ in range(EPOCHS) for batch in batches()]
    model.eval()
    return losses, torch.cat(model.vectors())


def judged(config: CFEmbeddingConfig, rank: int) -> dict:
    """Trains on this rank's part, and judges."""
    model = built()
    mine = loader(model, rank)
    losses, vectors = train(model, config, "torchrec", lambda: mine)
    ranking = RankingConfig(ks=(5,))
    task = RankingTask(model, CFTrainConfig(), ranking, None, Ranks.current())
    valid = Validation(WHOLE.take(WHOLE.item % 4 > 0), WHOLE.take(WHOLE.item % 4 == 0))
    metrics = task.judge(valid, 1, 1.0).values
    return {"losses": losses, "vectors": vectors, "metrics": metrics}


def main(rank: int, folder: Path) -> None:
    """Writes what came of this rank."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    results = {name: judged(config, rank) for name, config in CONFIGS.items()}
    torch.save(results, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
