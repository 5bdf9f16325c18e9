"""DAGNN against its equations, written out with dense matrices, and its figures on Cora."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from recsys.graph.node_batches import NodeBatch
from recsys.models.node.dagnn_classifier import DAGNNClassifier
from recsys.node_config import NodeExperiment
from recsys.testing.nodes import NodeClassifierConformance, tiny_nodes
from recsys.train.run import RunOptions, run

CORA = Path(__file__).parents[3] / ".data" / "planetoid"


class TestSuite(NodeClassifierConformance):
    model = DAGNNClassifier
    config = DAGNNClassifier.Config(num_steps=3, hidden_units=8, dropout=0.0, l2=0.0)


def dense_operator() -> torch.Tensor:
    """D^-1/2 (A + I) D^-1/2 of the tiny graph, both directions of every edge."""
    adjacency = torch.eye(24)
    for first, second in tiny_nodes().edges["node", "links", "node"].T:
        adjacency[first, second] = adjacency[second, first] = 1
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


def test_logits_loss_and_gradients_are_those_of_the_equations():
    config = DAGNNClassifier.Config(num_steps=2, hidden_units=5, dropout=0.0, l2=0.2)
    model = DAGNNClassifier(config, tiny_nodes())
    model.reset_parameters(4)
    parameters = dict(model.named_parameters())
    copies = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    x = torch.from_numpy(tiny_nodes().features["node"].toarray())
    h = functional.relu(x @ copies["hidden.linear.weight"].T + copies["hidden.linear.bias"])
    z = h @ copies["output.weight"].T + copies["output.bias"]
    operator = dense_operator()
    stack = torch.stack([z, operator @ z, operator @ operator @ z], 1)
    shares = torch.sigmoid(stack @ copies["gate.weight"] + copies["gate.bias"])
    torch.testing.assert_close(model.shares(), shares.detach())
    wanted = (shares.unsqueeze(2) * stack).sum(1)
    torch.testing.assert_close(model.logits(), wanted)
    batch = NodeBatch(torch.tensor([3, 0, 10]), torch.tensor([0, 0, 1]))
    loss = model.loss(batch) + model.auxiliary_loss()
    wanted_loss = -wanted.log_softmax(1)[batch.nodes, batch.labels].mean()
    wanted_loss = wanted_loss + 0.1 * sum(p.square().sum() for p in copies.values())
    torch.testing.assert_close(loss, wanted_loss)
    wanted_loss.backward()
    grads = torch.autograd.grad(loss, list(parameters.values()))
    torch.testing.assert_close(grads, tuple(copies[name].grad for name in parameters))


def test_the_gate_starts_as_asked():
    for start in ("mean", "uniform"):
        config = DAGNNClassifier.Config(num_steps=3, hidden_units=5, gate_start=start)
        model = DAGNNClassifier(config, tiny_nodes())
        model.reset_parameters(4)
        shares = model.eval().shares()
        if start == "mean":
            torch.testing.assert_close(shares, torch.full((24, 4), 0.25))
        else:
            assert shares.std() > 0.001 and 0.2 < shares.mean() < 0.8


@pytest.mark.slow
@pytest.mark.skipif(not CORA.is_dir(), reason="needs .data/planetoid")
def test_cora_as_published(tmp_path):
    """Published 84.4 +- .5; three seeds of 400 epochs come near."""
    experiment = NodeExperiment.parse({
        "dataset": {"class": "recsys.datasets.planetoid.Planetoid", "path": str(CORA)},
        "model": {"class": "recsys.models.node.dagnn_classifier.DAGNNClassifier"},
        "train": {"num_epochs": 400, "monitor": "logloss", "num_threads": 1},
        "seeds": [1, 2, 3],
    })  # fmt: skip
    options = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False)
    result = run(experiment, tmp_path / "run", options)
    assert 0.83 < result.metrics("test")["accuracy"] < 0.86
