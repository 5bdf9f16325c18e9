"""``recsys tune``: what is handed over, and what a small search leaves behind."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import cli


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep file around FM on a thousand rows."""
    config = {
        "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                    "num_rows": 1000, "valid_rows": 300, "test_rows": 300},
        "model": {"class": "recsys.models.ctr.fm.FM", "embedding_dim": 4},
        "train": {"batch_size": 128, "bootstrap_samples": 0},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "small.yaml"
    path.write_text(
        "config: config.json\n"
        "space: {model.tables.*.embedding_dim: {power_of_two: [1, 4]}}\n"
        "objectives: [auc, bytes]\ntrials: 9\n"
    )
    return path


def test_the_best_of_a_search_trains_to_the_same_metrics(sweep: Path, tmp_path: Path) -> None:
    common = "--cache-dir", tmp_path / "cache"
    out = tmp_path / "study"
    said = cli("tune", "--sweep", sweep, "--set", "trials=2", "--out", out, *common).output
    assert "[2/2]" in said and "best.yaml" in said and (out / "report.html").exists()
    again = cli("tune", "--sweep", sweep, "--set", "trials=2", "--out", out, *common).output
    assert "goes on after 2 trials" in again and "[" not in again.splitlines()[1][:1]
    cli("train", "--config", out / "best.yaml", "--run-dir", tmp_path / "best", *common)
    found = json.loads((tmp_path / "best/result.json").read_text())["metrics"]["valid"]["auc"]
    trials = (out / "trials.csv").read_text().splitlines()
    column = trials[0].split(",").index("auc")
    assert found in [float(line.split(",")[column]) for line in trials[1:]]


def test_ray_and_storage_are_handed_over(sweep: Path, tmp_path: Path, monkeypatch) -> None:
    seen = {}

    def search(plan, experiment, folder, options):
        seen.update(plan=plan, experiment=experiment, folder=folder, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.tune.tune.tune", search)
    cli("tune", "--sweep", sweep, "--storage", "sqlite:///x.db", "--workers", 3, code=1)
    assert seen["folder"] == Path("runs/small") and seen["plan"].trials == 9
    assert (seen["options"].storage, seen["options"].workers) == ("sqlite:///x.db", 3)
    assert seen["experiment"].model.config.embedding_dim == 4


def test_a_typo_in_the_space_is_said_at_once(sweep: Path, tmp_path: Path) -> None:
    sweep.write_text(sweep.read_text().replace("embedding_dim", "embeding_dim"))
    out = tmp_path / "study"
    said = cli("tune", "--sweep", sweep, "--out", out, "--cache-dir", tmp_path / "c", code=2)
    assert "Did you mean" in said.stderr and "embedding_dim" in said.stderr
    assert not out.exists()


def test_a_collaborative_filter_is_searched_and_its_best_trains(tmp_path: Path) -> None:
    config = {
        "dataset": {"class": "recsys.datasets.planted_communities.PlantedCommunities",
                    "num_users": 60, "num_items": 50},
        "model": {"class": "recsys.models.graph.light_gcn.LightGCN", "embedding_dim": 8},
        "train": {"batch_size": 128},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    sweep = tmp_path / "filter.yaml"
    sweep.write_text(
        "config: config.json\nspace: {model.num_layers: {int: [1, 3]}}\n"
        "set: {train.num_epochs: 1}\n"
        "objectives: [recall@10]\ntrials: 2\n"
    )
    out, common = tmp_path / "study", ("--cache-dir", tmp_path / "cache")
    said = cli("tune", "--sweep", sweep, "--out", out, *common).output
    assert "recall@10 0." in said and "[2/2]" in said
    cli("train", "--config", out / "best.yaml", "--run-dir", tmp_path / "best", *common)
    found = json.loads((tmp_path / "best/result.json").read_text())["metrics"]["valid"]
    trials = [line.split(",") for line in (out / "trials.csv").read_text().splitlines()]
    assert str(found["recall@10"]) in [line[trials[0].index("recall@10")] for line in trials[1:]]
