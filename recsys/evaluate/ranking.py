"""A collaborative filter judged by the lists it gives: every item ranked for every user.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from recsys.cf import CFModel
from recsys.errors import ConfigError, DataError
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.predictions import gather_rows
from recsys.evaluate.ranked_lists import Rows, Sampled, history_matrix, ranked_lists
from recsys.evaluate.ranking_slices import RankingSlice, degree_groups, item_slices, user_slices
from recsys.evaluate.summary import text_table
from recsys.evaluate.user_results import UserResults
from recsys.graph.interactions import Interactions
from recsys.metrics.bootstrap import Interval, mean_intervals
from recsys.metrics.catalogue import (
    gini_index,
    item_coverage,
    recommended_counts,
    user_novelty,
    user_popularity,
)
from recsys.metrics.ranking import RANKING_METRICS, find_hits, user_ranking_metrics

_SLICE_COLUMNS = ("recall", "ndcg", "hr")


class SampledMetricsWarning(UserWarning):
    """Relevant items are ranked among a sample, which can order models wrongly."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RankingOptions:
    """What is ranked, and what is computed from the lists.

    Args:
        ks: Cut-offs.
        mask_seen: Leaves out the items that the user has seen.
        candidates: Numbers of the items that may be recommended; None for all. Relevant items
            that are not among them do not count.
        sampled_negatives: Ranks the relevant items among so many random others instead of all;
            0, as it should be, ranks all.
        bootstrap_samples: For the intervals, drawn over users; 0 leaves them out.
        slice_groups: Groups of users and of items in slices, beside new and cold ones; 0 leaves
            slices out.
        cold_below: Users and items with fewer training interactions are cold.
        users_per_block: Users scored at once; None takes what was measured to be quick.
        seed: Of bootstrap and sampled negatives.

    Raises:
        ConfigError: A value is out of range, or two contradict each other.
    """

    ks: Sequence[int] = (10, 20)
    mask_seen: bool = True
    candidates: Sequence[int] | np.ndarray | None = None
    sampled_negatives: int = 0
    bootstrap_samples: int = 200
    slice_groups: int = 4
    cold_below: int = 5
    users_per_block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"ks: expected different cut-offs of at least 1, got {self.ks}.")
        least = {
            "sampled_negatives": 0, "bootstrap_samples": 0, "slice_groups": 0, "cold_below": 0,
            "users_per_block": 1,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name}: expected at least {low}, got {value}.")
        if self.bootstrap_samples == 1:
            raise ConfigError("bootstrap_samples: expected 0 (none) or at least 2, got 1.")
        if self.sampled_negatives and self.candidates is not None:
            raise ConfigError(
                "sampled_negatives and candidates exclude each other: a sample is drawn from all "
                "items. Leave one out."
            )
        if self.sampled_negatives and not self.mask_seen:
            raise ConfigError("sampled_negatives: expected mask_seen, for a sample is never seen.")

    @property
    def protocol(self) -> str:
        """How lists are made, in words; results of different protocols are not comparable."""
        if self.sampled_negatives:
            return f"{self.sampled_negatives} sampled negatives, seed {self.seed}"
        what = "all items" if self.candidates is None else f"{len(self.candidates):,} candidates"
        return f"{what}, seen items {'left out' if self.mask_seen else 'kept'}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RankingEvaluation:
    """What the lists of a model are worth.

    Args:
        metrics: Means over users (``recall@20``, ``novelty@20``, ...), and ``coverage@20``,
            ``gini@20`` of all lists together.
        intervals: 95 % bootstrap intervals over users, of the means.
        slices: Lines by slice table, ``training items of the user`` and ``training users of the
            item``.
        per_user: Metrics of every judged user.
        users: Their numbers.
        lists: Their items, best first; -1 where there are no more.
        counts: Users and pairs that were judged or left out.
        seconds: Wall time of scores and lists.

    Shape:
        - users: (N,) int64
        - lists: (N, K) int32
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    slices: dict[str, list[RankingSlice]]
    per_user: UserResults
    users: np.ndarray
    lists: np.ndarray
    counts: dict[str, int]
    seconds: float

    def table(self) -> str:
        """Metrics, then slices, as text."""
        ks = sorted({int(name.split("@")[1]) for name in self.metrics})
        names = list(dict.fromkeys(name.split("@")[0] for name in self.metrics))
        rows = [[name, *(self.metrics[f"{name}@{k}"] for k in ks)] for name in names]
        judged, without = self.counts["users"], self.counts["users_without_relevant"]
        parts = [
            f"{judged:,} users ({without:,} without relevant items), {self.per_user.protocol}",
            text_table(["", *(f"@{k}" for k in ks)], rows),
        ]
        shown = [f"{name}@{ks[-1]}" for name in _SLICE_COLUMNS]
        parts += [
            text_table(
                [title, "users", "pairs", *shown],
                [[r.value, r.users, r.pairs, *(r.metrics[m] for m in shown)] for r in rows],
            )
            for title, rows in self.slices.items()
        ]
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All numbers but those of single users, as JSON values (nan as None)."""
        content = {
            "protocol": self.per_user.protocol,
            "counts": self.counts,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "intervals": {name: dataclasses.asdict(i) for name, i in self.intervals.items()},
            "slices": {
                title: [dataclasses.asdict(row) for row in rows]
                for title, rows in self.slices.items()
            },
        }
        return without_nan(content)


def evaluate_ranking(
    model: CFModel,
    seen: Interactions,
    relevant: Interactions,
    options: RankingOptions | None = None,
    given: Interactions | None = None,
) -> RankingEvaluation:
    """Ranks all items for every user with a relevant one, and judges the lists.

    With a process group every rank ranks its part of the users and gets the whole. Slices and
    novelty count training interactions, those of ``model.graph``. Definitions of the metrics are
    in `recsys.metrics.ranking` and `recsys.metrics.catalogue`; ties go to the lower item number.

    Args:
        model: Gives scores.
        seen: What users know and lists leave out: the training pairs, and the validation pairs
            too when testing.
        relevant: What should be in the lists.
        options: Cut-offs, candidates, intervals, slices.
        given: Of users that nothing was trained on: their scores come from this history, by
            `recsys.cf.CFModel.scores_of`. None where all users were trained on.

    Raises:
        DataError: The interactions are not of one data set, there is nothing to judge, or relevant
            pairs are also seen ones.
        ConfigError: An option does not fit the data.
        TrainingError: A score is NaN.

    Source:
        Full ranking rather than sampled metrics: Krichene and Rendle, "On Sampled Metrics for Item
        Recommendation", KDD 2020.
    """
    options = options or RankingOptions()
    candidates = _candidates(options, relevant.num_items)
    _check(model, seen, relevant, options)
    judged = relevant if candidates is None else relevant.take(np.isin(relevant.item, candidates))
    degrees = judged.user_degrees()
    users = np.flatnonzero(degrees)
    if not len(users):
        raise DataError("no user has a relevant item among those that may be recommended.")
    sampled = None
    if options.sampled_negatives:
        warnings.warn(
            f"relevant items are ranked among {options.sampled_negatives} sampled ones. Such "
            "metrics can order models differently than ranking all items does (Krichene and "
            "Rendle, 2020); do not report or choose by them.",
            SampledMetricsWarning,
            stacklevel=2,
        )
        sampled = Sampled(options.sampled_negatives, options.seed, Rows(judged), Rows(seen))
    start = time.perf_counter()
    rank, world_size = _rank()
    own = ranked_lists(
        model, np.array_split(users, world_size)[rank], max(options.ks),
        seen=Rows(seen) if options.mask_seen else None, candidates=candidates, sampled=sampled,
        block=options.users_per_block, quiet=rank > 0,
        histories=None if given is None else history_matrix(given),
    )  # fmt: skip
    lists = gather_rows(own)
    seconds = time.perf_counter() - start
    counts = {
        "users": len(users),
        "users_without_relevant": relevant.num_users - len(users),
        "pairs": len(judged),
        "pairs_not_candidates": len(relevant) - len(judged),
    }
    known = model.graph.user_degrees().cpu().numpy() if given is None else given.user_degrees()
    return _judge(model, judged, users, lists, candidates, counts, seconds, options, known)


def _rank() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _candidates(options: RankingOptions, num_items: int) -> np.ndarray | None:
    found = None if options.candidates is None else np.unique(np.asarray(options.candidates))
    if found is not None and (
        not np.issubdtype(found.dtype, np.integer)
        or not 0 <= found.min(initial=0) <= found.max(initial=0) < num_items
    ):
        raise ConfigError(
            f"candidates: expected item numbers from 0 to {num_items - 1}, got {found.dtype} values"
            + (f" from {found[0]} to {found[-1]}." if len(found) else ".")
        )
    size = num_items if found is None else len(found)
    if max(options.ks) > size:
        raise ConfigError(
            f"ks: expected at most the {size:,} items that may be recommended, got "
            f"{max(options.ks)}."
        )
    return None if found is None else found.astype(np.int64)


def _check(
    model: CFModel, seen: Interactions, relevant: Interactions, options: RankingOptions
) -> None:
    for kind in ("users", "items"):
        names = [getattr(pairs, kind) for pairs in (seen, relevant)]
        if names[0] is not names[1] and not np.array_equal(names[0].values, names[1].values):
            raise DataError(
                f"`seen` and `relevant` have different {kind}: {len(names[0]):,} and "
                f"{len(names[1]):,}. Take both from one `InteractionSplits`."
            )
    sizes = (model.graph.num_users, model.graph.num_items)
    if sizes != (relevant.num_users, relevant.num_items):
        raise DataError(
            f"the model knows {sizes[0]:,} users and {sizes[1]:,} items, the interactions have "
            f"{relevant.num_users:,} and {relevant.num_items:,}. Judge it on the data set that it "
            "was trained on."
        )
    if options.mask_seen:
        both = int(np.isin(relevant.keys, seen.keys, assume_unique=True).sum())
        if both:
            raise DataError(
                f"{both:,} of {len(relevant):,} relevant pairs are also seen ones, which lists "
                "leave out, so nothing could find them. Remove them, or set mask_seen=False where "
                "users come back to what they know."
            )


def _judge(
    model: CFModel,
    judged: Interactions,
    users: np.ndarray,
    lists: Tensor,
    candidates: np.ndarray | None,
    counts: dict[str, int],
    seconds: float,
    options: RankingOptions,
    activity: np.ndarray,
) -> RankingEvaluation:
    """Everything that follows from the lists."""
    ks = sorted(options.ks)
    graph = model.graph
    item_degrees = graph.item_degrees().cpu()
    keys = torch.from_numpy(judged.keys)
    hits = find_hits(lists, torch.from_numpy(users), keys, judged.num_items)
    num_relevant = judged.user_degrees()[users]
    found = user_ranking_metrics(hits, torch.from_numpy(num_relevant), ks)
    ranking = {f"{name}@{k}": found[f"{name}@{k}"] for name in RANKING_METRICS for k in ks}
    ranking |= user_novelty(lists, item_degrees, graph.num_users, ks)
    ranking |= user_popularity(lists, item_degrees, ks)
    values = {name: column.numpy() for name, column in ranking.items()}
    per_user = UserResults(judged.users.values[users], values, options.protocol)
    metrics = {name: per_user.mean(name) for name in values}
    for k in ks:
        among = recommended_counts(lists[:, :k], judged.num_items)
        among = among if candidates is None else among[torch.from_numpy(candidates)]
        metrics |= {f"coverage@{k}": item_coverage(among), f"gini@{k}": gini_index(among)}
    intervals: dict[str, Interval] = {}
    if options.bootstrap_samples:
        intervals = mean_intervals(values, num_samples=options.bootstrap_samples, seed=options.seed)
    slices: dict[str, list[RankingSlice]] = {}
    if options.slice_groups:
        sizes = options.cold_below, options.slice_groups
        popularity = item_degrees.numpy()
        by_user = degree_groups(activity, np.isin(np.arange(len(activity)), users), *sizes)
        by_item = degree_groups(popularity, popularity, *sizes)
        rows = torch.from_numpy(np.searchsorted(users, judged.user))
        slices = {
            "training items of the user": user_slices(by_user, users, num_relevant, values),
            "training users of the item": item_slices(
                by_item, lists, hits, rows, torch.from_numpy(judged.item), ks
            ),
        }
    return RankingEvaluation(
        metrics, intervals, slices, per_user, users, lists.numpy(), counts, seconds
    )
