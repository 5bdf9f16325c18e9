"""What simple models reach on DBLP's authors and on Cora: the majority, words alone, co-authors.

    python benchmarks/node_baselines.py --cora .data/planetoid --dblp .data/magnn_raw/DBLP

A logistic regression takes the nodes' own features, its penalty chosen on the validation split.
GCN takes DBLP's authors with an edge between those who wrote a paper together.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from recsys.datasets.dblp import DBLP
from recsys.datasets.planetoid import Planetoid
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_batches import NodeLoader
from recsys.metrics.classification import classification_metrics, confusion
from recsys.models.node.gcn import GCN
from recsys.node_config import NodeTrainConfig
from recsys.train.node_task import NodeTask
from recsys.train.state import seed_everything
from recsys.train.trainer import Trainer

PENALTIES = (0.1, 1, 10, 100, 1000)


def judged(nodes: LabelledNodes, split: str, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy and F1 of predictions for all nodes of the target type."""
    chosen = nodes.splits[split]
    return classification_metrics(
        confusion(nodes.labels[chosen], predicted[chosen], len(nodes.classes))
    )


def majority(nodes: LabelledNodes) -> np.ndarray:
    """The most frequent class of the training nodes, for all."""
    labels = nodes.labels[nodes.splits["train"]]
    return np.full(len(nodes.labels), np.bincount(labels).argmax())


def words(nodes: LabelledNodes) -> np.ndarray:
    """A logistic regression of a node's own features."""
    features, train = nodes.features[nodes.target], nodes.splits["train"]
    best: tuple[float, np.ndarray] | None = None
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000)
        model.fit(features[train], nodes.labels[train])
        predicted = model.predict(features)
        found = judged(nodes, "valid", predicted)["accuracy"]
        if best is None or found > best[0]:
            best = found, predicted
    assert best is not None
    return best[1]


def co_authors(nodes: LabelledNodes) -> LabelledNodes:
    """DBLP's authors with an edge between those of one paper."""
    paper, author = nodes.edges["paper", "by", "author"]
    ones = np.ones(len(paper), np.float32)
    wrote = csr_array(
        (ones, (paper, author)), shape=(nodes.counts["paper"], nodes.counts["author"])
    )
    both = (wrote.T @ wrote).tocoo()
    apart = both.row != both.col
    return LabelledNodes(
        "author", {"author": nodes.counts["author"]}, nodes.labels, nodes.classes, nodes.splits,
        {("author", "with", "author"): np.stack([both.row, both.col])[:, apart].astype(np.int64)},
        {"author": nodes.features["author"]},
    )  # fmt: skip


def gcn(nodes: LabelledNodes, seed: int) -> np.ndarray:
    """GCN at its defaults, the epoch chosen by validation."""
    seed_everything(seed)
    model = GCN(GCN.Config(), nodes)
    model.reset_parameters(seed)
    chosen = nodes.splits["train"]
    loader = NodeLoader(torch.from_numpy(chosen), torch.from_numpy(nodes.labels[chosen]))
    config = NodeTrainConfig(num_epochs=200, monitor="logloss")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(NodeTask(model, config, None), None, Path(folder), "none")
        trainer.fit(loader, "valid")
        trainer.load_best()
    return model.probabilities().numpy().argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cora", required=True, help="folder of Planetoid's files")
    parser.add_argument("--dblp", required=True, help="folder of MAGNN's files")
    parser.add_argument("--seeds", type=int, default=5, help="of GCN")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cora = Planetoid(Planetoid.Config(path=options.cora)).nodes(Path())
    dblp = DBLP(DBLP.Config(path=options.dblp)).nodes(Path())
    for name, nodes in (("cora", cora), ("dblp", dblp)):
        for kind, model in (("majority", majority), ("words", words)):
            print(name, kind, judged(nodes, "test", model(nodes)))
    together = co_authors(dblp)
    found = [judged(together, "test", gcn(together, seed + 1)) for seed in range(options.seeds)]
    for metric in found[0]:
        values = [result[metric] for result in found]
        print(
            f"dblp gcn of co-authors {metric} {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}"
        )


if __name__ == "__main__":
    main()
