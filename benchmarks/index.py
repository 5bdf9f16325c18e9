"""What codes of an index keep, what they weigh, and how long a search takes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --items 100000 --dim 128
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --vectors items.npy --queries users.npy
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --filters

Random vectors in clusters by default, of varied length and with axes of falling width, as those of
trained recommenders are. ``coarse`` is the share of the exact top k that the codes alone keep,
``in pool`` the share among the candidates that are scored again, ``overlap`` what comes out. Times
are of one query alone, wall clock. With --filters, exact searches under filters: the share of the
allowed top k found, against a full sort, and the time by plan.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from printing import machine, say, table
from recsys.retrieval.fidelity import fidelity
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes


def clustered(count: int, dim: int, seed: int, clusters: int = 200) -> np.ndarray:
    """Vectors around centres that are the same for all seeds."""
    width = np.linspace(1.0, 0.1, dim)
    centres = np.random.default_rng(0).normal(size=(clusters, dim)) * 1.5 * width
    random = np.random.default_rng(seed)
    made = centres[random.integers(0, clusters, count)] + random.normal(size=(count, dim)) * width
    return (made * random.lognormal(0, 0.3, (count, 1))).astype(np.float32)


def codes_table(vectors: np.ndarray, queries: np.ndarray, k: int, rescore: int) -> None:
    """A row for every code."""
    half, quarter = vectors.shape[1] // 2, vectors.shape[1] // 4
    every = [
        None, ScalarCodes(8), ScalarCodes(4), ScalarCodes(8, half), ScalarCodes(4, half),
        ScalarCodes(8, quarter), ScalarCodes(4, quarter), SignCodes(1), SignCodes(2), SignCodes(4),
    ]  # fmt: skip
    rows = [["codes", "bytes", "coarse", "in pool", "overlap", "p50 ms", "p99 ms", "exact ms"]]
    for codes in every:
        index = Index(vectors, range(len(vectors)), codes=codes, rescore=rescore)
        found = fidelity(index, queries, k)
        shares = (found.coarse_overlap, found.candidates, found.overlap)
        times = (found.p50_ms, found.p99_ms, found.exact_p50_ms)
        rows.append(
            [found.name, str(found.row_bytes)]
            + [f"{value:.4f}" for value in shares]
            + [f"{value:.2f}" for value in times]
        )
        say(found.name)
    table(rows)


def filters_table(vectors: np.ndarray, queries: np.ndarray, k: int) -> None:
    """A row for every filter."""
    index = Index(vectors, range(len(vectors)))
    random = np.random.default_rng(5)
    rows = [["filter", "plan", "recall", "ms a query"]]
    for share in (1.0, 0.5, 0.1, 0.01, 0.001, -0.5):
        shares, seconds, plans = [], 0.0, set()
        for query in queries[:50]:
            scores = vectors @ query
            if share > 0:
                mask = random.random(len(vectors)) < share
            else:  # the half that the query likes least
                mask = scores < np.quantile(scores, -share)
            true = np.argsort(np.where(mask, -scores, np.inf), kind="stable")
            true = true[: min(k, int(mask.sum()))]
            start = time.perf_counter()
            found = index.search(query, k, where=mask)
            seconds += time.perf_counter() - start
            assert mask[found.ids].all()
            shares.append(len(set(found.ids) & set(true)) / max(1, len(true)))
            plans |= set(found.plans)
        name = f"{share:.1%} at random" if share > 0 else f"{-share:.0%} liked least"
        rows.append(
            [name, " ".join(sorted(plans)), f"{np.mean(shares):.4f}", f"{20 * seconds:.2f}"]
        )
    table(rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--asked", type=int, default=200, help="queries")
    parser.add_argument("--vectors", type=Path, help="items in place of random ones, .npy")
    parser.add_argument("--queries", type=Path, help="queries in place of random ones, .npy")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--rescore", type=int, default=5)
    parser.add_argument("--filters", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    vectors = clustered(args.items, args.dim, 1)
    if args.vectors is not None:
        vectors = np.load(args.vectors, allow_pickle=False)
    queries = clustered(args.asked, vectors.shape[1], 2)
    if args.queries is not None:
        queries = np.load(args.queries, allow_pickle=False)[: args.asked]
    print(machine())
    print(
        f"{len(vectors):,} items of {vectors.shape[1]} values, {len(queries):,} queries, k {args.k}"
    )
    if args.filters:
        filters_table(vectors, queries, args.k)
    else:
        codes_table(vectors, queries, args.k, args.rescore)


if __name__ == "__main__":
    main()
