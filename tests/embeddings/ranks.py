"""One of two gloo ranks; started by test_torchrec_ranks.py, which reads what it writes."""

from __future__ import annotations

import functools
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.embeddings.torchrec_backend import ShardingOptions, to_torchrec
from recsys.embeddings.torchrec_pipeline import SparseDistPipeline
from recsys.errors import ShardingError
from recsys.types import Batch
from tests.embeddings.conftest import spec

MIXED = {
    "embedding.person": {"kind": "row_wise"},
    "tags": {"kind": "data_parallel"},
    "linear.person": {"kind": "table_wise", "ranks": [1]},
}
KEYS = ("user", "tags", "friend", "city")
SIZE = 6  # rows a rank


def make_collection() -> EmbeddingCollection:
    """Uneven rows, a shared table, sum and mean, widths 1, 3 and 8."""
    return EmbeddingCollection(
        {
            "embedding": [
                spec("person", 65, 8, ("user", "friend"), "sum"),
                spec("tags", 9, 3, ("tags",), "mean"),
                spec("city", 5, 4, ("city",), "sum"),
            ],
            "linear": [spec("person", 65, 1, ("user", "friend"), "sum")],
        },
        KEYS,
    )


def make_batch(seed: int, rank: int | None) -> Batch:
    """All rows (rank None) or the half of one rank. `city` never has values."""
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * SIZE
    ones, drawn = torch.ones(rows), torch.randint(0, 4, (rows,), generator=generator)
    lengths = torch.stack([ones, drawn, ones, torch.zeros(rows)]).int()
    limits = (65, 9, 65, 5)
    bags = [
        [torch.randint(0, limit, (int(n),), generator=generator) for n in row]
        for limit, row in zip(limits, lengths)
    ]
    mine = slice(None) if rank is None else slice(rank * SIZE, (rank + 1) * SIZE)
    values = [torch.cat(row[mine]) for row in bags]
    size = rows if rank is None else SIZE
    empty = torch.zeros(size, 0)
    return Batch(
        empty,
        torch.cat(values).int(),
        lengths[:, mine].flatten(),
        empty,
        KEYS,
        tuple(value.numel() for value in values),
    )


def loss(collection: EmbeddingCollection, batch: Batch) -> torch.Tensor:
    """Mean over rows."""
    return sum(((output.values - 0.5) ** 2).sum(1).mean() for output in collection(batch).values())


def train(kind: str, mode: str, placement: str, rank: int, pipelined: bool = False) -> dict:
    """Four steps, then both state dicts, then one more step from the reloaded state."""
    config = EmbeddingOptimizerConfig(kind=kind, mode=mode, learning_rate=0.1)
    collection = make_collection()
    if placement == "mixed":
        sharding = ShardingConfig.model_validate({"tables": MIXED})
    else:
        sharding = ShardingConfig.model_validate({"placement": placement})
    optimizer = to_torchrec(collection, config, ShardingOptions(sharding))

    def forward(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad()
        return loss(collection, batch)

    batches = [make_batch(step, rank) for step in range(4)]
    if pipelined:
        pipeline = SparseDistPipeline(collection, forward, optimizer.step, torch.device("cpu"))
        # In two goes, with a lookup that is not pipelined in between, as an evaluation is.
        trained = list(pipeline.run(iter(batches[:3])))
        with torch.no_grad():
            collection(make_batch(8, rank))
        trained += list(pipeline.run(iter(batches[3:])))
        assert all(found is batch for (found, _), batch in zip(trained, batches, strict=True))
    else:
        for batch in batches:
            forward(batch).backward()
            optimizer.step()
    result = {"weights": collection.state_dict(), "states": optimizer.state_dict()}
    resumed = make_collection()
    again = to_torchrec(resumed, config, ShardingOptions(ShardingConfig(placement="table_wise")))
    resumed.load_state_dict(result["weights"])
    again.load_state_dict(result["states"])
    again.zero_grad()
    loss(resumed, make_batch(9, rank)).backward()
    again.step()
    result["resumed"] = resumed.state_dict()
    result["plan"] = str(collection.store.plan)
    return result


def refuse_uneven(rank: int, pipelined: bool = False) -> str:
    """The error for batches of different size, the fourth of a pipeline."""
    collection = make_collection()
    optimizer = to_torchrec(collection, EmbeddingOptimizerConfig())
    uneven = make_batch(0, None if rank == 0 else 1)
    try:
        if not pipelined:
            collection(uneven)
        batches = iter([*(make_batch(step, rank) for step in range(3)), uneven])
        forward, device = functools.partial(loss, collection), torch.device("cpu")
        for _ in SparseDistPipeline(collection, forward, optimizer.step, device).run(batches):
            pass
    except ShardingError as error:
        return str(error)
    return ""


def main(rank: int, folder: Path) -> None:
    """Runs every case and writes what came out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    results: dict = {"uneven": refuse_uneven(rank), "uneven,pipelined": refuse_uneven(rank, True)}
    for case in (folder / "cases").read_text().split():
        results[case] = train(*case.split(","), rank)
        results[f"{case},pipelined"] = train(*case.split(","), rank, pipelined=True)
    torch.save(results, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
