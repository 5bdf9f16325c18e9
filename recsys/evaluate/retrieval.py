"""Two towers judged by what they retrieve: all items of a log ranked for every held-out question.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.base import RecModel
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.summary import text_table
from recsys.metrics.bootstrap import Interval, mean_intervals
from recsys.metrics.ranking import RANKING_METRICS, find_hits, user_ranking_metrics
from recsys.metrics.top_items import flat_positions, top_items
from recsys.schema import FIRST_INDEX
from recsys.serving.towers import TwoTowers
from recsys.types import Batch

_SCORES_AT_ONCE = 1 << 24


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RetrievalOptions:
    """What a question is, and what is computed from the lists.

    Args:
        ks: Cut-offs.
        per: ``group``: a question for every value of the schema's group column (the user), with all
            of its held-out items; its vector is that of its first held-out row. ``row``: a question
            for every held-out row, with its one item and its own context.
        mask_seen: With ``group``: leaves out the items that the group clicked in ``seen``.
        bootstrap_samples: For the intervals, drawn over questions; 0 leaves them out.

    Raises:
        ConfigError: A value is out of range.
    """

    ks: Sequence[int] = (10, 20)
    per: Literal["group", "row"] = "group"
    mask_seen: bool = True
    bootstrap_samples: int = 200

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"ks: expected different cut-offs of at least 1, got {self.ks}.")
        if self.per not in ("group", "row"):
            raise ConfigError(f'per: expected "group" or "row", got {self.per!r}.')
        if self.bootstrap_samples < 0 or self.bootstrap_samples == 1:
            raise ConfigError(
                f"bootstrap_samples: expected 0 (none) or at least 2, got {self.bootstrap_samples}."
            )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RetrievalEvaluation:
    """What the lists are worth, and what the most clicked items would be in their place.

    Args:
        metrics: Means over questions (``recall@20``, ``ndcg@20``, ...).
        popular: The same of the items that were clicked most often in ``seen``, on the same
            questions, with the same items left out.
        intervals: 95 % bootstrap intervals over questions, of ``metrics``.
        values: Of every question, behind ``metrics``.
        lists: Indices of items, best first; -1 where there are no more.
        counts: What was judged and what was left out.

    Shape:
        - values: (Q,) float64 each
        - lists: (Q, K) int64
    """

    metrics: dict[str, float]
    popular: dict[str, float]
    intervals: dict[str, Interval]
    values: dict[str, np.ndarray]
    lists: np.ndarray
    counts: dict[str, int]

    def table(self) -> str:
        """Metrics beside those of the most clicked items, as text."""
        ks = sorted({int(name.split("@")[1]) for name in self.metrics})
        columns = [f"{name}@{k}" for name in RANKING_METRICS for k in ks]
        rows = [
            [title, *(found[column] for column in columns)]
            for title, found in (("towers", self.metrics), ("most clicked", self.popular))
        ]
        counts = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items()
        )
        return f"{counts}\n\n{text_table(['', *columns], rows)}"

    def to_json(self) -> dict[str, Any]:
        """All numbers but those of single questions, as JSON values (nan as None)."""
        intervals = {name: dataclasses.asdict(found) for name, found in self.intervals.items()}
        return without_nan(
            {
                "counts": self.counts,
                "metrics": self.metrics,
                "popular": self.popular,
                "intervals": intervals,
            }
        )


def evaluate_retrieval(
    model: RecModel,
    seen: Iterable[Batch],
    held_out: Iterable[Batch],
    options: RetrievalOptions | None = None,
) -> RetrievalEvaluation:
    """Ranks all distinct items of a log for every question, and judges the lists.

    The items are those of all rows, clicked or not, each with the features of its first row.
    Items that the vocabulary does not know cannot be told apart: they are no candidates, and
    held-out clicks on them do not count, nor do those on items that are masked. Definitions of the
    metrics are in `recsys.metrics.ranking`; ties go to the item of the lower index.

    Args:
        model: Two towers with an item id.
        seen: Rows that were known, say of the training split. Read once.
        held_out: Rows whose clicks are to be found, say of the test split. Read once.
        options: Questions, cut-offs, intervals.

    Raises:
        ConfigError: The model has no towers or no item id, the schema has no group, or a cut-off is
            above the number of items.
        DataError: There is nothing to judge.
        TrainingError: A score is NaN.

    Source:
        Full ranking rather than sampled metrics: Krichene and Rendle, "On Sampled Metrics for Item
        Recommendation", KDD 2020.
    """
    options = options or RetrievalOptions()
    check_towers(model, options)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():  # tables that torchrec shares out refuse inference_mode
            log = _read(model, seen, held_out, options)
    finally:
        model.train(was_training)
    if max(options.ks) > len(log.items):
        raise ConfigError(
            f"ks: expected at most the {len(log.items):,} items of the log, got {max(options.ks)}."
        )
    lists = _lists(log, options, lambda rows: log.queries[rows] @ log.vectors.T)
    clicks = torch.bincount(log.seen_items, minlength=len(log.items)).double()
    popular = _lists(log, options, lambda rows: clicks.repeat(len(log.queries[rows]), 1))
    values, others = (_judged(log, found, options.ks) for found in (lists, popular))
    intervals: dict[str, Interval] = {}
    if options.bootstrap_samples:
        intervals = mean_intervals(values, num_samples=options.bootstrap_samples)
    known = torch.where(lists >= 0, log.items[lists.clamp(min=0)], lists)
    return RetrievalEvaluation(
        {name: float(column.mean()) for name, column in values.items()},
        {name: float(column.mean()) for name, column in others.items()},
        intervals,
        values,
        known.numpy(),
        log.counts,
    )


def check_towers(model: RecModel, options: RetrievalOptions) -> None:
    """Whether the model's lists can be judged at all.

    Args:
        model: Any.
        options: What a question is.

    Raises:
        ConfigError: The model has no towers or no item id, or the schema has no group.
    """
    if not isinstance(model, TwoTowers):
        raise ConfigError(
            f"expected a model with vectors of users and of items, got {type(model).__name__}. "
            "Models that score pairs are judged by recsys.evaluate.evaluation."
        )
    if model.item_id is None:
        raise ConfigError(
            "model.item_id is not set, so nothing says which rows have the same item. Name it."
        )
    if options.per == "group" and model.schema.group is None:
        raise ConfigError(
            'per="group": the schema names no group column. Set `group` in the schema to the '
            'user\'s, or take per="row".'
        )


# ----------------------------------------------------------------------------------- the log


class _Log(NamedTuple):
    """Items, questions, and their pairs; items and questions are numbered from 0."""

    items: Tensor  # (I,) indices in the item's table, rising
    vectors: Tensor  # (I, D)
    queries: Tensor  # (Q, D)
    relevant: Tensor  # rising `question * I + item`
    degrees: Tensor  # (Q,) relevant items
    seen_items: Tensor  # of every click in `seen`
    offsets: Tensor | None  # where the items to leave out begin, by question
    hidden: Tensor  # items to leave out
    counts: dict[str, int]


class _Clicks(NamedTuple):
    """Clicked rows: indices of items, and who (-1 without a group)."""

    items: Tensor
    groups: Tensor


class _Reader:
    """Goes through batches: collects clicks, and a vector of every item.

    Args:
        model: Two towers.
        per: What a question is.
    """

    def __init__(self, model: Any, per: str) -> None:
        self.model, self.per = model, per
        self.device = next(model.parameters()).device
        self.known: dict[int, Tensor] = {}

    def clicks(self, batches: Iterable[Batch], ask: bool) -> tuple[_Clicks, Tensor]:
        """Clicks of all rows, and with ``ask`` the user's vector of each."""
        items, groups, users = [], [], []
        for batch in batches:
            moved = batch.to(self.device)
            ids = batch.key_values(self.model.item_id).long().cpu()
            counted = torch.ones_like(ids, dtype=torch.bool)
            if batch.weights is not None:
                counted = batch.weights.cpu() > 0
            self._add_items(moved, ids, counted)
            clicked = counted & (batch.labels[:, 0].cpu() > 0.5)
            items.append(ids[clicked])
            if self.per == "group" and batch.groups is None:
                raise DataError(
                    "the batches have no groups, though the schema names a group column. Make them "
                    "with BatchLoader."
                )
            none = torch.full_like(ids, -1)
            groups.append((none if batch.groups is None else batch.groups.cpu())[clicked])
            if ask and bool(clicked.any()):
                users.append(self.model.user_vectors(moved).float().cpu()[clicked])
        empty = torch.zeros(0, dtype=torch.int64)
        vectors = torch.cat(users) if users else torch.zeros(0, 1)
        return _Clicks(torch.cat([empty, *items]), torch.cat([empty, *groups])), vectors

    def _add_items(self, batch: Batch, ids: Tensor, counted: Tensor) -> None:
        new: dict[int, int] = {}
        for row, item in enumerate(ids.tolist()):
            if item >= FIRST_INDEX and item not in self.known and bool(counted[row]):
                new.setdefault(item, row)
        if new:
            vectors = self.model.item_vectors(batch).float().cpu()
            self.known |= {item: vectors[row].clone() for item, row in new.items()}


def _read(
    model: Any, seen: Iterable[Batch], held_out: Iterable[Batch], options: RetrievalOptions
) -> _Log:
    reader = _Reader(model, options.per)
    before, _ = reader.clicks(seen, ask=False)
    after, users = reader.clicks(held_out, ask=True)
    items = torch.tensor(sorted(reader.known), dtype=torch.int64)
    counts = {"held_out_clicks": len(after.items)}
    kept = after.items >= FIRST_INDEX
    counts["clicks_on_unknown_items"] = int((~kept).sum())
    if not bool(kept.any()):
        raise DataError(
            f"there is nothing to find: of {len(kept):,} held-out clicks none is on an item that "
            "the vocabulary knows. Hold out rows with clicks."
        )
    vectors = torch.stack([reader.known[item] for item in items.tolist()])
    own = torch.searchsorted(items, after.items[kept])
    by = after.groups[kept] if options.per == "group" else torch.arange(len(own))
    names, question = by.unique(return_inverse=True)
    pairs = (question * len(items) + own).unique()
    earlier = before.items >= FIRST_INDEX
    seen_items = torch.searchsorted(items, before.items[earlier])
    offsets, hidden = None, torch.zeros(0, dtype=torch.int64)
    counts["clicks_on_seen_items"] = 0
    if options.per == "group" and options.mask_seen:
        keys = _keys_of(names, before.groups[earlier], seen_items, len(items))
        masked = torch.isin(pairs, keys)
        counts["clicks_on_seen_items"] = int(masked.sum())
        pairs = pairs[~masked]
        hidden = keys % len(items)
        degrees = torch.bincount(keys // len(items), minlength=len(names))
        offsets = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    first = torch.full((len(names),), len(question)).scatter_reduce(
        0, question, torch.arange(len(question)), "amin"
    )
    log = _Log(
        items, vectors, users[kept][first], pairs,
        torch.bincount(pairs // len(items), minlength=len(names)), seen_items, offsets, hidden,
        counts,
    )  # fmt: skip
    return _asked(log)


def _keys_of(names: Tensor, groups: Tensor, items: Tensor, num_items: int) -> Tensor:
    """Rising ``question * I + item`` of clicks whose group is asked about."""
    place = torch.searchsorted(names, groups).clamp(max=len(names) - 1)
    asked = names[place] == groups
    return (place[asked] * num_items + items[asked]).unique()


def _asked(log: _Log) -> _Log:
    """Without the questions that have nothing left to find."""
    kept = log.degrees > 0
    counts = {"questions": int(kept.sum()), "items": len(log.items), **log.counts}
    if not bool(kept.any()):
        raise DataError(
            "there is nothing to find: all held-out clicks are on items that are masked because "
            "they were seen. Set mask_seen=False where users come back to what they know."
        )
    if bool(kept.all()):
        return log._replace(counts=counts)
    size, number = len(log.items), kept.cumsum(0) - 1
    pairs = number[log.relevant // size] * size + log.relevant % size
    offsets, hidden = log.offsets, log.hidden
    if offsets is not None:
        degrees = offsets.diff()
        hidden = hidden[kept.repeat_interleave(degrees)]
        offsets = torch.cat([degrees.new_zeros(1), degrees[kept].cumsum(0)])
    return log._replace(
        queries=log.queries[kept], relevant=pairs, degrees=log.degrees[kept], offsets=offsets,
        hidden=hidden, counts=counts,
    )  # fmt: skip


# --------------------------------------------------------------------------------- the lists


def _lists(log: _Log, options: RetrievalOptions, scores_of: Callable[[slice], Tensor]) -> Tensor:
    """The best items of every question, by number, (Q, K)."""
    size, longest = len(log.items), max(options.ks)
    block, parts = max(1, _SCORES_AT_ONCE // size), []
    for start in range(0, len(log.queries), block):
        scores = scores_of(slice(start, start + block)).contiguous()
        if log.offsets is not None:
            rows = torch.arange(start, start + len(scores))
            scores.view(-1)[flat_positions(rows, log.offsets, log.hidden, size)] = -torch.inf
        values, items = top_items(scores, longest)
        if bool(values.isnan().any()):
            raise TrainingError(
                "a score is NaN, so items cannot be ranked. Training diverged: lower the learning "
                "rate, or take an earlier checkpoint."
            )
        parts.append(items)
    return torch.cat(parts)


def _judged(log: _Log, lists: Tensor, ks: Sequence[int]) -> dict[str, np.ndarray]:
    questions = torch.arange(len(lists))
    hits = find_hits(lists, questions, log.relevant, len(log.items))
    found = user_ranking_metrics(hits, log.degrees, sorted(ks))
    names = itertools.product(RANKING_METRICS, sorted(ks))
    return {f"{name}@{k}": found[f"{name}@{k}"].numpy() for name, k in names}
