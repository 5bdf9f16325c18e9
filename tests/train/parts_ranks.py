"""One of some gloo ranks; started by test_shards.py, which reads what it writes."""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.embeddings.torchrec_backend import ShardingOptions, to_torchrec
from recsys.train.checkpoint import CheckpointStore
from recsys.train.ranks import Ranks
from tests.embeddings import ranks as toy


def main(rank: int, world: int, folder: Path) -> None:
    """Loads the case's checkpoint where there is one, steps, saves, writes whole tables."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / f"store-{world}"), world)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    found = {}
    for case in (folder / "cases").read_text().split():
        kind, mode, *placements = case.split(",")
        config = EmbeddingOptimizerConfig(kind=kind, mode=mode, learning_rate=0.1)
        placement = placements[0 if world == 2 else 1]
        sharding = ShardingConfig.model_validate(
            {"tables": toy.MIXED} if placement == "mixed" else {"placement": placement}
        )
        collection = toy.make_collection()
        optimizer = to_torchrec(collection, config, ShardingOptions(sharding))
        checkpoints, ours = CheckpointStore(folder / case), Ranks.current()
        if world != 2:
            loaded = checkpoints.load("last", ours)
            collection.load_state_dict(loaded.tensors["model"])
            optimizer.load_state_dict(loaded.tensors["tables"])
        else:
            for seed in range(3):
                optimizer.zero_grad()
                toy.loss(collection, toy.make_batch(seed, rank)).backward()
                optimizer.step()
        with collection.tables_apart():
            rest = collection.state_dict()
        parts = {"model": collection.parts(), "tables": optimizer.parts()}
        tensors = {"model": rest, "tables": optimizer.rest()}
        checkpoints.save(world, tensors, {"world": world}, parts=parts, ranks=ours)
        found[case] = {"weights": collection.state_dict(), "states": optimizer.state_dict()}
    torch.save(found, folder / f"world{world}-rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
