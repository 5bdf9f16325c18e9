"""An epoch of LightGCN: ours against the operations of LightGCN-PyTorch and a lean torch loop.

    .venv/bin/python ../shared/bench/graph/make_graph.py      # once: writes .bench/graph/train.npz
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/graph_step.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/graph_step.py --graph .bench/graph/train.npz

All take turns on the same graph in one process: three layers, d = 64, one thread. An epoch has as
many pairs as the graph; its CPU seconds are those of a step (the least of the rounds) times its
steps, batches and negatives included. Two peers:

- ``LightGCN-PyTorch``: the operations of its training step, written anew from its public code:
  ``torch.sparse.mm`` with a coalesced COO matrix for every layer, a stack and mean of the layers,
  rows by indexing, default Adam, and its Python sampling loop for the whole epoch. Its own code
  took 266 CPU seconds an epoch on this graph, and 6.6 for sampling.
- ``lean torch``: CSR products with a hand-written gradient, one gather, fused Adam, vectorized
  negatives, as in ``../shared/bench/graph/bench_step.py``.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from printing import machine, say, table
from recsys.cf_config import CFEmbeddingConfig, CFTrainConfig, RankingConfig
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.sampling import PairLoader
from recsys.models.graph.light_gcn import LightGCN
from recsys.models.graph.mf_bpr import MFBPR
from recsys.models.graph.x_sim_gcl import XSimGCL
from recsys.train.backend import attach_tables
from recsys.train.ranking_task import RankingTask
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep

LAYERS, DIM = 3, 64


def normalized(train: sp.csr_matrix) -> sp.csr_matrix:
    """D^-1/2 A D^-1/2 over users and items."""
    users = np.maximum(np.diff(train.indptr), 1) ** -0.5
    items = np.maximum(np.bincount(train.indices, minlength=train.shape[1]), 1) ** -0.5
    ratings = sp.diags(users) @ train @ sp.diags(items)
    return sp.bmat([[None, ratings], [ratings.T, None]]).tocsr().astype(np.float32)


class CooStep:
    """A training step of LightGCN-PyTorch."""

    def __init__(self, train: sp.csr_matrix) -> None:
        matrix = normalized(train).tocoo()
        places = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
        self.matrix = torch.sparse_coo_tensor(
            places, torch.from_numpy(matrix.data), matrix.shape
        ).coalesce()
        self.sizes = list(train.shape)
        self.user = nn.Embedding(train.shape[0], DIM)
        self.item = nn.Embedding(train.shape[1], DIM)
        self.adam = torch.optim.Adam([self.user.weight, self.item.weight], lr=1e-3)

    def __call__(self, user: Tensor, item: Tensor, negative: Tensor) -> None:
        """Forward, backward, update."""
        layers = [torch.cat([self.user.weight, self.item.weight])]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(self.matrix, layers[-1]))
        users, items = torch.stack(layers, dim=1).mean(dim=1).split(self.sizes)
        vectors = users[user], items[item], items[negative]
        rows = self.user(user), self.item(item), self.item(negative)
        l2 = 0.5 * sum(row.norm(2).pow(2) for row in rows) / len(user)
        scores = [(vectors[0] * other).sum(1) for other in vectors[1:]]
        loss = functional.softplus(scores[1] - scores[0]).mean() + 1e-4 * l2
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


class _Mean(torch.autograd.Function):
    """The mean of the layers; the matrix is symmetric."""

    @staticmethod
    def forward(ctx, rows: Tensor, matrix: Tensor) -> Tensor:
        """Of all nodes."""
        ctx.matrix = matrix
        return _layers(rows, matrix)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """The same polynomial of the gradient."""
        return _layers(grad, ctx.matrix), None


def _layers(rows: Tensor, matrix: Tensor) -> Tensor:
    total, layer = rows.clone(), rows
    for _ in range(LAYERS):
        layer = matrix @ layer
        total += layer
    return total.div_(LAYERS + 1)


class LeanStep:
    """A training step as lean as torch's own operations make it."""

    def __init__(self, train: sp.csr_matrix) -> None:
        matrix = normalized(train)
        matrix.sort_indices()
        self.matrix = torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data), size=matrix.shape,
        )  # fmt: skip
        self.first = train.shape[0]
        self.rows = nn.Parameter(0.1 * torch.randn(sum(train.shape), DIM))
        self.adam = torch.optim.Adam([self.rows], lr=1e-3, fused=True)

    def __call__(self, user: Tensor, item: Tensor, negative: Tensor) -> None:
        """Forward, backward, update."""
        nodes = torch.cat([user, item + self.first, negative + self.first])
        vectors = _Mean.apply(self.rows, self.matrix)
        found = functional.embedding(nodes, vectors).view(3, len(user), DIM)  # type: ignore[arg-type]
        loss = functional.softplus((found[0] * (found[2] - found[1])).sum(1)).mean()
        used = functional.embedding(nodes, self.rows)
        loss = loss + 0.5e-4 * used.square().sum() / len(user)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()


def python_sampling(train: sp.csr_matrix, count: int) -> float:
    """CPU seconds of LightGCN-PyTorch's sampling loop for so many pairs."""
    lists = [train.indices[a:b] for a, b in zip(train.indptr, train.indptr[1:])]
    start, found = time.process_time(), []
    for user in np.random.randint(0, len(lists), count):
        own = lists[user]
        if len(own) == 0:
            continue
        item = own[np.random.randint(0, len(own))]
        while True:
            negative = np.random.randint(0, train.shape[1])
            if negative not in own:
                break
        found.append([user, item, negative])
    np.array(found)
    return time.process_time() - start


def ours(model_class, graph: InteractionGraph, size: int, config: CFEmbeddingConfig, **options):
    """A step of `recsys train`, with its batch and negatives."""
    model = model_class(model_class.Config(embedding_dim=DIM, **options), graph)
    model.reset_parameters(0)
    tables, ranks = attach_tables(model, config, "local"), Ranks.current()
    task = RankingTask(model, CFTrainConfig(), RankingConfig(), tables, ranks)
    step = TrainStep(task, tables, ranks)
    model.train()
    batches: Iterator = iter(PairLoader(graph, batch_size=size))
    return lambda: step(next(batches), 1.0)


def main() -> None:
    """Rounds of all, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph", type=Path, default=Path(".bench/graph/train.npz"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train = sp.load_npz(args.graph).tocsr().astype(np.float32)
    train.sort_indices()
    user = torch.from_numpy(np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)))
    graph = InteractionGraph(*train.shape, user, torch.from_numpy(train.indices.astype(np.int64)))
    print(machine())
    print(f"{graph.num_users:,} users, {graph.num_items:,} items, {graph.num_edges:,} pairs")
    part = graph.num_edges // 10
    sampling = python_sampling(train, part) * graph.num_edges / part

    def drawn(step: Callable[..., None], size: int) -> Callable[[], None]:
        loader = iter(PairLoader(graph, batch_size=size))

        def one() -> None:
            batch = next(loader)
            step(batch.user, batch.item, batch.negatives[:, 0])  # type: ignore[index]

        return one

    dense, sparse = CFEmbeddingConfig(), CFEmbeddingConfig(mode="sparse")
    cases = {
        "LightGCN-PyTorch, batch 2048": (2048, drawn(CooStep(train), 2048), sampling),
        "lean torch, batch 2048": (2048, drawn(LeanStep(train), 2048), 0.0),
        "lean torch, batch 8192": (8192, drawn(LeanStep(train), 8192), 0.0),
        "ours LightGCN, batch 2048": (2048, ours(LightGCN, graph, 2048, dense), 0.0),
        "ours LightGCN, batch 8192": (8192, ours(LightGCN, graph, 8192, dense), 0.0),
        "ours XSimGCL, 2 layers, batch 4096": (
            4096, ours(XSimGCL, graph, 4096, dense, num_layers=2), 0.0,
        ),
        "ours MFBPR, batch 2048, sparse Adam": (2048, ours(MFBPR, graph, 2048, sparse), 0.0),
    }  # fmt: skip
    seconds = {name: float("inf") for name in cases}
    for number in range(args.rounds + 1):
        say(f"round {number} of {args.rounds}")
        for name, (_, step, _) in cases.items():
            start = time.process_time()
            step()
            if number:  # the first warms up
                seconds[name] = min(seconds[name], time.process_time() - start)
    rows = [("one epoch", "CPU ms a step", "steps", "CPU s", "against the first")]
    first = 0.0
    for name, (size, _, more) in cases.items():
        steps = -(-graph.num_edges // size)
        total = seconds[name] * steps + more
        first = first or total
        rows.append((name, f"{1000 * seconds[name]:.1f}", str(steps), f"{total:.1f}",
                     f"{first / total:.1f}x"))  # fmt: skip
    table(rows)
    print(f"of the first, {sampling:.1f} s are its Python sampling; negatives are in all others")


if __name__ == "__main__":
    main()
