import json

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner

from recsys.cf_config import load_any
from recsys.cli.main import main
from recsys.config import load
from recsys.errors import CheckpointError, ConfigError, TrainingError
from recsys.node_config import NodeExperiment, NodeTrainConfig
from recsys.serving.folder import check_kind, read_manifest
from recsys.serving.predictor import Predictor
from recsys.serving.recommender import Recommender
from recsys.testing.nodes import tiny_nodes
from recsys.train import plots
from recsys.train.node_task import NodeTask
from recsys.train.ray_train import RayOptions, run_on_ray
from recsys.train.run import RunOptions, run
from tests.evaluate.fixed_classes import Fixed

VALUES = {
    "dataset": {"class": "recsys.datasets.planted_nodes.PlantedNodes", "num_nodes": 80,
                "num_classes": 3, "num_words": 30},
    "model": {"class": "recsys.models.node.gcn.GCN", "hidden_units": 4},
    "train": {"num_epochs": 30, "num_threads": 1},
    "seeds": [1, 2],
}  # fmt: skip
QUIET = {"show": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    path = folder / "gcn.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    result = run(load_any(path), folder / "run", RunOptions(cache_dir=folder, **QUIET))
    return folder, result


def test_a_run_has_metrics_predictions_and_a_card(trained):
    folder, result = trained
    assert set(result.metrics("test")) == {"accuracy", "macro_f1", "micro_f1", "logloss"}
    assert result.metrics("test")["accuracy"] > 0.4
    seed = folder / "run" / "seed-1"
    rows = pq.read_table(seed / "predictions.parquet").to_pandas()
    of_test = rows[rows.split == "test"]
    right = (of_test.label == of_test.predicted).mean()
    assert right == pytest.approx(result.seeds[0].metrics["test"]["accuracy"])
    card = (seed / "MODEL_CARD.md").read_text()
    if plots.available():
        drawn = {path.stem for path in (seed / "plots").iterdir()}
        assert drawn == {"learning_curve", "confusion_valid", "confusion_test"}
        assert all(f"plots/{name}.png" in card for name in drawn)
    assert "# GCN" in card and "| macro f1 |" in card and "| class 2 |" in card
    best = max(
        (line for line in map(json.loads, (seed / "metrics.jsonl").read_text().splitlines())
         if line["kind"] == "valid"),
        key=lambda line: line["accuracy"],
    )  # fmt: skip
    assert result.seeds[0].metrics["valid"]["accuracy"] == best["accuracy"]


def test_the_command_line_judges_it_as_training_did(trained, cli):
    folder, result = trained
    output = cli("evaluate", folder / "run" / "seed-2", "--json", "--cache-dir", folder).output
    found = json.loads(output)
    assert found["metrics"] == pytest.approx(result.seeds[1].metrics["test"])
    assert "class 0" in cli("evaluate", folder / "run" / "seed-2").output
    for option in ("--per-user", "--compare"):
        said = cli("evaluate", folder / "run" / "seed-2", option, folder / "x", code=2)
        assert "holds a classifier of nodes" in said.stderr
    said = cli("evaluate", folder / "run" / "seed-2", "--data", folder / "x.csv", code=2)
    assert "is judged on a split of its run" in said.stderr


def test_other_commands_refuse_it(trained, cli):
    folder, _ = trained
    model = folder / "run" / "seed-1" / "model"
    for read in (Predictor.load, Recommender.load):
        with pytest.raises(CheckpointError, match="holds GCN, a classifier of nodes"):
            read(model)
    with pytest.raises(CheckpointError, match="a classifier of nodes"):
        check_kind(model, read_manifest(model), lists=True)
    with pytest.raises(ConfigError, match=r"GCN does not predict clicks.*classifiers of nodes"):
        load(folder / "gcn.yaml")
    said = cli("recommend", folder / "run" / "seed-1", "--users", "1", code=2)
    assert "a classifier of nodes" in said.stderr
    with pytest.raises(ConfigError, match="trained in one process"):
        run_on_ray(
            NodeExperiment.parse({**VALUES, "seeds": [1]}), folder / "ray",
            RunOptions(cache_dir=folder, **QUIET), RayOptions(2),
        )  # fmt: skip


def test_evaluating_other_data_is_refused(trained, cli):
    folder, _ = trained
    path = folder / "run" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"num_nodes": 80', '"num_nodes": 81'))
    try:
        said = cli("evaluate", folder / "run" / "seed-1", "--cache-dir", folder, code=2)
    finally:
        path.write_text(text)
    assert "trained on another graph ({'node': 80} nodes, now {'node': 81}" in said.stderr


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match="expected batch_size and fanouts together"):
        NodeExperiment.parse({**VALUES, "train": {"batch_size": 4}})
    with pytest.raises(ConfigError, match="propagates 2 times, so expected as many"):
        experiment = NodeExperiment.parse({**VALUES, "train": {"batch_size": 4, "fanouts": [2]}})
        nodes = experiment.dataset.build().nodes(None)
        experiment.model.build(nodes).sampler(experiment.train.fanouts)
    with pytest.raises(ConfigError, match="monitor"):
        NodeExperiment.parse({**VALUES, "train": {"monitor": "auc"}})
    with pytest.raises(ConfigError, match=r"is not a NodeClassifier class"):
        NodeExperiment.parse(
            {**VALUES, "model": {"class": "recsys.models.graph.light_gcn.LightGCN"}}
        )


def test_a_model_that_tells_nothing_apart_is_named():
    class Same(Fixed):
        class Config(Fixed.Config):
            pass

        def logits(self, sampled=None):
            return torch.zeros(24, 3)

    task = NodeTask(Same(Same.Config(), tiny_nodes()), NodeTrainConfig(monitor="logloss"), None)
    assert not task.higher_is_better() and task.monitor == "logloss"
    assert "tells all nodes apart by nothing" in task.judge("valid", 1, 1.0).problem
    task = NodeTask(Fixed(Fixed.Config(), tiny_nodes()), NodeTrainConfig(), None)
    assert task.higher_is_better() and task.judge("test", 1, 1.0).problem == ""


def test_a_loss_that_is_not_finite_names_the_rate(tmp_path):
    values = {**VALUES, "train": {"learning_rate": 1e30, "num_threads": 1}, "seeds": [1]}
    with pytest.raises(TrainingError, match=r"NaN|finite"):
        run(NodeExperiment.parse(values), tmp_path / "run", RunOptions(tmp_path, **QUIET))


@pytest.fixture
def cli():
    def call(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return call
