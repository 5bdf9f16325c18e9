"""Vectors that benchmarks/index.py measures on, with what is relevant: made, trained, or of titles.

Import it by its bare name, see printing.py.
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from recsys.cf import EmbeddingModel
from recsys.datasets.bundle_rec import BundleRec
from recsys.graph.bundles import BundleData
from recsys.retrieval.training_pairs import TrainingPairs
from recsys.retrieval.vector_sets import VectorSets
from recsys.serving.recommender_folder import load_recommender


@dataclasses.dataclass
class Own:
    """Items, queries, and what belongs together; lists are of rows of items."""

    name: str
    items: np.ndarray
    queries: np.ndarray
    prior: np.ndarray
    relevant: list[list[int]]
    seen: list[list[int]]
    pairs: TrainingPairs | None = None


def clustered(count: int, dim: int, seed: int, clusters: int = 200) -> np.ndarray:
    """Vectors around centres that are the same for all seeds."""
    width = np.linspace(1.0, 0.1, dim)
    centres = np.random.default_rng(0).normal(size=(clusters, dim)) * 1.5 * width
    random = np.random.default_rng(seed)
    made = centres[random.integers(0, clusters, count)] + random.normal(size=(count, dim)) * width
    return (made * random.lognormal(0, 0.3, (count, 1))).astype(np.float32)


def planted(items: np.ndarray, queries: np.ndarray, asked: int, name: str) -> Own:
    """Every query takes 30 items by the softmax of its scores; 10 of them are to be found.

    Queries beyond ``asked`` teach only.
    """
    random = np.random.default_rng(9)
    relevant, seen = [], []
    for query in queries:
        scores = items @ query
        noisy = 6 * scores / max(1e-12, float(scores.std())) + random.gumbel(size=len(items))
        best = random.permutation(np.argpartition(-noisy, 30)[:30])
        relevant.append(best[:10].tolist())
        seen.append(best[10:].tolist())
    which = np.repeat(np.arange(len(queries)), 20)
    pairs = TrainingPairs(queries, which, np.concatenate(seen)) if len(queries) else None
    prior = np.bincount(np.concatenate(seen), minlength=len(items))
    return Own(name, items, queries[:asked], prior, relevant[:asked], seen[:asked], pairs)


def trained(folder: Path, asked: int) -> Own:
    """Vectors of a recommender of ours; relevant is what its run held out (validation and test)."""
    stored = load_recommender(folder, weights=False)
    if not isinstance(stored.model, EmbeddingModel):
        raise SystemExit(f"{folder}: {type(stored.model).__name__} has no vectors")
    users, items = (part.numpy() for part in stored.model.vectors())
    train = stored.train
    held = stored.seen.take(np.flatnonzero(~np.isin(stored.seen.keys, train.keys)))
    judged = np.flatnonzero(held.user_degrees() > 0)
    judged = np.random.default_rng(0).permutation(judged)[:asked]
    lists = [np.split(one.item, one.offsets()[1:-1]) for one in (held, train)]
    return Own(
        f"{type(stored.model).__name__} of {folder}",
        items,
        users[judged],
        train.item_degrees(),
        [lists[0][user].tolist() for user in judged],
        [lists[1][user].tolist() for user in judged],
        TrainingPairs(users, train.user, train.item),
    )


def _title_vectors(folder: Path, dim: int) -> tuple[np.ndarray, np.ndarray, list[str], BundleData]:
    """Of the items that have words and a category: vectors, rows, last categories; and the data."""
    data = BundleRec(BundleRec.Config(path=str(folder))).bundle_data(folder)
    assert data.item_texts is not None and data.item_categories is not None
    words = [re.findall(r"[a-z0-9]+", text.lower()) for text in data.item_texts]
    known = {w: n for n, w in enumerate(sorted({word for row in words for word in row}))}
    counts = [Counter(row) for row in words]
    flat = [(row, known[w], 1 + np.log(n)) for row, c in enumerate(counts) for w, n in c.items()]
    rows, columns, values = (np.array(part) for part in zip(*flat))
    table = sp.csr_matrix((values, (rows, columns)), (len(words), len(known)))
    frequent = np.bincount(columns, minlength=len(known))
    table = table @ sp.diags(np.log((1 + len(words)) / (1 + frequent)) + 1)
    table = sp.diags(1 / np.maximum(1e-9, scipy.sparse.linalg.norm(table, axis=1))) @ table
    start = np.random.default_rng(0).normal(size=min(table.shape))
    left, sizes, _ = scipy.sparse.linalg.svds(table, k=dim, v0=start)
    vectors = left * sizes
    lengths = np.linalg.norm(vectors, axis=1)
    leaves = [names[-1] if names else "" for names in data.item_categories]
    use = np.flatnonzero((lengths > 1e-6) & np.array([bool(leaf) for leaf in leaves]))
    vectors = (vectors[use] / lengths[use, None]).astype(np.float32)
    return vectors, use, [leaves[row] for row in use], data


def titles(folder: Path, dim: int = 64) -> Own:
    """Titles of BundleRec (TF-IDF, main directions, cosine); relevant shares the last category."""
    vectors, use, leaves, _ = _title_vectors(folder, dim)
    among: dict[str, list[int]] = {}
    for row, leaf in enumerate(leaves):
        among.setdefault(leaf, []).append(row)
    relevant = [[other for other in among[leaf] if other != row] for row, leaf in enumerate(leaves)]
    own = [[row] for row in range(len(use))]
    return Own(f"titles of {folder}", vectors, vectors, np.ones(len(use)), relevant, own)


def bundle_lists(folder: Path, dim: int = 64) -> tuple[np.ndarray, list[list[int]]]:
    """Vectors of titles, and the rows of every bundle of BundleRec."""
    vectors, use, _, data = _title_vectors(folder, dim)
    place = np.full(len(data.bundles.items), -1)
    place[use] = np.arange(len(use))
    rows = place[data.bundles.item]
    lists = np.split(rows, data.bundles.offsets()[1:-1])
    return vectors, [one[one >= 0].tolist() for one in lists]


def halves(
    vectors: np.ndarray, lists: list[list[int]], least: int
) -> tuple[VectorSets, VectorSets, float]:
    """Half of every list of at least so many, the other half, and the mean size of that."""
    random = np.random.default_rng(4)
    mixed = [random.permutation(rows) for rows in lists if len(rows) >= least]
    parts = [np.array_split(rows, 2) for rows in mixed]
    queries, documents = (VectorSets.of([vectors[part[n]] for part in parts]) for n in (0, 1))
    return queries, documents, float(np.mean([len(part[1]) for part in parts]))
