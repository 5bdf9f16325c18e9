"""GCN against its equations, written out with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.node_batches import NodeBatch
from recsys.models.node.gcn import GCN
from recsys.testing.nodes import NodeClassifierConformance, tiny_nodes


class TestSuite(NodeClassifierConformance):
    model = GCN
    config = GCN.Config(hidden_units=8, dropout=0.0, l2=0.0)


class TestSuiteWithDropout(NodeClassifierConformance):
    model = GCN
    config = GCN.Config(hidden_units=8, dropout=0.3)

    test_training_lowers_the_loss = None  # with dropout it is too noisy on 12 nodes


def dense_operator() -> torch.Tensor:
    """D^-1/2 (A + I) D^-1/2 of the tiny graph, both directions of every edge."""
    adjacency = torch.zeros(24, 24)
    for first, second in tiny_nodes().edges["node", "links", "node"].T:
        adjacency[first, second] = adjacency[second, first] = 1
    adjacency += torch.eye(24)
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


def test_logits_loss_and_gradients_are_those_of_the_equations():
    model = GCN(GCN.Config(hidden_units=5, dropout=0.0, l2=0.3), tiny_nodes())
    model.reset_parameters(4)
    with torch.no_grad():
        model.hidden_bias.copy_(torch.linspace(-0.2, 0.3, 5))
        model.output.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    weights = [model.hidden.linear.weight, model.hidden_bias, model.output.weight,
               model.output.bias]  # fmt: skip
    first, bias, second, last = (weight.detach().clone().requires_grad_() for weight in weights)
    x = torch.from_numpy(tiny_nodes().features["node"].toarray())
    operator = dense_operator()
    wanted = operator @ functional.relu(operator @ x @ first.T + bias) @ second.T + last
    torch.testing.assert_close(model.logits(), wanted)
    batch = NodeBatch(torch.tensor([3, 0, 9]), torch.tensor([0, 0, 0]))
    loss = model.loss(batch) + model.auxiliary_loss()
    wanted_loss = -wanted.log_softmax(1)[batch.nodes, batch.labels].mean()
    wanted_loss = wanted_loss + 0.15 * (first.square().sum() + bias.square().sum())
    torch.testing.assert_close(loss, wanted_loss)
    wanted_loss.backward()
    grads = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(grads, (first.grad, bias.grad, second.grad, last.grad))


def test_dropout_is_of_features_and_hidden_units_in_training_only():
    model = GCN(GCN.Config(hidden_units=5, dropout=0.6), tiny_nodes())
    model.reset_parameters(1)
    first, second = model.train().logits(), model.logits()
    assert not torch.equal(first, second)
    assert torch.equal(model.eval().logits(), model.logits())


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ConfigError, match=r"one type of nodes, got \['node', 'tag'\]"):
        GCN(GCN.Config(), tiny_nodes(tags=True))
    nodes = tiny_nodes()
    bare = type(nodes)(nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits,
                       nodes.edges)  # fmt: skip
    with pytest.raises(ConfigError, match="needs features of the `node` nodes"):
        GCN(GCN.Config(), bare)


def test_dense_features_are_like_sparse_ones():
    nodes = tiny_nodes()
    features = {"node": nodes.features["node"].toarray().astype(np.float32)}
    dense = type(nodes)(nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits,
                        nodes.edges, features)  # fmt: skip
    found = []
    for graph in (nodes, dense):
        model = GCN(GCN.Config(), graph)
        model.reset_parameters(2)
        found.append(model.eval().logits())
    torch.testing.assert_close(found[0], found[1])
