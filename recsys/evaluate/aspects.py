"""Judges vectors of aspects: what is near an item in an aspect should share a label of it.

Every item of a split is a query for others; those that share a label of an aspect with it are
right. Metrics are means over queries for which something is right. The leakage matrix judges the
vectors of every aspect (rows) by the labels of every aspect (columns): a good head is good on its
own and says little of others.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.aspect_model import AspectModel
from recsys.errors import DataError, TrainingError
from recsys.evaluate.summary import text_table
from recsys.graph.aspects import AspectTable
from recsys.graph.products import dense
from recsys.metrics.bootstrap import Interval, mean_intervals
from recsys.metrics.ranking import user_ranking_metrics
from recsys.metrics.top_items import top_items

ASPECT_METRICS = ("precision", "recall", "mrr", "map", "ndcg", "hr")
"""Names of the metrics, without ``@k``."""
GENERIC = "generic"
"""The row of the leakage matrix of vectors that were not trained."""
_BLOCK = 512

Candidates = Literal["split", "all"]
Scores = Callable[[np.ndarray, np.ndarray], Tensor]
"""From queries and candidates, both numbers of items, to how alike they are, (queries,
candidates)."""


@dataclasses.dataclass(frozen=True, slots=True)
class AspectOptions:
    """How vectors are judged.

    Args:
        ks: Cut-offs of the lists, rising.
        candidates: Who is looked through: the other items of the split, as Ostendorff et al. have
            it, or all other items.
        bootstrap_samples: For the intervals, drawn over queries; 0 leaves them out.
        generic: Whether to judge what the features give without training too.
    """

    ks: tuple[int, ...] = (10,)
    candidates: Candidates = "split"
    bootstrap_samples: int = 0
    generic: bool = True


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AspectEvaluation:
    """What vectors of aspects are worth on a split.

    Args:
        name: Of the split.
        aspects: Names.
        queries: Items with something to find, by aspect.
        metrics: Means over aspects (``map@10``), by aspect (``task.map@10``), and
            ``off_aspect.map@10``, the mean of the leakage matrix off its diagonal;
            ``generic.map@10`` is that of the generic vector.
        leakage: MAP at the largest cut-off of vectors of an aspect (rows; the last one is the
            generic vector, where it was judged) by labels of an aspect (columns).
        k: That cut-off.
        intervals: 95 % intervals of metrics by aspect, where asked for.

    Shape:
        - leakage: (aspects, or one more, aspects); nan where an aspect has no query
    """

    name: str
    aspects: tuple[str, ...]
    queries: Mapping[str, int]
    metrics: dict[str, float]
    leakage: np.ndarray
    k: int
    intervals: Mapping[str, Interval]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the leakage matrix."""
        return (*self.aspects, GENERIC)[: len(self.leakage)]

    def table(self) -> str:
        """Metrics by aspect, then the leakage matrix, as text."""
        names = [f"{name}@{self.k}" for name in ("precision", "recall", "mrr", "map")]
        cells = [[aspect, self.queries[aspect], *(self.metrics[f"{aspect}.{n}"] for n in names)]
                 for aspect in self.aspects]  # fmt: skip
        leaks = [[name, *map(float, row)] for name, row in zip(self.rows, self.leakage)]
        return "\n\n".join([
            text_table(["aspect", "queries", *names], cells),
            text_table([f"map@{self.k} of vectors of", *self.aspects], leaks),
        ])  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Metrics and the leakage matrix as JSON values."""
        plain = [[None if x != x else x for x in row] for row in self.leakage.tolist()]
        return {
            "split": self.name,
            "queries": dict(self.queries),
            "metrics": {name: None if x != x else x for name, x in self.metrics.items()},
            "intervals": {name: [i.low, i.high] for name, i in self.intervals.items()},
            "leakage": dict(zip(self.rows, (dict(zip(self.aspects, row)) for row in plain))),
        }


def evaluate_aspects(
    model: AspectModel, split: str, options: AspectOptions | None = None, seed: int = 0
) -> AspectEvaluation:
    """Judges the vectors of a model on a split of its items.

    Args:
        model: In eval mode, its vectors are computed once.
        split: ``train``, ``valid`` or ``test``.
        options: Cut-offs, candidates, intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: Nothing can be judged there.
        TrainingError: A vector is not finite.
    """
    options = options or AspectOptions()
    scorers: dict[str, Scores] = {}
    items = model.table.members(split)
    if options.candidates == "all":
        items = np.arange(len(model.table))
    for aspect in model.aspects:
        vectors = model.vectors(aspect, items)
        if not bool(vectors.isfinite().all()):
            raise TrainingError("a vector is NaN or infinite. Lower the learning rate.")
        scorers[aspect] = cosines(vectors, items)
    if options.generic:
        scorers[GENERIC] = cosines(model.generic()[items], items)
    return judge_scores(model.table, scorers, split, options, seed)


def cosines(vectors: Tensor | csr_array, items: np.ndarray | None = None) -> Scores:
    """How alike items are by vectors of length 1.

    Args:
        vectors: Of items, (n, D).
        items: Their numbers, rising; None for all items.
    """

    def scores(queries: np.ndarray, candidates: np.ndarray) -> Tensor:
        if items is not None:
            queries, candidates = (np.searchsorted(items, ends) for ends in (queries, candidates))
        if isinstance(vectors, Tensor):
            return vectors[queries] @ vectors[candidates].T
        return torch.from_numpy(dense(vectors[queries] @ vectors[candidates].T))

    return scores


def judge_scores(
    table: AspectTable,
    scorers: Mapping[str, Scores],
    split: str,
    options: AspectOptions,
    seed: int = 0,
) -> AspectEvaluation:
    """Judges any scores by the labels of all aspects.

    Args:
        table: Items and labels.
        scorers: For every aspect in order, and ``generic`` behind them, if at all.
        split: Whose items are the queries.
        options: Cut-offs, candidates, intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: No two items there share a label.
    """
    queries, k = table.members(split), max(options.ks)
    candidates = queries if options.candidates == "split" else np.arange(len(table))
    sharing = {aspect: table.has_label(aspect) for aspect in table.aspects}
    leakage = np.full((len(scorers), len(table.aspects)), np.nan)
    own: dict[str, dict[str, Tensor]] = {}
    for row, (name, scores) in enumerate(scorers.items()):
        found = _judged(scores, queries, candidates, sharing, options.ks)
        for column, aspect in enumerate(table.aspects):
            if len(found[aspect][f"map@{k}"]):
                leakage[row, column] = float(found[aspect][f"map@{k}"].mean())
        own[name] = found.get(name, {})
    counts = {aspect: len(own[aspect][f"map@{k}"]) for aspect in table.aspects}
    if not any(counts.values()):
        raise DataError(
            f"no two items of the {split} split share a label: nothing to judge on. Raise "
            f"rule.{split}, or set evaluation.candidates to all."
        )
    metrics, intervals = _summary(own, table.aspects, options, seed)
    square = leakage[: len(table.aspects)]
    off = square[~np.eye(len(square), dtype=bool)]
    metrics[f"off_aspect.map@{k}"] = _mean(off)
    if GENERIC in scorers:
        metrics[f"{GENERIC}.map@{k}"] = _mean(leakage[-1])
    return AspectEvaluation(split, table.aspects, counts, metrics, leakage, k, intervals)


def _judged(
    scores: Scores,
    queries: np.ndarray,
    candidates: np.ndarray,
    sharing: Mapping[str, csr_array],
    ks: Sequence[int],
) -> dict[str, dict[str, Tensor]]:
    """Metrics of every query that has something to find, by labels of every aspect."""
    hits: dict[str, list[Tensor]] = {aspect: [] for aspect in sharing}
    counts: dict[str, list[Tensor]] = {aspect: [] for aspect in sharing}
    length = min(max(ks), len(candidates))
    if not length:
        return {aspect: {f"{n}@{k}": torch.zeros(0) for k in ks for n in ASPECT_METRICS}
                for aspect in sharing}  # fmt: skip
    for start in range(0, max(1, len(queries)), _BLOCK):
        block = queries[start : start + _BLOCK]
        here = torch.from_numpy(block[:, None] == candidates)
        found = scores(block, candidates).float().masked_fill(here, -torch.inf)
        lists = top_items(found, length)[1]
        for aspect, has in sharing.items():
            right = torch.from_numpy((has[block] @ has[candidates].T).toarray() > 0) & ~here
            hit = right.gather(1, lists.clamp(min=0)) & (lists >= 0)
            some = right.any(1)
            shape = (int(some.sum()), max(ks) - length)
            hits[aspect].append(torch.cat([hit[some], torch.zeros(shape, dtype=torch.bool)], 1))
            counts[aspect].append(right.sum(1)[some])
    return {
        aspect: user_ranking_metrics(torch.cat(hits[aspect]), torch.cat(counts[aspect]), ks)
        for aspect in sharing
    }


def _summary(
    own: Mapping[str, Mapping[str, Tensor]],
    aspects: Sequence[str],
    options: AspectOptions,
    seed: int,
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Means by aspect, their means over aspects, and intervals."""
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    names = [f"{name}@{k}" for k in options.ks for name in ASPECT_METRICS]
    for aspect in aspects:
        columns = {f"{aspect}.{name}": own[aspect][name].numpy() for name in names}
        metrics |= {name: _mean(values) for name, values in columns.items()}
        if options.bootstrap_samples and len(own[aspect][names[0]]):
            intervals |= mean_intervals(columns, num_samples=options.bootstrap_samples, seed=seed)
    means = {n: _mean([metrics[f"{aspect}.{n}"] for aspect in aspects]) for n in names}
    return means | metrics, intervals


def _mean(values: Any) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")
