"""Two towers whose best checkpoint is picked by the lists that they give."""

import json

import pytest

from recsys.config import Experiment
from recsys.errors import ConfigError
from recsys.evaluate.retrieval import RetrievalOptions
from recsys.evaluate.stored import evaluate_run
from recsys.evaluate.stored_retrieval import evaluate_retrieval_run
from recsys.train.run import RunOptions, run
from recsys.train.tracking import read_metrics
from tests.cli.conftest import cli

CONFIG = {
    "dataset": {
        "class": "recsys.datasets.synthetic.Synthetic", "num_rows": 6000,
    },
    "model": {
        "class": "recsys.models.ctr.two_tower.TwoTower", "item_features": ["C14"],
        "item_id": "C14", "embedding_dim": 4, "output_dim": 4,
        "user_mlp": {"hidden_units": [8]}, "item_mlp": {"hidden_units": [8]},
    },
    "train": {"batch_size": 512, "num_epochs": 2, "evaluations_per_epoch": 2,
              "bootstrap_samples": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    "ranks", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.distributed])]
)
def test_the_best_checkpoint_is_the_one_with_the_best_lists(tmp_path, ranks):
    """With two ranks tables are shared out, and every rank ranks all items."""
    settings = ["model.prefixes=[2,4]", "model.softmax_weight=0.5"]
    experiment = Experiment.parse(CONFIG, ["train.monitor=ndcg@5", *settings])
    options = RunOptions(cache_dir=tmp_path / "data", show="none", ranks=ranks)
    seed = run(experiment, tmp_path / "run", options).seeds[0]
    lines = [line for line in read_metrics(seed.directory) if "ndcg@5" in line]
    assert len(lines) == 4 and all("recall@5" in line and "auc" in line for line in lines)
    best = max(lines, key=lambda line: line["ndcg@5"])
    assert seed.fit.best_step == best["step"]
    assert seed.metrics["valid"]["ndcg@5"] == pytest.approx(best["ndcg@5"])
    # What is stored gives the same again.
    for split in ("valid", "test"):
        found = evaluate_retrieval_run(
            seed.directory, split, tmp_path / "data", RetrievalOptions(ks=(5,))
        )
        assert found.metrics["ndcg@5"] == pytest.approx(seed.metrics[split]["ndcg@5"])
        text = cli("evaluate", seed.directory, "--lists", "--split", split, "--json",
                   "--cache-dir", tmp_path / "data").output  # fmt: skip
        assert json.loads(text)["metrics"].keys() >= {"recall@20", "ndcg@20"}
        clicks = evaluate_run(seed.directory, split, tmp_path / "data")
        assert clicks.metrics["auc"] == pytest.approx(seed.metrics[split]["auc"])


@pytest.mark.parametrize("name", ["recll@20", "recall", "recall@0", "auc@3"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(ConfigError, match=r"train.monitor"):
        Experiment.parse(CONFIG, [f"train.monitor={name}"])


def test_models_without_towers_are_refused_before_training(tmp_path):
    config = {**CONFIG, "model": {"class": "recsys.models.ctr.lr.LR"}}
    experiment = Experiment.parse(config, ["train.monitor=recall@5"])
    options = RunOptions(cache_dir=tmp_path / "data", show="none")
    with pytest.raises(ConfigError, match=r"expected a model with vectors .*, got LR"):
        run(experiment, tmp_path / "run", options)
