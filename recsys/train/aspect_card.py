"""MODEL_CARD.md of a model of aspects: what it is, how good, how to use it.

Stability: internal
"""

from __future__ import annotations

from recsys.evaluate.aspects import AspectEvaluation
from recsys.graph.aspects import SPLITS, AspectTable
from recsys.train.graph_card import GraphCard
from recsys.train.model_card import table

_USE = """Intended: finding items that are alike in one respect, of the kind it was trained on.
Not intended: saying what label an item has; respects that it was not trained on. The folder holds
the texts of all items.

```python
from recsys.retrieval.index import Index
from recsys.serving.aspect_folder import aspect_vectors, load_aspects

model = load_aspects("model")                      # the folder beside this file
found = aspect_vectors(model, ASPECT)
index = Index(found.values, found.ids)
index.search(model.vectors_of(ASPECT, ["a text"]).numpy(), k=10)
```"""


class AspectCard(GraphCard[AspectTable, AspectEvaluation]):
    """See `GraphCard`."""

    __slots__ = ()

    def _purpose(self) -> str:
        aspects = self.data.aspects
        return f"that gives items a vector for each of {len(aspects)} aspects: {', '.join(aspects)}"

    def _use(self) -> str:
        return _USE.replace("ASPECT", repr(self.data.aspects[0]))

    def _data(self) -> str:
        items = self.data
        splits = [[name, f"{len(items.members(name)):,}"] for name in SPLITS]
        rows = []
        for aspect in items.aspects:
            item, label = items.labels_in(aspect)
            rows.append([aspect, f"{len(set(label.tolist())):,}", f"{len(set(item.tolist())):,}"])
        left = [
            [name.replace("_", " "), f"{count:,}"] for name, count in items.report.items() if count
        ]
        return "\n\n".join([
            table(["split", "items"], splits),
            table(["aspect", "labels", "items with one"], rows),
            *([table(["what was found", "number"], left)] if left else []),
        ])  # fmt: skip

    def _metrics(self, name: str, found: AspectEvaluation) -> str:
        names = [f"{each}@{found.k}" for each in ("precision", "recall", "mrr", "map")]
        rows = []
        for aspect in found.aspects:
            interval = found.intervals.get(f"{aspect}.map@{found.k}")
            text = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
            cells = [f"{found.metrics[f'{aspect}.{each}']:.4f}" for each in names]
            rows.append([aspect, f"{found.queries[aspect]:,}", *cells, text])
        leaks = [[each, *(f"{value:.4f}" for value in row)]
                 for each, row in zip(found.rows, found.leakage)]  # fmt: skip
        return "\n\n".join([
            f"## Metrics on {name}",
            table(["aspect", "queries", *names, f"map@{found.k}, 95 % interval"], rows),
            "Intervals: bootstrap over items; they do not cover the choice of seed or split. "
            f"Below: map@{found.k} of the vectors of an aspect by the labels of an aspect; "
            "`generic` are the features without training.",
            table(["vectors of", *(f"by {aspect}" for aspect in found.aspects)], leaks),
        ])  # fmt: skip
