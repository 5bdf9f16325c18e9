"""What every classifier of nodes has to do, as one suite to inherit.

Example::

    class TestGCN(NodeClassifierConformance):
        model = GCN
        config = GCN.Config(hidden_units=8)

Stability: testing
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from scipy.sparse import csr_array
from torch import Tensor

from recsys.config import class_path
from recsys.errors import CheckpointError, ConfigError
from recsys.evaluate.nodes import evaluate_nodes
from recsys.fit_config import DenseEmbeddingConfig
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_batches import NodeLoader
from recsys.node_config import NodeExperiment, NodeTrainConfig
from recsys.node_model import NodeClassifier
from recsys.serving.classifier_folder import load_classifier, save_classifier
from recsys.train.node_task import NodeTask
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.step import TrainStep

_DATASET = {
    "class": "recsys.datasets.planted_nodes.PlantedNodes",
    "num_nodes": 60, "num_classes": 3, "num_words": 24, "train_per_class": 5,
}  # fmt: skip


def tiny_nodes(tags: bool = False) -> LabelledNodes:
    """Three classes of eight nodes that mostly link to their like; the last node has no edge.

    Args:
        tags: Whether there is a second type of nodes, without features.
    """
    random = np.random.default_rng(3)
    labels = np.arange(24) % 3
    row, col = np.nonzero(random.random((24, 24)) < np.where(labels[:, None] == labels, 0.3, 0.03))
    apart = (row != col) & (row < 23) & (col < 23)
    edges = {("node", "links", "node"): np.stack([row, col])[:, apart]}
    words = (random.random((24, 9)) < np.where(labels[:, None] == np.arange(9) % 3, 0.5, 0.1)) * 1.0
    counts = {"node": 24}
    if tags:
        counts["tag"] = 4
        edges["node", "has", "tag"] = np.stack([np.arange(23), labels[:23]])
    splits = {"train": np.arange(0, 12), "valid": np.arange(12, 17), "test": np.arange(17, 24)}
    return LabelledNodes(
        "node", counts, labels, ("a", "b", "c"), splits, edges,
        {"node": csr_array(words.astype(np.float32))},
    )  # fmt: skip


class NodeClassifierConformance:
    """Inherit, name the model and a small config, and run pytest."""

    model: ClassVar[type[NodeClassifier]]
    """The class under test."""
    config: ClassVar[NodeClassifier.Config]
    """A small config of it, without dropout."""
    learning_rate: ClassVar[float] = 0.05
    """Of training."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference of logits that should be equal but for rounding."""

    def nodes(self) -> LabelledNodes:
        """The tiny graph, of several types where the model takes them."""
        return tiny_nodes(self.model.heterogeneous)

    def build(self, seed: int = 1, nodes: LabelledNodes | None = None) -> NodeClassifier:
        """With start values of a seed; in eval mode."""
        model = cast(Any, self.model)(self.config, nodes or self.nodes())
        model.reset_parameters(seed)
        return model.eval()

    def logits(self, model: NodeClassifier) -> Tensor:
        """Of all nodes, without gradient."""
        with torch.inference_mode():
            return model.logits().clone()

    def train_some(self, model: NodeClassifier, epochs: int) -> list[float]:
        """Trains on the whole graph; the loss of every step."""
        config = NodeTrainConfig(learning_rate=self.learning_rate)
        torch.manual_seed(3)
        tables = None
        if model.embeddings.groups:
            options = DenseEmbeddingConfig(learning_rate=self.learning_rate)
            tables = model.embeddings.attach_optimizer(options)
        step = TrainStep(NodeTask(model, config, tables), tables, Ranks.current())
        chosen = model.nodes.splits["train"]
        labels = torch.from_numpy(model.nodes.labels[chosen])
        loader = NodeLoader(torch.from_numpy(chosen), labels)
        model.train()
        losses = [float(step(batch, 1.0)) for _ in range(epochs) for batch in loader]
        model.eval()
        return losses

    def test_config_survives_json_and_yaml(self) -> None:
        """A saved config loads back equal."""
        kind = type(self.config)
        assert kind.model_validate_json(self.config.model_dump_json()) == self.config
        text = yaml.safe_dump(self.config.model_dump(mode="json"))
        assert kind.model_validate(yaml.safe_load(text)) == self.config

    def test_config_is_frozen_and_a_typo_is_named(self) -> None:
        """A misspelt setting never passes silently."""
        with pytest.raises(ValidationError, match="unknown_thing"):
            self.model.Config.model_validate({**self.config.model_dump(), "unknown_thing": 3})

    def test_logits_of_all_nodes(self) -> None:
        """Finite, different, (N, C), the same at every pass, also of a node without edges."""
        model = self.build()
        found = self.logits(model)
        assert found.shape == (24, 3) and found.isfinite().all()
        assert len(found[:, 0].unique()) > 8
        assert torch.equal(self.logits(model), found)
        torch.testing.assert_close(model.probabilities().sum(1), torch.ones(24))

    def test_one_seed_one_model(self) -> None:
        """The global random state does not matter; another seed gives another model."""
        found = []
        for global_seed, seed in ((0, 7), (1, 7), (1, 8)):
            torch.manual_seed(global_seed)
            found.append(self.logits(self.build(seed)))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])

    def test_order_of_edges_does_not_matter(self) -> None:
        """Nor their repetition."""
        nodes, random = self.nodes(), np.random.default_rng(1)
        edges = {
            name: np.concatenate([ends[:, random.permutation(ends.shape[1])], ends[:, :2]], 1)
            for name, ends in nodes.edges.items()
        }
        other = LabelledNodes(
            nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits, edges,
            nodes.features,
        )  # fmt: skip
        found, wanted = self.logits(self.build(nodes=other)), self.logits(self.build())
        torch.testing.assert_close(found, wanted, rtol=0, atol=self.tolerance)

    def test_labels_of_held_out_nodes_are_not_used(self) -> None:
        """Training is the same whatever they are."""
        nodes = self.nodes()
        labels = nodes.labels.copy()
        labels[12:] = (labels[12:] + 1) % 3
        other = LabelledNodes(
            nodes.target, nodes.counts, labels, nodes.classes, nodes.splits, nodes.edges,
            nodes.features,
        )  # fmt: skip
        models = [self.build(nodes=graph) for graph in (nodes, other)]
        assert self.train_some(models[0], 5) == self.train_some(models[1], 5)
        assert torch.equal(self.logits(models[0]), self.logits(models[1]))

    def test_training_lowers_the_loss(self) -> None:
        """And tells the classes of nodes that were held out better than chance."""
        model = self.build()
        losses = self.train_some(model, 60)
        assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]
        assert evaluate_nodes(model, "train").metrics["accuracy"] > 0.9
        assert evaluate_nodes(model, "test").metrics["accuracy"] > 0.5

    def test_state_dict_and_artefact_give_equal_logits(self, tmp_path: Path) -> None:
        """And another graph is refused."""
        model = self.build()
        other = cast(Any, self.model)(self.config, self.nodes())
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        assert torch.equal(self.logits(other.eval()), self.logits(model))
        save_classifier(tmp_path / "model", model)
        loaded = load_classifier(tmp_path / "model", self.nodes(), self.model)
        assert torch.equal(self.logits(loaded), self.logits(model))
        edges = {name: ends[:, 1:] for name, ends in self.nodes().edges.items()}
        nodes = self.nodes()
        changed = LabelledNodes(
            nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits, edges,
            nodes.features,
        )  # fmt: skip
        with pytest.raises(CheckpointError, match="trained on another graph"):
            load_classifier(tmp_path / "model", changed, self.model)

    def experiment(self, **train: Any) -> NodeExperiment:
        """A small job with the model."""
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        tags = {"num_tags": 6} if self.model.heterogeneous else {}
        return NodeExperiment.parse({
            "dataset": {**_DATASET, **tags},
            "model": {"class": class_path(self.model), **config},
            "train": {"num_epochs": 6, "num_threads": 1, "learning_rate": self.learning_rate,
                      **train},
        })  # fmt: skip

    def test_a_resumed_run_equals_one_that_never_stopped(self, tmp_path: Path) -> None:
        """Through the whole job, dropout included; sampled batches too, where it takes them."""
        train: dict[str, Any] = {}
        if self.model.samples:
            steps = getattr(self.build(), "num_steps")  # noqa: B009, of the subclass
            train = {"batch_size": 4, "fanouts": [2] * steps}
        options = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False)
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        run(self.experiment(**train), whole, options)
        run(self.experiment(max_steps=3, **train), cut, options)
        again = RunOptions(cache_dir=tmp_path, show="none", device="cpu", report=False, resume=True)
        run(self.experiment(**train), cut, again)
        nodes = self.experiment().dataset.build().nodes(tmp_path)
        first, second = (load_classifier(folder, nodes, self.model) for folder in (whole, cut))
        assert torch.equal(self.logits(first), self.logits(second))

    def test_drawn_neighbourhoods(self) -> None:
        """With so many draws that the average counts; or a clear error."""
        if not self.model.samples:
            with pytest.raises(ConfigError, match="whole graph"):
                self.build().sampler([2])
            return
        model = self.build()
        steps = getattr(model, "num_steps")  # noqa: B009, of the subclass
        sampler = model.sampler([30] * steps)
        nodes, generator = torch.tensor([5, 23, 5]), torch.Generator().manual_seed(1)
        with torch.inference_mode():
            found = torch.stack(
                [model.logits(sampler.sample(nodes, generator)) for _ in range(30)]
            ).mean(0)
        wanted = self.logits(model)[nodes]
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1 * float(wanted.abs().max()))
        with pytest.raises(ConfigError, match="numbers of neighbours"):
            model.sampler([2] * (steps + 1))
