"""LATTE's classifier; its layers are pinned in tests/graph/test_meta_relation_attention.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.embeddings.compression.plan import CompressionConfig
from recsys.errors import DataError
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_batches import NodeBatch
from recsys.models.node.latte_classifier import LATTEClassifier
from recsys.testing.nodes import NodeClassifierConformance, tiny_nodes


class TestSuite(NodeClassifierConformance):
    model = LATTEClassifier
    config = LATTEClassifier.Config(embedding_dim=8, dropout=0.0, top=5)
    learning_rate = 0.02


def three_types() -> LabelledNodes:
    """The tiny graph with tags and makers, neither of which has features."""
    nodes = tiny_nodes(tags=True)
    edges = {**nodes.edges, ("maker", "made", "node"): np.stack([np.arange(24) % 5, np.arange(24)])}
    return LabelledNodes(
        nodes.target, {**nodes.counts, "maker": 5}, nodes.labels, nodes.classes, nodes.splits,
        edges, nodes.features,
    )  # fmt: skip


def made(nodes: LabelledNodes, **options) -> LATTEClassifier:
    config = LATTEClassifier.Config(embedding_dim=8, dropout=0.0, top=4, **options)
    model = LATTEClassifier(config, nodes)
    model.reset_parameters(2)
    return model.eval()


def test_rows_logits_and_loss_are_put_together_as_written():
    nodes = three_types()
    model = made(nodes, proximity=0.4, proximity_pairs=None)
    weights = model.embeddings.store.weights()
    tags, makers = (weights[f"embedding.{name}"][2:] for name in ("tag", "maker"))
    linear = model.inputs[0].linear
    words = torch.from_numpy(nodes.features["node"].toarray())
    rows = {"node": functional.relu(linear(words)), "tag": tags, "maker": makers}
    found = model.rows()
    for name, wanted in rows.items():
        torch.testing.assert_close(found[name], wanted)
    logits = model.output(model.layers(rows)["node"])
    torch.testing.assert_close(model.logits(), logits)
    batch = NodeBatch(torch.tensor([4, 0]), torch.tensor([1, 0]))
    torch.manual_seed(1)
    loss = model.loss(batch)
    torch.manual_seed(1)
    near = model.layers.with_proximity(rows, None)[1]
    told = -logits.log_softmax(1)[batch.nodes, batch.labels].mean()
    torch.testing.assert_close(loss, told + 0.4 * near)
    torch.testing.assert_close(made(nodes, proximity=0.0).loss(batch), told)


def test_compressed_tables_of_nodes_without_features():
    compression = CompressionConfig.model_validate(
        {"scheme": {"kind": "hash"}, "ratio": 0.5, "exact_rows": 0}
    )
    model, full = made(three_types(), compression=compression), made(three_types())
    assert model.embeddings.num_rows_parameters() < 0.8 * full.embeddings.num_rows_parameters()
    rows = model.rows()
    assert {name: tuple(values.shape) for name, values in rows.items()} == {
        "node": (24, 8), "tag": (4, 8), "maker": (5, 8),
    }  # fmt: skip
    assert len(rows["maker"].unique(dim=0)) < 5, "makers share rows"
    assert model.logits().isfinite().all()


def test_relations_and_their_shares():
    first, second = made(three_types()).relation_shares()
    # links are drawn in one direction, so the reverse is another relation
    assert list(first) == [
        "links (node)", "rev links (node)", "has (tag)", "rev made (maker)", "self",
    ]  # fmt: skip
    assert len(second) == 6  # over nodes to all three types, over the others to nodes; and self
    for layer in (first, second):
        torch.testing.assert_close(sum(layer.values()), torch.ones(24))


def test_a_graph_of_one_type_or_without_edges():
    assert made(tiny_nodes()).logits().shape == (24, 3)
    nodes = tiny_nodes()
    bare = LabelledNodes(
        nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits, {}, nodes.features
    )
    with pytest.raises(DataError, match="the graph has no edge"):
        made(bare)
