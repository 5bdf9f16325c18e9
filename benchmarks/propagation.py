"""What propagation over a user-item graph costs: ours against torch's and PyG's sparse products.

Three layers forward, and forward with backward, on the Gowalla graph where
``.data/gowalla_lightgcn`` is there, else on a random one of its size. All operators take turns in
one process; CPU milliseconds, the least of several. Quote the ratios.

    .venv/bin/python benchmarks/propagation.py
    .venv/bin/python benchmarks/propagation.py --dim 128 --threads 2
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv import LGConv

from printing import machine, say, table
from recsys.graph import spmm
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency

TRAIN = Path(__file__).parent.parent / ".data/gowalla_lightgcn/train.rebuilt.txt"


def graph() -> tuple[str, InteractionGraph]:
    """Gowalla, or popular items and active users at random."""
    if TRAIN.exists():
        lines = [np.array(line.split(), np.int64) for line in TRAIN.read_text().splitlines()]
        user = np.concatenate([np.full(len(line) - 1, line[0]) for line in lines])
        item = np.concatenate([line[1:] for line in lines])
        keys, name = np.unique(user * 40_981 + item), "Gowalla"
    else:
        rng = np.random.default_rng(0)
        user = (rng.random(1_150_000) ** 2 * 29_858).astype(np.int64)
        item = rng.permutation(40_981)[(rng.random(1_150_000) ** 3 * 40_981).astype(np.int64)]
        keys, name = np.unique(user * 40_981 + item)[:810_128], "random"
    user, item = (torch.from_numpy(part) for part in np.divmod(keys, 40_981))
    return name, InteractionGraph(29_858, 40_981, user, item)


class OwnBackward(torch.autograd.Function):
    """torch's CSR product without torch's gradient of it: the matrix is symmetric."""

    @staticmethod
    def forward(ctx, x, matrix):
        """The product."""
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx, grad):
        """The same product."""
        return ctx.matrix @ grad.contiguous(), None


def layered(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The mean of the layers."""

    def propagate(x: Tensor, num_layers: int) -> Tensor:
        total = h = x
        for _ in range(num_layers):
            h = product(h)
            total = total + h
        return total / (num_layers + 1)

    return propagate


def operators(adj: Adjacency) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """By name: rows and a number of layers to their mean."""
    size, row, col = adj.shape, adj.row.long(), adj.col.long()
    csr = torch.sparse_csr_tensor(
        adj.pattern.indptr.int(), adj.col, adj.values, size, check_invariants=False
    )
    triples = torch.sparse_coo_tensor(
        torch.stack([row, col]), adj.values, size, check_invariants=False
    ).coalesce()
    edges = torch.stack([col, row])  # from, to
    index, order = EdgeIndex(edges, sparse_size=size, is_undirected=True).sort_by("col")
    index.fill_cache_()
    weights = adj.values if order is None else adj.values[order]
    conv = LGConv(normalize=False)
    return {
        "recsys adj.propagate": lambda x, n: adj.propagate(x, n),
        "recsys adj @ x": layered(lambda x: adj @ x),
        "torch CSR, own backward": layered(lambda x: OwnBackward.apply(x, csr)),
        "torch CSR": layered(lambda x: csr @ x),
        "torch triples": layered(lambda x: torch.sparse.mm(triples, x)),
        "PyG EdgeIndex.matmul": layered(
            lambda x: index.matmul(x, input_value=weights, transpose=True)
        ),
        "PyG LGConv": layered(lambda x: conv(x, edges, adj.values)),
    }


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of all threads, once."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def in_sequence(adj: Adjacency, x: Tensor) -> Callable[[], object]:
    """Our kernel on as many edges whose neighbours stand one after the other: no random access."""
    col = (torch.arange(adj.num_edges) % len(x)).int()
    return lambda: spmm.product(adj.pattern.indptr, col, adj.values, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Sparse CSR tensor support")
    torch.set_num_threads(args.threads)
    print(machine().replace("1 torch thread a rank", f"{args.threads} torch thread(s)"))
    name, pairs = graph()
    build = min(cpu_ms(lambda: Adjacency.bipartite(pairs)) for _ in range(3))
    adj = Adjacency.bipartite(pairs)
    print(
        f"{name}: {adj.shape[0]:,} nodes, {adj.num_edges:,} edges, {args.layers} layers of "
        f"{args.dim}; the operator is built in {build:.0f} CPU-ms, one edge drop takes "
        f"{min(cpu_ms(lambda: adj.drop_edges(0.1)) for _ in range(3)):.0f}"
    )
    x = torch.randn(adj.shape[0], args.dim, requires_grad=True)
    ways, plain = operators(adj), x.detach()
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    wanted = ways["torch triples"](plain, args.layers)
    single, sequence = [], []
    for number in range(args.rounds):
        for way, propagate in ways.items():
            if number > 1 and min(both for _, both in times[way]) > 1000:
                continue  # twice is enough for the slow ones
            with torch.no_grad():
                torch.testing.assert_close(propagate(plain, args.layers), wanted)
                forward = cpu_ms(lambda f=propagate: f(plain, args.layers))
            both = cpu_ms(lambda f=propagate: f(x, args.layers).sum().backward())
            times[way].append((forward, both))
        single.append(cpu_ms(lambda: adj @ plain))
        sequence.append(cpu_ms(in_sequence(adj, plain)))
        say(f"round {number + 1} of {args.rounds}")
    best = {way: tuple(map(min, zip(*found))) for way, found in times.items()}
    ours = best["recsys adj.propagate"]
    rows = [["operator", "forward", "with backward", "against ours"]]
    for way, (forward, both) in best.items():
        rows.append([way, f"{forward:.0f}", f"{both:.0f}", f"{both / ours[1]:.1f}x"])
    table(rows)
    gathered = 4e-6 * adj.num_edges * args.dim / min(single)
    print(
        f"one product: {min(single):.1f} CPU-ms, {gathered:.0f} GB/s of rows gathered; with "
        f"neighbours in sequence {min(sequence):.1f} CPU-ms, so {min(sequence) / min(single):.0%} "
        f"of what the kernel reaches without random access"
    )
    print(
        f"{2 * args.layers} bare products are {2 * args.layers * min(single) / ours[1]:.0%} of "
        "our forward with backward"
    )


if __name__ == "__main__":
    main()
