"""The whole job on a small synthetic log."""

import json
import os
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.config import Experiment
from recsys.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ShardingError,
    TrainingError,
)
from recsys.evaluate.evaluation import EvaluationOptions
from recsys.evaluate.stored import evaluate_run, evaluate_source
from recsys.metrics.auc import auc
from recsys.models.ctr.lr import LR
from recsys.serving.artefact import load_artefact
from recsys.train.folder import locked
from recsys.train.run import RunOptions, run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def experiment(*settings) -> Experiment:
    return Experiment.parse(
        {
            "dataset": {
                "class": "recsys.datasets.synthetic.Synthetic",
                "num_rows": 3000, "valid_rows": 800, "test_rows": 700,
            },
            "model": {"class": "recsys.models.ctr.lr.LR"},
            "train": {
                "batch_size": 256, "learning_rate": 0.02, "num_epochs": 2,
                "evaluations_per_epoch": 2, "bootstrap_samples": 20,
            },
            "embedding": {"learning_rate": 0.1},
        },
        settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "lr"
    return run(experiment(), folder, RunOptions(cache_dir=cache, show="none"))


def test_the_folder_is_complete(finished):
    names = {path.name for path in finished.directory.iterdir()}
    assert names >= {
        "config.yaml", "config.json", "environment.json", "metrics.jsonl", "checkpoints", "model",
        "predictions.parquet", "MODEL_CARD.md", "result.json", "evaluation.json", "plots",
    }  # fmt: skip
    pictures = {path.name for path in (finished.directory / "plots").iterdir()}
    assert pictures == {
        "learning_curve.png", "roc.png", "pr.png", "reliability.png", "score_histogram.png",
    }  # fmt: skip
    assert not finished.interrupted and finished.rows_per_second > 0


def test_it_learned_something_below_the_oracle(finished):
    found = finished.metrics("valid")["auc"]
    assert 0.58 < found < finished.oracle["valid"]["auc"]


def test_predictions_give_the_metrics_again(finished):
    table = pq.read_table(finished.directory / "predictions.parquet")
    for split in ("valid", "test"):
        kept = np.array(table["split"]) == split
        again = auc(np.array(table["label"])[kept], np.array(table["probability"])[kept])
        assert again == pytest.approx(finished.metrics(split)["auc"], abs=1e-12)
    assert table.num_rows == 1500


def test_the_artefact_gives_the_metrics_again(finished, cache):
    options = EvaluationOptions(bootstrap_samples=0, slice_by=())
    found = evaluate_run(finished.directory, "valid", cache, options)
    for name, value in finished.seeds[0].metrics["valid"].items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-12), name
    raw = experiment().dataset.build().splits(cache).valid
    streamed = evaluate_source(finished.directory, raw, batch_size=77, options=options)
    assert streamed.rows == 800
    for name, value in found.metrics.items():
        assert streamed.metrics[name] == pytest.approx(value, abs=1e-9), name
    assert isinstance(load_artefact(finished.directory).model, LR)


def test_evaluating_a_split_that_is_not_there(finished, cache):
    with pytest.raises(DataError, match="no split `future`"):
        evaluate_run(finished.directory, "future", cache)


def test_data_that_changed_since_training_is_noticed(finished, tmp_path):
    content = json.loads((finished.directory / "config.json").read_text())
    content["dataset"]["seed"] = 99
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(content))
    (other / "model").symlink_to(finished.directory / "model")
    with pytest.raises(DataError, match="the data changed since training"):
        evaluate_run(other, "valid", tmp_path)


def test_the_card_says_what_matters(finished):
    card = (finished.directory / "MODEL_CARD.md").read_text()
    assert finished.prepared.fingerprint in card
    assert f"{finished.seeds[0].table_bytes['total']:,}" in card
    assert f"{finished.metrics('valid')['auc']:.5f}" in card
    assert f"{finished.oracle['valid']['auc']:.5f}" in card
    for text in ("95 % interval", "Predictor.load", "| train | 3,000 |", "groups", "### By `"):
        assert text in card, text
    assert "None" not in card and "nan" not in card


def test_the_configuration_loads_back_equal(finished):
    folder = finished.directory
    texts = [json.loads((folder / "config.json").read_text())]
    assert Experiment.parse(texts[0]) == experiment()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] and environment["cores"]


def test_a_second_run_in_the_folder_is_refused(finished, cache):
    with pytest.raises(ConfigError, match=r"holds a run already\. Add --resume"):
        run(experiment(), finished.directory, RunOptions(cache_dir=cache, show="none"))


def test_two_jobs_in_one_folder(tmp_path, cache):
    with (
        locked(tmp_path),
        pytest.raises(
            ConfigError, match=f"another job works in this folder .process {os.getpid()}"
        ),
    ):
        run(experiment(), tmp_path, RunOptions(cache_dir=cache, show="none"))


def test_resuming_another_experiment_is_refused(finished, cache):
    options = RunOptions(cache_dir=cache, show="none", resume=True)
    other = experiment("train.learning_rate=0.5", "train.log_every=7")
    with pytest.raises(ConfigError, match=r"train.learning_rate was 0.02, is 0.5\. Take") as e:
        run(other, finished.directory, options)
    assert "log_every" not in str(e.value)


def test_nothing_to_resume(tmp_path, cache):
    with pytest.raises(ConfigError, match="there is no run to resume"):
        run(experiment(), tmp_path / "new", RunOptions(cache_dir=cache, resume=True))


def test_no_ranks(tmp_path):
    with pytest.raises(ConfigError, match="ranks must be at least 1, got 0"):
        run(experiment(), tmp_path, RunOptions(ranks=0))


def test_seeds_have_folders_mean_and_sd_and_survive_a_stop(tmp_path, cache, monkeypatch):
    whole = experiment("seeds=[1, 2, 3]", "train.num_epochs=1")
    options = RunOptions(cache_dir=cache, show="none")
    steps, inner = [0], LR.loss

    def loss(self, logits, batch):
        steps[0] += 1
        if steps[0] == 17:  # in the second seed: one epoch is 12 steps
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, logits, batch)

    monkeypatch.setattr(LR, "loss", loss)
    cut = run(whole, tmp_path / "cut", options)
    assert cut.interrupted and [seed.fit.stopped for seed in cut.seeds] == ["finished", "SIGTERM"]
    assert not (tmp_path / "cut" / "summary.json").exists()
    monkeypatch.undo()
    rest = run(whole, tmp_path / "cut", RunOptions(cache_dir=cache, show="none", resume=True))
    again = run(whole, tmp_path / "whole", options)
    assert not rest.interrupted
    assert [seed.metrics for seed in rest.seeds] == [seed.metrics for seed in again.seeds]
    values = [seed.metrics["valid"]["auc"] for seed in rest.seeds]
    assert len(set(values)) == 3
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    spread = summary["metrics"]["valid"]["auc"]
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (tmp_path / "cut" / "seed-2" / "model" / "model.json").is_file()


def test_local_tables_on_two_ranks_are_refused(tmp_path, cache):
    two = RunOptions(cache_dir=cache, ranks=2, show="none")
    with pytest.raises(ShardingError, match="backend=local holds tables in one process, got 2"):
        run(experiment("embedding.backend=local"), tmp_path, two)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_do_what_one_does(tmp_path, cache):
    """One step on 2 x 128 rows in file order equals one step on 256 rows, metrics included."""
    settings = ["train.shuffle=false", "train.num_epochs=1", "model.class=recsys.models.ctr.fm.FM",
                "model.embedding_dim=4", "train.bootstrap_samples=0"]  # fmt: skip
    results = {}
    for ranks in (1, 2):
        size = f"train.batch_size={3072 // ranks}"
        options = RunOptions(cache_dir=cache, ranks=ranks, show="none")
        results[ranks] = run(experiment(*settings, size), tmp_path / str(ranks), options)
    one, two = (results[ranks].seeds[0] for ranks in (1, 2))
    assert (one.backend, two.backend) == ("local", "torchrec") and "rank 1:" in two.plan
    assert one.fit.steps == two.fit.steps == 1
    for split in ("valid", "test"):
        for name, value in one.metrics[split].items():
            assert two.metrics[split][name] == pytest.approx(value, abs=2e-5), (split, name)
    first, second = (load_artefact(tmp_path / str(r)).model.state_dict() for r in (1, 2))
    for name, value in first.items():
        np.testing.assert_allclose(second[name].numpy(), value.numpy(), atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.distributed
def test_an_error_of_a_rank_names_the_rank(tmp_path, cache):
    options = RunOptions(cache_dir=cache, ranks=2, show="none")
    with pytest.raises(TrainingError, match="finite numbers") as caught:
        run(experiment("train.learning_rate=1e38", "train.optimizer=sgd"), tmp_path, options)
    assert "of 2" in caught.value.__notes__[0]


def test_a_damaged_checkpoint_is_an_error_that_says_what(cache, tmp_path):
    folder = tmp_path / "lr"
    cut = experiment("train.num_epochs=1")
    options = RunOptions(cache_dir=cache, show="none")
    first = run(cut, folder, options)
    for path in (folder / "checkpoints").glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    more = experiment("train.num_epochs=2")
    with pytest.raises(CheckpointError, match="checkpoints are damaged"):
        run(more, folder, RunOptions(cache_dir=cache, show="none", resume=True))
    assert first.seeds[0].fit.steps == 12
