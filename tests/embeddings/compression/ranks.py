"""One of two gloo ranks; started by test_ranks.py, which reads what it writes."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import distributed

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Scheme
from recsys.embeddings.sharding import ShardingConfig
from recsys.embeddings.torchrec_backend import ShardingOptions, to_torchrec
from recsys.embeddings.torchrec_pipeline import SparseDistPipeline
from recsys.schema import Init, TableSpec
from recsys.types import Batch

KEYS = ("user", "tags")
SIZE = 8  # rows a rank
STEPS = 4
RATIO = 0.6


def specs() -> list[TableSpec]:
    """A single-valued and a multi-valued feature, mean pooled, of uneven rows."""
    init = Init(std=0.3)
    return [
        TableSpec(name="user", num_embeddings=301, embedding_dim=8, feature_names=("user",),
                  pooling="sum", init=init),
        TableSpec(name="tags", num_embeddings=257, embedding_dim=8, feature_names=("tags",),
                  pooling="mean", init=init),
    ]  # fmt: skip


def make(scheme: Scheme) -> EmbeddingCollection:
    """Two tables in a scheme, at the ratio or at the scheme's own size."""
    try:
        plan = compress(specs(), scheme, ratio=RATIO)
    except ValueError:
        plan = compress(specs(), scheme)
    schemes = {f"embedding.{name}": found for name, found in plan.items()}
    collection = EmbeddingCollection({"embedding": specs()}, KEYS, schemes=schemes)
    collection.reset_parameters(seed=3)
    return collection


def make_batch(seed: int, rank: int | None) -> Batch:
    """All rows (rank None) or the half of one rank."""
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * SIZE
    counts = torch.randint(0, 4, (rows,), generator=generator)
    users = torch.randint(0, 301, (rows,), generator=generator)
    bags = [torch.randint(0, 257, (int(n),), generator=generator) for n in counts]
    mine = slice(None) if rank is None else slice(rank * SIZE, (rank + 1) * SIZE)
    tags, size = torch.cat(bags[mine]), rows if rank is None else SIZE
    values = torch.cat([users[mine], tags]).int()
    lengths = torch.cat([torch.ones(size), counts[mine]]).int()
    empty = torch.zeros(size, 0)
    return Batch(empty, values, lengths, empty, KEYS, (size, len(tags)))


def loss(collection: EmbeddingCollection, batch: Batch) -> torch.Tensor:
    """Mean over rows, so that the mean over ranks is the mean over all."""
    output = collection(batch)["embedding"].values
    target = torch.linspace(-1.0, 1.0, output.shape[1])
    return ((output - target) ** 2).sum(1).mean() + collection.aux_loss()


def train(
    collection: EmbeddingCollection,
    optimizer: EmbeddingOptimizer,
    rank: int | None,
    pipelined: bool = False,
) -> dict[str, torch.Tensor]:
    """Some steps; decoders by plain SGD. Returns the state dict."""
    tables = {id(parameter) for parameter in collection.table_parameters()}
    dense = [p for p in collection.parameters() if id(p) not in tables and p.requires_grad]

    def forward(batch: Batch) -> torch.Tensor:
        optimizer.zero_grad()
        for parameter in dense:
            parameter.grad = None
        return loss(collection, batch)

    def update() -> None:
        for parameter in dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if rank is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= 2
            parameter.data -= 0.05 * parameter.grad
        optimizer.step()
        collection.after_step(optimizer)

    batches = [make_batch(step, rank) for step in range(STEPS)]
    if pipelined:
        pipeline = SparseDistPipeline(collection, forward, update, torch.device("cpu"))
        assert len(list(pipeline.run(iter(batches)))) == STEPS
    else:
        for batch in batches:
            forward(batch).backward()
            update()
    return {name: tensor.detach().clone() for name, tensor in collection.state_dict().items()}


def main(rank: int, folder: Path) -> None:
    """Trains every case and writes what came out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    adapter: TypeAdapter[Scheme] = TypeAdapter(AnyScheme)
    results: dict[str, dict[str, torch.Tensor]] = {}
    for name, (scheme, placement, kind) in json.loads((folder / "cases").read_text()).items():
        config = EmbeddingOptimizerConfig(kind=kind, learning_rate=0.1)
        options = ShardingOptions(ShardingConfig(placement=placement))
        for pipelined in (False, True):
            collection = make(adapter.validate_python(scheme))
            optimizer = to_torchrec(collection, config, options)
            if not pipelined:
                results[name] = train(collection, optimizer, rank)
            elif collection.encodes_ahead and collection.store.tables:
                results[f"{name},pipelined"] = train(collection, optimizer, rank, pipelined)
    torch.save(results, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
