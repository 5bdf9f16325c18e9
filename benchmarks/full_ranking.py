"""Full ranking of every item for every user: seconds by block size, and of a plain loop.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/full_ranking.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/full_ranking.py --blocks 16,64,256 --rounds 1

Random vectors of Gowalla's size (29,858 users, 40,981 items, d = 64), about 810,000 seen and
217,000 relevant pairs with items drawn from a Zipf-like law, top 20. CPU seconds of the process,
best of the rounds; one thread unless --threads says otherwise.

The plain loop scores 100 users at a time, hides what they have seen from Python lists, takes
``numpy.argpartition`` and judges one user after the other, as LightGCN-PyTorch and its descendants
do. LightGCN-PyTorch propagates again for every 100 users (``getUsersRating`` calls ``computer``):
the last line adds that, three layers of ``torch.sparse.mm`` with its coalesced COO matrix, from the
mean of a few.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from printing import machine, say, table
from recsys.cf import CFModel
from recsys.evaluate.ranked_lists import users_per_block
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names

K = 20


class Vectors(CFModel):
    """Dot products of given vectors."""

    class Config(CFModel.Config):
        """No options."""

    users: Tensor
    items: Tensor

    def __init__(self, graph: InteractionGraph, dim: int, generator: torch.Generator) -> None:
        super().__init__(self.Config(), graph)
        self.register_buffer("users", torch.randn(graph.num_users, dim, generator=generator))
        self.register_buffer("items", torch.randn(graph.num_items, dim, generator=generator))

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        return self.users[users] @ self.items.T


def pairs(num_users: int, num_items: int, seen: int, relevant: int, seed: int):
    """Random pairs, seen and relevant ones apart; every user has a relevant one."""
    random = np.random.default_rng(seed)
    wanted = seen + relevant
    users = np.concatenate([np.arange(num_users), random.integers(0, num_users, 2 * wanted)])
    popular = (num_items * random.random(len(users)) ** 3).astype(np.int64)
    keys, first = np.unique(users * num_items + popular, return_index=True)
    keys = keys[np.argsort(first)][:wanted]  # the first pair of every user comes first
    names = Names(range(num_users)), Names(range(num_items))
    parts = (np.sort(keys[relevant:]), np.sort(keys[:relevant]))
    return [Interactions(*names, part // num_items, part % num_items) for part in parts]


def plain_loop(model: Vectors, seen: Interactions, relevant: Interactions) -> tuple[float, float]:
    """Recall and NDCG the usual way."""
    known: list[list[int]] = [[] for _ in range(seen.num_users)]
    wanted: list[list[int]] = [[] for _ in range(seen.num_users)]
    for lists, found in ((known, seen), (wanted, relevant)):
        for user, item in zip(found.user.tolist(), found.item.tolist()):
            lists[user].append(item)
    judged = [user for user, items in enumerate(wanted) if items]
    recall = gain = 0.0
    for start in range(0, len(judged), 100):
        users = judged[start : start + 100]
        scores = model.scores(torch.tensor(users)).numpy()
        rows = [row for row, user in enumerate(users) for _ in known[user]]
        scores[rows, [item for user in users for item in known[user]]] = -np.inf
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        best = np.take_along_axis(best, order, 1)
        for user, row in zip(users, best):
            hits = np.array([item in wanted[user] for item in row], dtype=float)
            discount = 1 / np.log2(np.arange(2, K + 2))
            recall += hits.sum() / len(wanted[user])
            gain += (hits * discount).sum() / discount[: min(K, len(wanted[user]))].sum()
    return recall / len(judged), gain / len(judged)


def propagation_seconds(seen: Interactions, dim: int, count: int = 10) -> tuple[float, float]:
    """Mean CPU and wall seconds of three products as LightGCN-PyTorch makes them."""
    total = seen.num_users + seen.num_items
    ends = torch.from_numpy(np.stack([seen.user, seen.item + seen.num_users]))
    ends = torch.cat([ends, ends.flip(0)], dim=1)
    degrees = torch.bincount(ends[0], minlength=total).clamp(min=1).float()
    values = (degrees[ends[0]] * degrees[ends[1]]).rsqrt()
    matrix = torch.sparse_coo_tensor(
        ends, values, (total, total), check_invariants=False
    ).coalesce()
    vectors = torch.randn(total, dim)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        layers = [vectors]
        for _ in range(3):
            layers.append(torch.sparse.mm(matrix, layers[-1]))
        torch.stack(layers, dim=1).mean(dim=1)
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def best_of(rounds: int, action: Callable[[], object]) -> tuple[float, float, object]:
    """CPU and wall seconds of the quickest round."""
    times, found = [], None
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        found = action()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return *min(times), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=29_858)
    parser.add_argument("--items", type=int, default=40_981)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--blocks", default="", help="users at once, with commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(), f"\nthreads: {options.threads}, load now {os.getloadavg()[0]:.1f}")
    scale = options.users / 29_858
    seen, relevant = pairs(
        options.users, options.items, int(810_128 * scale), int(217_242 * scale), seed=0
    )
    generator = torch.Generator().manual_seed(0)
    model = Vectors(InteractionGraph.of(seen), options.dim, generator).eval()
    say(f"{len(seen):,} seen, {len(relevant):,} relevant pairs")
    rows = [["", "CPU s", "wall s", "users / CPU s", f"recall@{K}", f"ndcg@{K}"]]

    def line(name: str, cpu: float, wall: float, recall: float, ndcg: float) -> None:
        rows.append([name, f"{cpu:.2f}", f"{wall:.2f}", f"{options.users / cpu:,.0f}",
                     f"{recall:.6f}", f"{ndcg:.6f}"])  # fmt: skip

    default = users_per_block(options.items, torch.device("cpu"))
    blocks = [int(block) for block in options.blocks.split(",") if block] or [default]
    for block in blocks:
        chosen = RankingOptions(ks=(K,), bootstrap_samples=0, slice_groups=0, users_per_block=block)
        cpu, wall, found = best_of(
            options.rounds, lambda c=chosen: evaluate_ranking(model, seen, relevant, c).metrics
        )
        line(f"blocks of {block}", cpu, wall, found[f"recall@{K}"], found[f"ndcg@{K}"])
        say(rows[-1][0] + " " + rows[-1][1])
    cpu, wall, found = best_of(1, lambda: evaluate_ranking(model, seen, relevant).metrics)
    line("everything (k 10, 20; intervals, slices)", cpu, wall,
         found["recall@20"], found["ndcg@20"])  # fmt: skip
    if not options.no_plain:
        cpu, wall, found = best_of(1, lambda: plain_loop(model, seen, relevant))
        line("plain loop, 100 users", cpu, wall, *found)
        batches = -(-options.users // 100)
        more = propagation_seconds(seen, options.dim)
        line(f"and {batches} propagations", cpu + batches * more[0], wall + batches * more[1],
             *found)  # fmt: skip
    table(rows)


if __name__ == "__main__":
    sys.exit(main())
