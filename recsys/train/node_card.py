"""MODEL_CARD.md of a classifier of nodes: what it is, how good, how to use it.

Stability: internal
"""

from __future__ import annotations

from recsys.evaluate.nodes import NodeEvaluation
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.train.graph_card import GraphCard
from recsys.train.model_card import table

_USE = """Intended: classes of nodes of this very graph, of which some are known.
Not intended: another graph, or nodes that were added later; decisions about persons that have legal
or similar effect.

```python
from recsys.serving.classifier_folder import load_classifier

model = load_classifier("model", nodes)      # the folder beside this file, and the same graph
model.probabilities()                        # of all classes, for every node
```"""


class NodeCard(GraphCard[LabelledNodes, NodeEvaluation]):
    """See `GraphCard`."""

    __slots__ = ()

    def _purpose(self) -> str:
        return f"that tells the class of `{self.data.target}` nodes of one graph"

    def _use(self) -> str:
        return _USE

    def _data(self) -> str:
        nodes = self.data
        rows = [[name, f"{count:,}"] for name, count in nodes.counts.items()]
        edges = [[" ".join(name), f"{ends.shape[1]:,}"] for name, ends in nodes.edges.items()]
        splits = [[name, f"{len(split):,}"] for name, split in nodes.splits.items()]
        return "\n\n".join([
            f"Fingerprint: `{nodes.fingerprint()}`.",
            table(["nodes", "number"], rows),
            table(["edges", "number"], edges),
            table([f"split of `{nodes.target}`", "nodes"], splits),
        ])  # fmt: skip

    def _metrics(self, name: str, found: NodeEvaluation) -> str:
        rows = []
        for metric, value in found.metrics.items():
            interval = found.intervals.get(metric)
            text = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
            rows.append([metric.replace("_", " "), f"{value:.4f}", text])
        classes = [[label, f"{count:,}", *(f"{value:.4f}" for value in values)]
                   for label, count, *values in found.rows()]  # fmt: skip
        note = "Intervals: bootstrap over nodes; they do not cover the choice of seed or split."
        parts = [
            f"## Metrics on {name} ({len(found.nodes):,} nodes)",
            table(["metric", "value", "95 % interval"], rows),
            *([note] if found.intervals else []),
            table(["class", "nodes", "precision", "recall", "F1"], classes),
        ]
        return "\n\n".join(parts)
