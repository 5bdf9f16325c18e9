"""What an epoch of training pairs with negatives costs, against a loop over Python sets.

On the Gowalla graph where ``.data/gowalla_lightgcn`` is there, else on a random one of its size;
one thread, all in one run. Quote the ratios.

    .venv/bin/python benchmarks/negative_sampling.py
"""

import argparse
import itertools
import random
import time

import numpy as np
import torch

from printing import machine, table
from propagation import graph
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.sampling import PairLoader

CONFIGS = {
    "pairs alone": SamplingConfig(negatives="none"),
    "uniform, 1": SamplingConfig(),
    "uniform, 1, LightGCN's users": SamplingConfig(by="user"),
    "uniform, 10": SamplingConfig(num_negatives=10),
    "uniform, 100": SamplingConfig(num_negatives=100),
    "popularity, 1": SamplingConfig(negatives="popularity"),
    "in batch, 1": SamplingConfig(negatives="in_batch"),
    "uniform, 2048 shared": SamplingConfig(shared=True, num_negatives=2048),
    "in batch, shared": SamplingConfig(negatives="in_batch", shared=True),
}


def epoch(pairs: InteractionGraph, config: SamplingConfig, batch_size: int) -> tuple[float, int]:
    """CPU seconds of one epoch, and negatives in it (of each pair, or in the shared sets)."""
    loader, count = PairLoader(pairs, config, batch_size), 0
    start = time.process_time()
    for batch in loader:
        count += 0 if batch.negatives is None else batch.negatives.numel()
    return time.process_time() - start, count


def python_sets(pairs: InteractionGraph, share: int) -> tuple[float, int]:
    """One negative of every ``share``-th pair by a loop, as SELFRec and LightGCN-PyTorch do."""
    users, items = pairs.user.tolist(), pairs.item.tolist()
    seen: list[set[int]] = [set() for _ in range(pairs.num_users)]
    for user, item in zip(users, items):
        seen[user].add(item)
    found, draw, last = [], random.Random(0).randint, pairs.num_items - 1
    start = time.process_time()
    for user, item in zip(users[::share], items[::share]):
        negative = draw(0, last)
        while negative in seen[user]:
            negative = draw(0, last)
        found.append((user, item, negative))
    return time.process_time() - start, len(found)


def lightgcn_loop(pairs: InteractionGraph, share: int) -> tuple[float, int]:
    """The loop of LightGCN-PyTorch's UniformSample_original_python over arrays, for some pairs."""
    offsets, items = pairs.offsets().tolist(), pairs.item.numpy()
    positives = [items[a:b] for a, b in itertools.pairwise(offsets)]
    np.random.seed(0)
    found = []
    start = time.process_time()
    for user in np.random.randint(0, pairs.num_users, pairs.num_edges // share):
        mine = positives[user]
        if len(mine) == 0:
            continue
        positive = mine[np.random.randint(0, len(mine))]
        while True:
            negative = np.random.randint(0, pairs.num_items)
            if negative not in mine:
                break
        found.append([user, positive, negative])
    np.array(found)
    return time.process_time() - start, len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    name, pairs = graph()
    print(f"{name}: {pairs.num_edges:,} pairs an epoch, batches of {args.batch_size:,}")
    reference = min(4 * python_sets(pairs, 4)[0] for _ in range(args.rounds))
    loop = min(8 * lightgcn_loop(pairs, 8)[0] for _ in range(args.rounds))
    rows = [["negatives", "CPU-s an epoch", "million/s", "against Python sets"]]
    rate = f"{pairs.num_edges / loop / 1e6:.2f}"
    rows.append(["LightGCN-PyTorch's loop, 1", f"{loop:.2f}", rate, f"{reference / loop:.2f}x"])
    rows.append(
        ["Python sets, 1", f"{reference:.2f}", f"{pairs.num_edges / reference / 1e6:.2f}", "1"]
    )
    for label, config in CONFIGS.items():
        rounds = args.rounds if config.num_negatives < 100 else 2
        found = [epoch(pairs, config, args.batch_size) for _ in range(rounds)]
        seconds, count = min(found)
        speed, ratio = f"{count / seconds / 1e6:.1f}", ""
        if not config.shared and count:
            ratio = f"{count / seconds / (pairs.num_edges / reference):.0f}x"
        rows.append([label, f"{seconds:.2f}", speed if count else "", ratio])
    table(rows)


if __name__ == "__main__":
    main()
