"""Experiments of classifiers of nodes: files, kinds, documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recsys.cf_config import CFExperiment, kind_of, load_any
from recsys.config import Experiment
from recsys.config_text import parse
from recsys.errors import ConfigError
from recsys.node_config import NodeExperiment

ROOT = Path(__file__).parent.parent


def test_the_example_of_the_guide_is_an_experiment():
    text = (ROOT / "docs" / "nodes.md").read_text()
    for example in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL):
        experiment = NodeExperiment.parse(parse(example, "docs"))
        assert experiment.dataset.config.path == ".data/planetoid"


def test_the_class_of_the_model_says_which_kind():
    for path, kind in (
        ("recsys.models.node.gcn.GCN", NodeExperiment),
        ("recsys.models.node.gcn.GNC", NodeExperiment),  # so that the problem is told well
        ("recsys.models.graph.light_gcn.LightGCN", CFExperiment),
        ("recsys.models.ctr.lr.LR", Experiment),
        ("recsys.models.ctr.nothing.X", Experiment),
    ):
        assert kind_of({"model": {"class": path}}) is kind, path


def test_a_typo_is_named_with_its_place(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "dataset: {class: recsys.datasets.planted_nodes.PlantedNodes}\n"
        "model: {class: recsys.models.node.gcn.GCN, hidden_unit: 3}\n"
        "train: {monitored: auc}\n"
    )
    with pytest.raises(ConfigError, match=r"2 problems(.|\n)*hidden_units(.|\n)*monitor"):
        load_any(tmp_path / "x.yaml")
