"""MODEL_CARD.md of a collaborative filter: what it is, how good, for whom, how to use it.

Stability: internal
"""

from __future__ import annotations

from recsys.evaluate.ranking import RankingEvaluation
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits
from recsys.train.graph_card import GraphCard
from recsys.train.model_card import table

_COLUMNS = ("recall", "ndcg", "hr", "mrr", "map", "coverage", "novelty")
_USE = """Intended: lists of items that a user has not had yet, for users like those of the data.
Not intended: decisions about persons that have legal or similar effect; items that nobody has had
(see the slices below).

```python
from recsys.serving.recommender import Recommender

recommender = Recommender.load("model")      # the folder beside this file
recommender.recommend(["a user's id"], k=10)
```"""


class RankingCard(GraphCard[tuple[InteractionSplits, InteractionGraph], RankingEvaluation]):
    """See `GraphCard`."""

    __slots__ = ()

    def _purpose(self) -> str:
        return "that ranks items for users by what they did"

    def _use(self) -> str:
        return _USE

    def _data(self) -> str:
        splits, train = self.data[0], self.data[0].train
        rows = [
            [name, f"{len(part):,}", f"{int((part.user_degrees() > 0).sum()):,}",
             f"{int((part.item_degrees() > 0).sum()):,}"]
            for name, part in splits.items()
        ]  # fmt: skip
        notes = "".join(
            f"\n- {name.replace('_', ' ')}: {count:,}"
            for name, count in splits.report.items()
            if count
        )
        return (
            f"{train.num_users:,} users and {train.num_items:,} items.\n\n"
            + table(["split", "interactions", "users", "items"], rows)
            + (f"\n\nCounted in cleaning and splitting:\n{notes}" if notes else "")
        )

    def _metrics(self, name: str, found: RankingEvaluation) -> str:
        cuts = sorted({int(metric.partition("@")[2]) for metric in found.metrics})
        rows = []
        for metric in _COLUMNS:
            for k in cuts:
                full = f"{metric}@{k}"
                if full not in found.metrics:
                    continue
                interval = found.intervals.get(full)
                text = "" if interval is None else f"{interval.low:.5f} to {interval.high:.5f}"
                rows.append([full, f"{found.metrics[full]:.5f}", text])
        parts = [
            f"## Metrics on {name} ({found.counts['users']:,} users, {found.per_user.protocol})",
            table(["metric", "value", "95 % interval"], rows),
        ]
        if found.intervals:
            parts.append(
                "Intervals: bootstrap over users; they do not cover the choice of seed or split."
            )
        shown = [f"{metric}@{cuts[-1]}" for metric in ("recall", "ndcg", "hr")]
        for title, lines in found.slices.items():
            cells = [
                [line.value, f"{line.users:,}", f"{line.pairs:,}",
                 *(f"{line.metrics[metric]:.4f}" for metric in shown)]
                for line in lines
            ]  # fmt: skip
            parts.append(f"### By {title}\n\n" + table(["", "users", "pairs", *shown], cells))
        return "\n\n".join(parts)
