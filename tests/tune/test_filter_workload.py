"""Searches and comparisons around collaborative filters of 60 users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recsys.cf import EmbeddingModel
from recsys.cf_config import CFExperiment, load_any
from recsys.cf_fitted import FittedModel
from recsys.config_text import read_mapping
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.pep import PEP
from recsys.errors import BudgetInfeasible, ConfigError, DataError
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.evaluate.stored_ranking import evaluate_ranking_run, seen_and_relevant
from recsys.graph.interaction_graph import InteractionGraph
from recsys.serving.freeze import freeze_model
from recsys.serving.recommender_folder import load_recommender
from recsys.train.run import RunOptions, run
from recsys.tune import worker
from recsys.tune.compression import CompareOptions, compare
from recsys.tune.compression_report import report_text, write_report
from recsys.tune.filter_workload import FilterWorkload
from recsys.tune.report import report_text as study_text
from recsys.tune.report import write_report as write_study
from recsys.tune.sweep import Sweep
from recsys.tune.tune import TuneOptions, tune
from recsys.tune.workload import served_bytes

GRAPHS = Path(__file__).parents[2] / "configs/graph"
DATA = {"class": "recsys.datasets.planted_communities.PlantedCommunities",
        "num_users": 60, "num_items": 50}  # fmt: skip
LIGHT_GCN = {
    "dataset": DATA,
    "model": {"class": "recsys.models.graph.light_gcn.LightGCN", "embedding_dim": 8,
              "num_layers": 2},
    "embedding": {"learning_rate": 0.05},
    "train": {"batch_size": 128, "num_epochs": 4, "monitor": "ndcg@5"},
    "evaluation": {"ks": [5], "bootstrap_samples": 0},
}  # fmt: skip
EASE = {
    "dataset": DATA,
    "model": {"class": "recsys.models.graph.ease.EASE"},
    "train": {"monitor": "ndcg@5"},
    "evaluation": {"ks": [5]},
}
ROWS = 60 + 2 + 50 + 2


def sweep_of(tmp_path: Path, base=LIGHT_GCN, **fields) -> Sweep:
    (tmp_path / "config.json").write_text(json.dumps(base))
    defaults = {"config": tmp_path / "config.json", "objectives": ["ndcg@5"], "trials": 3}
    return Sweep.model_validate({**defaults, **fields})


def search(sweep: Sweep, tmp_path: Path, name="study", **options):
    said: list[str] = []
    study = tune(
        sweep, sweep.experiment(tmp_path), tmp_path / name,
        TuneOptions(cache_dir=tmp_path / "cache", say=said.append, **options),
    )  # fmt: skip
    return study, said


def valid(model, experiment: CFExperiment) -> float:
    """ndcg@5 on the validation split."""
    pairs = seen_and_relevant(experiment.dataset.build().splits(Path()), "valid")
    assert pairs is not None
    options = RankingOptions(ks=(5,), bootstrap_samples=0, slice_groups=0)
    return evaluate_ranking(model, *pairs, options).metrics["ndcg@5"]


def test_what_a_trial_says_is_what_its_experiment_gives(tmp_path):
    space = {"model.embedding_dim": {"power_of_two": [8, 32]},
             "serve.dtype": {"choice": ["fp32", "int4"]}}  # fmt: skip
    sweep = sweep_of(tmp_path, space=space, objectives=["ndcg@5", "bytes"], prior={"uniform": 2})
    study, said = search(sweep, tmp_path)
    assert f"full tables {4 * 8 * ROWS:,} bytes" in said[0] and "[3/3]" in said[-1]
    rows = study.rows()
    parents = [row for row in rows if row.trained]
    # The experiment as it is, then one width for all, narrowest and widest.
    assert [row.settings["model.embedding_dim"] for row in parents[:2]] == [8, 32]
    for parent in parents[:2]:
        width = parent.settings["model.embedding_dim"]
        experiment = CFExperiment.parse({**LIGHT_GCN, "model": {
            **LIGHT_GCN["model"], "embedding_dim": width}})  # fmt: skip
        alone = tmp_path / f"alone-{width}"
        run(experiment, alone, RunOptions(tmp_path / "cache", show="none"))
        model = load_recommender(alone).model
        family = {r.dtype: r for r in rows if parent.number in (r.number, r.twin_of)}
        assert family["fp32"].values["ndcg@5"] == valid(model, experiment)
        assert family["fp32"].values["bytes"] == 4 * width * ROWS
        frozen = freeze_model(model, "int4")
        assert family["int4"].values["ndcg@5"] == valid(frozen, experiment)
        assert family["int4"].values["bytes"] == served_bytes(frozen) <= width * ROWS
        test = evaluate_ranking_run(alone, "test").metrics["ndcg@5"]
        assert family["fp32"].facts["test"]["ndcg@5"] == test
    files = {path.name: path for path in write_study(study)}
    assert (
        "freeze_model(model" in files["best.yaml"].read_text() or study.front()[0].dtype == "fp32"
    )
    best = load_any(files["best.yaml"])
    assert isinstance(best, CFExperiment)
    text = files["report.html"].read_text()
    assert "LightGCN on PlantedCommunities, searched for ndcg@5, bytes" in text
    assert "lookup us" not in text and "recsys export" not in text
    assert {"front.png", "history.png"} <= set(files)


def test_the_known_optimum_of_a_fitted_model_is_found(tmp_path):
    choices = [0.1, 30.0, 1e6]
    experiment = CFExperiment.parse(EASE)
    graph = InteractionGraph.of(experiment.dataset.build().splits(Path()).train, None, False)
    found = {}
    for l2 in choices:
        model = CFExperiment.parse({**EASE, "model": {**EASE["model"], "l2": l2}}).model.build(
            graph
        )
        assert isinstance(model, FittedModel)
        model.fit(lambda text: None)
        found[l2] = valid(model.eval(), experiment)
    sweep = sweep_of(
        tmp_path, EASE, space={"model.l2": {"choice": choices}}, sampler={"kind": "grid"}
    )
    study, said = search(sweep, tmp_path)
    assert {row.settings["model.l2"]: row.values["ndcg@5"] for row in study.rows()} == found
    assert len(set(found.values())) == 3
    best = max(found, key=lambda l2: found[l2])
    files = {path.name: path for path in write_study(study)}
    assert read_mapping(files["best.yaml"])["model"]["l2"] == best
    # There are no tables, so nothing is said of bytes, and nothing is 50 % of them.
    assert "bytes" not in study.rows()[0].facts and not any("bytes" in line for line in said)
    assert "at most | trial" in files["report.md"].read_text().replace("|  ", "| ")
    assert "50%" not in files["report.md"].read_text() and "bytes" not in study_text(study)[60:]
    assert "front.png" not in files


def test_too_large_is_turned_down_before_training(tmp_path):
    space = {"model.embedding_dim": {"choice": [4, 8]},
             "model.compression": {"one_of": {"full": None, "hash": {
                 "scheme": {"kind": "hash"}, "ratio": {"choice": [0.5, 0.9]}}}}}  # fmt: skip
    most = 4 * 4 * ROWS
    sweep = sweep_of(tmp_path, space=space, limits={"bytes": most}, trials=2)
    rows = search(sweep, tmp_path)[0].rows()
    assert rows[0].state == "rejected" and "at most 1,824 are allowed" in rows[0].facts["why"]
    assert [row.folder for row in rows if row.state == "rejected"].count("") >= 1
    trained = [row for row in rows if row.trained]
    assert len(trained) == 2 and all(row.facts["bytes"] <= most for row in trained)
    with pytest.raises(BudgetInfeasible, match=r"at most 100 bytes are allowed, and the smallest"):
        search(sweep_of(tmp_path, space=space, limits={"bytes": 100}), tmp_path, "none")


def test_what_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    space = {"embedding.learning_rate": {"float": [1e-3, 1e-1], "log": True}}
    sweep = sweep_of(tmp_path, space=space, sampler={"startup_trials": 1})
    whole = search(sweep, tmp_path, "whole")[0].rows()
    inner, folders = worker.run, []

    def cut(experiment, folder, options):
        def stop(step, metrics):
            if len(folders) == 2 and len(options_seen) == 1:
                raise KeyboardInterrupt
            options_seen.append(step)

        folders.append(folder)
        options_seen: list[int] = []
        return inner(experiment, folder, _with(options, stop))

    monkeypatch.setattr(worker, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        search(sweep, tmp_path)
    monkeypatch.setattr(worker, "run", inner)
    study, said = search(sweep, tmp_path)
    assert "1 of them cut short and tried again" in said[0]
    found = [(dict(row.params), dict(row.values)) for row in study.rows()]
    assert found == [(dict(row.params), dict(row.values)) for row in whole]
    # The second trial was trained once: it has the evaluations of one training.
    lines = (folders[1] / "metrics.jsonl").read_text().splitlines()
    assert sum('"valid"' in line for line in lines) == 4


def _with(options: RunOptions, told) -> RunOptions:
    return RunOptions(options.cache_dir, options.resume, show="none", on_evaluation=told,
                      report=False)  # fmt: skip


def test_halving_stops_who_lags_behind(tmp_path):
    space = {"embedding.learning_rate": {"choice": [1e-6, 1e-5, 1e-4, 0.05]}}
    sweep = sweep_of(tmp_path, space=space, trials=4, sampler={"kind": "grid"},
                     set={"train.num_epochs": 8, "train.epochs_per_evaluation": 4},
                     pruner={"kind": "halving", "reduction": 2})  # fmt: skip
    study, _ = search(sweep, tmp_path)
    rows = {row.settings["embedding.learning_rate"]: row for row in study.rows()}
    assert study.front()[0].settings["embedding.learning_rate"] == 0.05
    assert any(row.state == "stopped" for row in rows.values())
    assert not list((tmp_path / "study").rglob("checkpoints"))


@pytest.mark.slow
def test_two_workers_share_a_study(tmp_path):
    space = {"model.num_layers": {"choice": [0, 1, 2]}}
    sweep = sweep_of(tmp_path, space=space, sampler={"kind": "grid"})
    two, _ = search(sweep, tmp_path, "two", workers=2)
    one, _ = search(sweep_of(tmp_path, space=space, sampler={"kind": "grid"},
                             set={"train.num_threads": 1}), tmp_path, "one")  # fmt: skip
    values = [{str(dict(r.settings)): r.values["ndcg@5"] for r in s.rows()} for s in (one, two)]
    assert values[0] == values[1] and len(values[0]) == 3


# --------------------------------------------------------------------------------- the workload


@pytest.mark.parametrize("path", sorted(GRAPHS.glob("*.yaml")), ids=lambda path: path.stem)
def test_planned_bytes_are_those_of_the_model(path, tmp_path):
    raw = {**read_mapping(path), "dataset": DATA}
    experiment = CFExperiment.parse(raw)
    if not issubclass(experiment.model.model_class, EmbeddingModel):
        pytest.skip("has no tables")
    workload = FilterWorkload(experiment, tmp_path)
    planned = workload.plan(experiment)
    built = experiment.model.build(workload._graph)
    assert planned.embeddings.store.device == torch.device("meta")
    for dtype in ("fp32", "int4"):
        assert served_bytes(planned, dtype) == served_bytes(built, dtype)


def test_users_and_items_have_one_width(tmp_path):
    tables = {"user": {"embedding_dim": 4}}
    wrong = CFExperiment.parse({**LIGHT_GCN, "model": {**LIGHT_GCN["model"], "tables": tables}})
    with pytest.raises(ConfigError, match="users and items are compared"):
        FilterWorkload(wrong, tmp_path).plan(wrong)


def test_a_scheme_of_several_trainings_is_refused_before_training(tmp_path):
    compression = {"scheme": {"kind": "pep"}, "ratio": 0.5}
    model = {**LIGHT_GCN["model"], "compression": compression}
    wrong = CFExperiment.parse({**LIGHT_GCN, "model": model})
    with pytest.raises(ConfigError, match=r"`pep` is trained in several phases"):
        FilterWorkload(wrong, tmp_path).plan(wrong)


def test_without_a_validation_split_there_is_nothing_to_choose_by(tmp_path):
    data = {**DATA, "split": {"kind": "by_user", "valid": 0}}
    experiment = CFExperiment.parse({**LIGHT_GCN, "dataset": data})
    with pytest.raises(DataError, match=r"PlantedCommunities: .* 0 to choose by"):
        FilterWorkload(experiment, tmp_path)


# --------------------------------------------------------------------------------- compression


@pytest.mark.slow
def test_a_comparison_says_what_its_saved_runs_give(tmp_path):
    said: list[str] = []
    experiment = CFExperiment.parse(LIGHT_GCN)
    options = CompareOptions((0.5,), ("fp32", "int8"), cache_dir=tmp_path / "c", say=said.append)
    schemes = {"hash": Hash(), "pep": PEP()}
    found = compare(experiment, schemes, tmp_path / "out", options)
    assert found.failed == {} and [cell.label for cell in found.cells] == ["full", "hash"]
    assert found.metric == "ndcg@5"
    assert said[0] == "left out: pep: it has several trainings, and collaborative filters have one"
    for cell, name in zip(found.cells, ("full", "hash-0.5"), strict=True):
        folder = tmp_path / "out/cells" / name
        for split in ("valid", "test"):
            alone = evaluate_ranking_run(folder, split, tmp_path / "c").metrics["ndcg@5"]
            assert cell.metrics["fp32"][split]["ndcg@5"] == [alone]
        frozen = freeze_model(load_recommender(folder).model, "int8")
        assert cell.metrics["int8"]["valid"]["ndcg@5"] == [valid(frozen, experiment)]
        assert cell.infer_bytes["int8"] == served_bytes(frozen)
    full, hashed = found.cells
    assert full.full_bytes == full.infer_bytes["fp32"] == 4 * 8 * ROWS
    assert 0.4 < hashed.ratio() <= 0.5
    files = {path.name: path for path in write_report(found, options.budgets)}
    text = files["report.md"].read_text()
    assert "AUC" not in text and "lookups" not in text and "Left out: pep" in text
    mean = hashed.metrics["fp32"]["valid"]["ndcg@5"][0]
    assert f"| {mean:.5f} | 0.00000 | {hashed.metrics['fp32']['test']['ndcg@5'][0]:.5f} |" in text
    assert "valid ndcg@5" in report_text(found, (0.5,)) and "compression.png" in files
    again = compare(experiment, schemes, tmp_path / "out", options)
    assert again.cells == found.cells and "2 cells are done already" in said


def test_a_comparison_needs_tables_and_one_training(tmp_path):
    options = CompareOptions((0.5,), cache_dir=tmp_path / "c")
    with pytest.raises(ConfigError, match="it has several trainings, and collaborative filters"):
        compare(CFExperiment.parse(LIGHT_GCN), {"pep": PEP()}, tmp_path / "out", options)
    with pytest.raises(ConfigError, match="EASE has no embedding tables, so there is nothing to"):
        compare(CFExperiment.parse(EASE), {"hash": Hash()}, tmp_path / "ease", options)
