"""The whole job of a collaborative filter: folder, stops, seeds, and data that is wrong."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from recsys.cf_config import CFExperiment, load_any
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.evaluate.stored_ranking import compare_runs, evaluate_ranking_run
from recsys.evaluate.user_results import UserResults
from recsys.graph.sampling import PairLoader
from recsys.models.graph.light_gcn import LightGCN
from recsys.serving.recommender import Recommender
from recsys.serving.recommender_folder import load_recommender
from recsys.train.checkpoint import CheckpointStore
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.tracking import read_metrics

DRAWN = ("embedding={mode: sparse, kind: adagrad}", "model={class: "
         "recsys.models.graph.light_gcn.LightGCN, num_layers: 2, fanouts: [4, 3]}")  # fmt: skip
SPLIT = {"split": {"kind": "by_user", "valid": 0.2, "test": 0.2}}


def experiment(*overrides: str, model: str = "light_gcn.LightGCN") -> CFExperiment:
    """Five steps an epoch."""
    return CFExperiment.parse(
        {
            "dataset": {
                "class": "recsys.datasets.planted_communities.PlantedCommunities",
                "num_users": 50, "num_items": 40, "num_communities": 3, "mean_items": 9,
                **SPLIT,
            },
            "model": {"class": f"recsys.models.graph.{model}"},
            "embedding": {"learning_rate": 0.02},
            "train": {"num_epochs": 4, "batch_size": 50, "num_threads": 1, "monitor": "recall@5"},
            "evaluation": {"ks": [5, 10], "bootstrap_samples": 10, "slice_groups": 2},
        },
        overrides,
    )  # fmt: skip


def options(cache: Path, **changes) -> RunOptions:
    return RunOptions(cache_dir=cache, show="none", device="cpu", **changes)


def vectors(folder: Path) -> torch.Tensor:
    return torch.cat(load_recommender(folder).model.vectors())


def stop_at(monkeypatch, step: int, action) -> None:
    """Acts in the middle of a training step, once."""
    inner, seen = LightGCN.loss, [0]

    def loss(self, batch):
        seen[0] += 1
        if seen[0] == step:
            action()
        return inner(self, batch)

    monkeypatch.setattr(LightGCN, "loss", loss)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cf")
    return run(experiment(), cache / "run", options(cache))


def test_the_folder_is_complete_and_serves(finished):
    folder = finished.directory
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml", "config.json", "environment.json", "metrics.jsonl", "checkpoints", "model",
        "users-valid.parquet", "users-test.parquet", "evaluation.json", "MODEL_CARD.md",
        "result.json",
    }  # fmt: skip
    assert load_any(folder / "config.yaml") == experiment()
    card = (folder / "MODEL_CARD.md").read_text()
    for part in ("Recommender.load", "## Metrics on test", "recall@10", "95 % interval", "cold"):
        assert part in card
    assert f"{finished.metrics('test')['recall@5']:.5f}" in card
    found = Recommender.load(folder).recommend([0, 1, 2], 5)
    assert all(len(one) == 5 for one in found)


def test_the_best_epoch_is_saved_and_judged(finished, tmp_path):
    lines = [line for line in read_metrics(finished.directory) if line["kind"] == "valid"]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    best = max(lines, key=lambda line: line["recall@5"])
    assert finished.seeds[0].fit.best_step == best["step"]
    assert finished.metrics("valid")["recall@5"] == best["recall@5"]
    kept = UserResults.read(finished.directory / "users-valid.parquet")
    assert kept.mean("recall@5") == pytest.approx(best["recall@5"])
    again = evaluate_ranking_run(finished.directory, "valid", tmp_path)
    assert again.metrics == finished.metrics("valid")


@pytest.mark.parametrize("step", [3, 5, 12])
@pytest.mark.parametrize("every", [1, 3])
def test_a_signal_stops_and_the_run_goes_on_bit_for_bit(tmp_path, monkeypatch, step, every):
    settings = [f"train.epochs_per_evaluation={every}", "model.num_layers=1"]
    whole = run(experiment(*settings), tmp_path / "whole", options(tmp_path))
    with monkeypatch.context() as patch:
        stop_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        cut = run(experiment(*settings), tmp_path / "cut", options(tmp_path))
    assert cut.interrupted and cut.seeds[0].fit.steps == step
    assert not (tmp_path / "cut" / "model").exists()
    torch.manual_seed(99)
    rest = run(experiment(*settings), tmp_path / "cut", options(tmp_path, resume=True))
    assert not rest.interrupted and rest.seeds[0].fit.steps == 20
    assert torch.equal(vectors(tmp_path / "cut"), vectors(tmp_path / "whole"))
    assert rest.metrics("test") == whole.metrics("test")
    lines = [[{k: v for k, v in line.items() if k != "seconds"}
              for line in read_metrics(tmp_path / name) if line["kind"] == "valid"]
             for name in ("whole", "cut")]  # fmt: skip
    assert lines[0] == lines[1]


def test_a_crash_between_rare_evaluations_goes_back_to_the_last_checkpoint(tmp_path, monkeypatch):
    settings = ["train.epochs_per_evaluation=2", "model.num_layers=1"]
    run(experiment(*settings), tmp_path / "whole", options(tmp_path))

    def crash():
        raise RuntimeError("power is gone")

    with monkeypatch.context() as patch:
        stop_at(patch, 18, crash)
        with pytest.raises(RuntimeError, match="power is gone"):
            run(experiment(*settings), tmp_path / "cut", options(tmp_path))
    store = CheckpointStore(tmp_path / "cut" / "checkpoints")
    assert store.load("last", Ranks.current()).state["progress"]["step"] == 10
    run(experiment(*settings), tmp_path / "cut", options(tmp_path, resume=True))
    assert torch.equal(vectors(tmp_path / "cut"), vectors(tmp_path / "whole"))


def test_seeds_are_folders_of_their_own_and_differ(tmp_path):
    found = run(experiment("seeds=[1,2]", "train.num_epochs=1"), tmp_path / "run",
                options(tmp_path))  # fmt: skip
    one, two = (tmp_path / "run" / f"seed-{seed}" for seed in (1, 2))
    assert not torch.equal(vectors(one), vectors(two))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    values = [seed.metrics["test"]["recall@5"] for seed in found.seeds]
    assert summary["metrics"]["test"]["recall@5"]["mean"] == pytest.approx(sum(values) / 2)
    alone = run(experiment("seeds=[2]", "train.num_epochs=1"), tmp_path / "alone",
                options(tmp_path))  # fmt: skip
    assert torch.equal(vectors(tmp_path / "alone"), vectors(two))
    assert alone.metrics("test") == found.seeds[1].metrics["test"]
    again = evaluate_ranking_run(one, "test", tmp_path)
    assert again.metrics == found.seeds[0].metrics["test"], "the config is in the folder above"
    rows = compare_runs(one, two, "test", tmp_path)
    (row,) = [row for row in rows if row.metric == "recall@5"]
    assert (row.base, row.other) == pytest.approx(tuple(values))


@pytest.mark.parametrize("model", ["ease.EASE", "most_pop.MostPop", "ials.iALS"])
def test_fitted_models_go_the_same_way(tmp_path, model):
    found = run(experiment(model=model), tmp_path / "run", options(tmp_path))
    assert found.seeds[0].fit.steps == 0 and found.seeds[0].fit.stopped == "finished"
    stored = load_recommender(tmp_path / "run")
    assert type(stored.model).__name__ == model.partition(".")[2]
    assert evaluate_ranking_run(tmp_path / "run", "test", tmp_path).metrics == found.metrics("test")
    assert "fitted in closed form" in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    before = (tmp_path / "run" / "result.json").read_bytes()
    run(experiment(model=model), tmp_path / "run", options(tmp_path, resume=True))
    assert (tmp_path / "run" / "result.json").read_bytes() == before, "it is complete"


def test_the_known_end_is_near(tmp_path):
    """What can be learned is learned: EASE is far above what is popular."""
    found = {}
    for model in ("ease.EASE", "most_pop.MostPop"):
        size = ["dataset.num_users=600", "dataset.num_items=400", "dataset.mean_items=25"]
        job = experiment(*size, "dataset.num_communities=12", model=model)
        found[model] = run(job, tmp_path / model, options(tmp_path)).metrics("test")["ndcg@10"]
    assert found["ease.EASE"] > found["most_pop.MostPop"] + 0.05


def test_some_validation_users_are_judged_in_training_and_all_at_the_end(tmp_path):
    found = run(experiment("train.valid_users=5", "train.num_epochs=1"), tmp_path / "run",
                options(tmp_path))  # fmt: skip
    line = next(line for line in read_metrics(tmp_path / "run") if line["kind"] == "valid")
    whole = json.loads((tmp_path / "run" / "evaluation.json").read_text())["valid"]
    assert whole["counts"]["users"] == 50
    assert (line["hr@5"] * 5) == pytest.approx(round(line["hr@5"] * 5)), "a mean over five"
    assert found.metrics("valid") == whole["metrics"]


def test_without_a_validation_split_the_last_weights_are_taken(tmp_path):
    found = run(experiment("dataset.split={kind: by_user, valid: 0, test: 0.2}"), tmp_path / "run",
                options(tmp_path))  # fmt: skip
    assert found.metrics("valid") == {} and found.metrics("test")["recall@5"] > 0
    assert load_recommender(tmp_path / "run").metadata["step"] == found.seeds[0].fit.steps


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("changes", [(), DRAWN])
def test_two_ranks_write_one_folder(tmp_path, changes):
    """What was trained on shards serves, and is judged alike by one process."""
    found = run(experiment("train.num_epochs=2", *changes), tmp_path / "run",
                options(tmp_path, ranks=2))  # fmt: skip
    assert json.loads((tmp_path / "run" / "plan.json").read_text())
    again = evaluate_ranking_run(tmp_path / "run", "test", tmp_path)
    assert again.metrics == pytest.approx(found.metrics("test"))
    stored = load_recommender(tmp_path / "run").model
    kept = torch.cat(stored.vectors())
    stored.train().eval()  # forgets the vectors, so they come from the rows that were saved
    torch.testing.assert_close(torch.cat(stored.vectors()), kept)


# -------------------------------------------------------------------------------- what is wrong


def test_data_that_changed_is_not_judged(tmp_path):
    run(experiment("train.num_epochs=1"), tmp_path / "run", options(tmp_path))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["dataset"]["seed"] = 8
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the data changed since training: the model of"):
        evaluate_ranking_run(tmp_path / "run", "test", tmp_path)
    with pytest.raises(ConfigError, match="expected valid or test, got 'train'"):
        evaluate_ranking_run(tmp_path / "run", "train", tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json, which says what data"):
        evaluate_ranking_run(tmp_path / "run", "test", tmp_path)


def test_a_split_that_is_not_there_is_named(tmp_path):
    split = "dataset.split={kind: by_user, valid: 0, test: 0.2}"
    run(experiment(split, "train.num_epochs=1"), tmp_path / "run", options(tmp_path))
    with pytest.raises(DataError, match="has no valid split with these options"):
        evaluate_ranking_run(tmp_path / "run", "valid", tmp_path)


def log_of(tmp_path, rows: str, more: str) -> str:
    """The override for a log of these lines."""
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id\n" + rows)
    return (
        "dataset={class: recsys.datasets.interaction_log.InteractionLog, "
        f"source: {{files: [{log}], format: csv}}, {more}}}"
    )


def test_nothing_left_to_train_on_is_an_error_that_says_what_to_do(tmp_path):
    data = log_of(tmp_path, "a,x\nb,y\n", "cleaning: {min_user: 5}")
    with pytest.raises(DataError, match=r"no interaction is left of 2.*Lower min_weight"):
        run(experiment(data), tmp_path / "run", options(tmp_path))


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="weighted edges were asked for, and the interactions have"):
        run(experiment("weighted=true"), tmp_path / "run", options(tmp_path))


def test_a_diverged_loss_names_the_learning_rate(tmp_path):
    wild = experiment("embedding.learning_rate=1e30")
    with pytest.raises(TrainingError, match="learning_rate"):
        run(wild, tmp_path / "run", options(tmp_path))


def test_schemes_of_several_trainings_are_refused_and_others_are_not(tmp_path):
    with pytest.raises(ConfigError, match=r"`pep`.*trained in several phases"):
        run(experiment("model.compression={scheme: {kind: pep}, ratio: 0.5, exact_rows: 0}"),
            tmp_path / "pep", options(tmp_path))  # fmt: skip
    hashed = experiment("model.compression={scheme: {kind: hash}, ratio: 0.5, exact_rows: 0}")
    found = run(hashed, tmp_path / "hash", options(tmp_path))
    plain = run(experiment("train.num_epochs=1"), tmp_path / "plain", options(tmp_path))
    sizes = [one.seeds[0].num_parameters["tables"] for one in (found, plain)]
    assert sizes[0] <= 0.5 * sizes[1]
    assert torch.isfinite(vectors(tmp_path / "hash")).all()


def test_users_who_have_seen_everything_leave_nothing_to_draw(tmp_path):
    rows = "".join(f"u{u},i{i}\n" for u in range(4) for i in range(4))
    data = log_of(tmp_path, rows, "split: {kind: by_user, valid: 0, test: 0}")
    with pytest.raises(DataError, match=r"seen all|every item|all items"):
        run(experiment(data, "evaluation.ks=[2]", "train.monitor=recall@2"), tmp_path / "run",
            options(tmp_path))  # fmt: skip


def test_the_loader_is_the_one_of_the_experiment(tmp_path, monkeypatch):
    made = []
    inner = PairLoader.__init__

    def keep(self, *args, **named):
        inner(self, *args, **named)
        made.append(self)

    monkeypatch.setattr(PairLoader, "__init__", keep)
    run(experiment("sampling.by=user", "train.num_epochs=1", "seeds=[6]"), tmp_path / "run",
        options(tmp_path))  # fmt: skip
    assert (made[0].config.by, made[0].batch_size, made[0].seed) == ("user", 50, 6)
