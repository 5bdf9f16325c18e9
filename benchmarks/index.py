"""What codes of an index keep, under filters and cut off, and how long a search takes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --items 100000 --dim 128 --only codes
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --run runs/knowledge/light_gcn/seed-1
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/index.py --vectors items.npy --queries users.npy

Made vectors by default: in clusters, of varied length and with axes of falling width, as those of
trained recommenders are, with planted relevant items. With --run those of a trained recommender;
relevant is what its run held out, and what users were trained on is left out of lists.

Codes: ``coarse`` is the share of the exact top k that the codes alone keep, ``in pool`` the share
among the candidates that are scored again, ``overlap`` what comes out; ``R coarse``, ``R`` and
``lost`` are recall of relevant items by the codes alone, after scoring again, and what that is
below the exact one. ``+ pairs`` are codes that learned from queries and their training items.
``alone`` is faiss without our index: no rescoring, no filters. Times are of one query alone, wall
clock.

Filters: exact searches, the share of the allowed top k found against a full sort, and the time.
Cut-off: `CosineAdapter` on the best 100 of every query, judged on queries that it has not seen; on
titles of BundleRec where --titles is there, else on the same vectors.

Sets: half of a bundle's titles (of --titles), or of what a user had (of --run), asks for its other
half among those of all. ``in 10`` and ``in 100``: the share of the exact best ten (by MaxSim) among
the best ten and the best hundred by means or encodings; ``hit``: how often the other half is among
the ten of a `SetIndex`, which scores a hundred again; beside it that of exact search.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from index_vectors import Own, bundle_lists, clustered, halves, planted, titles, trained
from printing import machine, say, table
from recsys.retrieval.adapter import CosineAdapter, labelled
from recsys.retrieval.codes import Codes
from recsys.retrieval.faiss_codes import FaissCodes, available
from recsys.retrieval.fidelity import fidelity
from recsys.retrieval.fixed_encodings import FixedEncodings
from recsys.retrieval.index import Index
from recsys.retrieval.prefix_codes import PrefixCodes
from recsys.retrieval.product_codes import ProductCodes
from recsys.retrieval.recurrent_codes import RecurrentCodes
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.set_index import SetIndex
from recsys.retrieval.sign_codes import SignCodes
from recsys.retrieval.vector_sets import VectorSets, max_sim

TABLES = ("codes", "filters", "cutoff", "sets")
ENCODINGS = ((3, 10, 16), (4, 20, 16), (5, 20, 32))
"""Hyperplanes, repetitions and values of a bucket, see `FixedEncodings`."""


def every_code(own: Own, epochs: int) -> list[tuple[str, Codes | None]]:
    """Label and codes, from most to least bytes within a kind."""
    dim = own.items.shape[1]
    half, quarter = max(1, dim // 2), max(1, dim // 4)
    plain: list[Codes | None] = [
        None, ScalarCodes(8), ScalarCodes(8, half), ScalarCodes(4), ScalarCodes(8, quarter),
        ScalarCodes(4, half), ScalarCodes(4, quarter), PrefixCodes(half), PrefixCodes(half, 8),
        SignCodes(4), SignCodes(2), SignCodes(1), ProductCodes(quarter),
        ProductCodes(max(1, dim // 8)),
    ]  # fmt: skip
    found = [("float32" if codes is None else codes.name, codes) for codes in plain]
    if own.pairs is not None:
        codes = ProductCodes(quarter, pairs=own.pairs, epochs=epochs)
        found.append((codes.name + " + pairs", codes))
    for levels in (1, 2, 4):
        codes = RecurrentCodes(dim, levels, epochs=epochs)
        found.append((codes.name, codes))
        if own.pairs is not None:
            codes = RecurrentCodes(dim, levels, epochs=epochs, pairs=own.pairs)
            found.append((codes.name + " + pairs", codes))
    if available():
        cells = max(4, min(1024, len(own.items) // 64))
        for factory, search in (
            ("HNSW32", "efSearch=64"),
            (f"IVF{cells},Flat", f"nprobe={max(1, cells // 16)}"),
            (f"IVF{cells},SQ8", f"nprobe={max(1, cells // 16)}"),
        ):
            codes = FaissCodes(factory, search)
            found.append((codes.name, codes))
    return found


def codes_table(own: Own, k: int, rescore: int, epochs: int) -> None:
    """A row for every code, then for every index of faiss alone."""
    dim = own.items.shape[1]
    head = ["codes", "bytes", "bits/dim", "coarse", "in pool", "overlap", "R coarse", "R", "lost"]
    rows = [[*head, "p50 ms", "p99 ms", "built s"]]
    true = None
    for label, codes in every_code(own, epochs):
        start = time.process_time()
        index = Index(
            own.items, range(len(own.items)), prior=own.prior, codes=codes, rescore=rescore
        )
        built = time.process_time() - start
        found = fidelity(index, own.queries, k, own.relevant, own.seen)
        shares = (
            found.coarse_overlap, found.candidates, found.overlap, found.coarse_recall,
            found.recall, found.lost,
        )  # fmt: skip
        rows.append(
            [label, str(found.row_bytes), f"{8 * found.row_bytes / dim:.2f}"]
            + [f"{value:.4f}" for value in shares]
            + [f"{found.p50_ms:.2f}", f"{found.p99_ms:.2f}", f"{built:.1f}"]
        )
        say(label)
        if codes is None:
            true = [set(hits.ids.tolist()) for hits in index.search(own.queries, k)]
    if available():
        assert true is not None
        rows += [faiss_alone(own, k, factory, true) for factory in faiss_factories(dim)]
    table(rows)


def faiss_factories(dim: int) -> list[str]:
    """What faiss has for the codes above."""
    quarter = max(1, dim // 4)
    found = ["Flat", "SQ8", "SQ4", f"PCAR{quarter},SQ4", f"PQ{quarter}"]
    return [*found, f"RR{dim},RaBitQ", "HNSW32"]


def faiss_alone(own: Own, k: int, factory: str, true: list[set[int]]) -> list[str]:
    """A row of faiss without our index."""
    start = time.process_time()
    codes = FaissCodes(factory)
    codes.fit(torch.from_numpy(own.items))
    built = time.process_time() - start
    kept, times = [], []
    for query, wanted in zip(own.queries, true):
        begun = time.perf_counter()
        found = codes.alone(query, k)
        times.append(1000 * (time.perf_counter() - begun))
        kept.append(len(wanted & set(found.tolist())) / max(1, len(wanted)))
    size = codes.row_bytes({})
    say(f"faiss {factory} alone")
    p50, p99 = np.quantile(times[1:], [0.5, 0.99])
    times_of = [f"{p50:.2f}", f"{p99:.2f}", f"{built:.1f}"]
    bits = f"{8 * size / own.items.shape[1]:.2f}"
    return [f"faiss {factory} alone", str(size), bits, f"{np.mean(kept):.4f}", *[""] * 5, *times_of]


def filters_table(own: Own, k: int) -> None:
    """A row for every filter."""
    vectors = own.items
    index = Index(vectors, range(len(vectors)), prior=own.prior)
    random = np.random.default_rng(5)
    rows = [["filter", "plan", "recall", "ms a query"]]
    queries = own.queries[own.queries.any(1)][:50]
    for share in (1.0, 0.5, 0.1, 0.01, 0.001, -0.5):
        shares, seconds, plans = [], 0.0, set()
        for query in queries:
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
        milliseconds = 1000 * seconds / len(queries)
        rows.append(
            [name, " ".join(sorted(plans)), f"{np.mean(shares):.4f}", f"{milliseconds:.2f}"]
        )
    table(rows)


def cutoff_table(own: Own, epochs: int) -> None:
    """Fits a cut-off on four fifths of the queries (a quarter of them held out) and judges it."""
    index = Index(own.items, range(len(own.items)), prior=own.prior)
    order = np.random.default_rng(3).permutation(len(own.queries))
    parts = np.split(order, [round(0.8 * len(order))])
    pairs = []
    for part in parts:
        queries = own.queries[part]
        found = index.search(queries, 100, exclude=[own.seen[row] for row in part])
        pairs.append((queries, *labelled(found, [own.relevant[row] for row in part])))
    adapter = CosineAdapter().fit(*pairs[0], epochs=epochs)
    found = adapter.report(*pairs[1], recall=0.8)
    print(f"cut-off on {own.name}, {len(order):,} queries, at 80 % recall of those held out")
    rows = [["PR-AUC of scores", "of the adapter", "ECE", "precision", "recall", "kept", "empty"]]
    shares = (found.raw_pr_auc, found.pr_auc, found.ece, found.precision, found.recall)
    row = [f"{value:.4f}" for value in shares]
    table([*rows, [*row, f"{found.kept:.1f}", f"{found.empty:.1%}"]])


def sets_table(name: str, queries: VectorSets, documents: VectorSets, size: float) -> None:
    """A row for means and for encodings of some widths."""
    exact = torch.stack([max_sim(queries[n], documents) for n in range(len(queries))])
    best = exact.topk(10, dim=1).indices
    own = torch.arange(len(queries))[:, None]
    print(
        f"{name}: {len(queries):,} sets of {size:.1f} vectors, exact hit "
        f"{float((best == own).any(1).float().mean()):.3f}"
    )
    rows = [["candidates by", "values", "in 10", "in 100", "hit", "ms a query"]]
    dim = documents.dim
    every = [FixedEncodings(dim, bits=b, repetitions=r, projected=p) for b, r, p in ENCODINGS]
    for encodings in (None, *every):
        index = SetIndex(documents, range(len(documents)), encodings=encodings)
        found = index.index.search(index.query_vectors(queries), 100)
        kept = [
            np.mean([np.isin(mine.numpy(), hits.ids[:k]).mean() for mine, hits in zip(best, found)])
            for k in (10, 100)
        ]
        start = time.perf_counter()
        again = index.search(queries, 10)
        milliseconds = 1000 * (time.perf_counter() - start) / len(queries)
        hit = np.mean([row in hits.ids for row, hits in enumerate(again)])
        label = "mean" if encodings is None else "encoding"
        width = dim if encodings is None else encodings.width
        shares = [f"{value:.3f}" for value in (*kept, hit)]
        rows.append([label, f"{width:,}", *shares, f"{milliseconds:.2f}"])
        say(f"{label} of {width:,} values")
    table(rows)


def source(args: argparse.Namespace) -> Own:
    """The vectors that were asked for."""
    if args.run is not None:
        return trained(args.run, args.asked)
    vectors, name = clustered(args.items, args.dim, 1), "made vectors"
    if args.vectors is not None:
        vectors, name = np.load(args.vectors, allow_pickle=False), str(args.vectors)
    queries = clustered(args.asked + 1000, vectors.shape[1], 2)
    if args.queries is not None:
        queries = np.load(args.queries, allow_pickle=False)
    return planted(vectors, queries, args.asked, name)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--run", type=Path, help="folder of a trained recommender")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--asked", type=int, default=200, help="queries")
    parser.add_argument("--vectors", type=Path, help="items in place of made ones, .npy")
    parser.add_argument("--queries", type=Path, help="queries in place of made ones, .npy")
    parser.add_argument("--titles", type=Path, default=Path(".data/bundlerec_electronic"))
    parser.add_argument("--least", type=int, default=10, help="items of a user to be a set")
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--rescore", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of codes that are trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    own = source(args)
    print(machine())
    print(
        f"{own.name}: {len(own.items):,} items of {own.items.shape[1]} values, "
        f"{len(own.queries):,} queries, k {args.k}"
    )
    if "codes" in args.only:
        codes_table(own, args.k, args.rescore, args.epochs)
    if "filters" in args.only:
        filters_table(own, args.k)
    if "cutoff" in args.only:
        cutoff_table(titles(args.titles) if args.titles.is_dir() else own, 60)
    if "sets" in args.only and args.titles.is_dir():
        sets_table("bundles of titles", *halves(*bundle_lists(args.titles), least=4))
    if "sets" in args.only and args.run is not None:
        sets_table("what users had", *halves(own.items, own.seen, args.least))


if __name__ == "__main__":
    main()
