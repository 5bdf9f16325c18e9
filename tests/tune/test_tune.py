"""Whole searches, small ones: limits, stopping, failing, dying and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.config import load
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.train.run import RunOptions, run
from recsys.tune import worker
from recsys.tune.study import Study
from recsys.tune.tune import TuneOptions, tune
from recsys.tune.twins import add_twin

ROOT = Path(__file__).parents[2]
TABLES = {**{f"C{number}": 9 for number in range(1, 27)}, "tags": 9}


def search(sweep, tmp_path, cache, **options) -> tuple[Study, list[str]]:
    """Runs it in ``tmp_path/study``; the study and what was said."""
    said: list[str] = []
    found = tune(
        sweep,
        sweep.experiment(tmp_path),
        tmp_path / "study",
        TuneOptions(cache_dir=cache, say=said.append, **options),
    )
    return found, said


def test_what_a_trial_says_is_what_its_experiment_gives(tmp_path, cache, sweep_of):
    study, said = search(sweep_of(trials=3), tmp_path, cache)
    rows = study.rows()
    assert [row.state for row in rows] == ["complete"] * 3
    assert rows[0].settings["model.tables.C1.embedding_dim"] == 8  # the experiment comes first
    widths = [row.settings["model.tables.C1.embedding_dim"] for row in rows]
    assert len({json.dumps(dict(row.settings)) for row in rows}) == 3 and set(widths) <= {
        1,
        2,
        4,
        8,
    }
    assert sum(line.startswith("[") for line in said) == 3 and "[3/3]" in said[-1]
    # Trained alone, the settings of the last trial give its metrics bit for bit.
    experiment = study.space.ask(_Told(rows[-1].params)).experiment(study.space.base)
    alone = run(experiment, tmp_path / "alone", RunOptions(cache, show="none"))
    assert alone.metrics("valid")["auc"] == rows[-1].values["auc"]
    held = sum(p.numel() for p in _model(tmp_path / "alone").embeddings.parameters())
    projections = sum(
        p.numel() for n, p in _model(tmp_path / "alone").named_parameters() if "projections" in n
    )
    assert rows[-1].values["bytes"] == 4 * (held + projections)


class _Told:
    """Answers from a trial."""

    def __init__(self, params):
        self.params = params

    def suggest_categorical(self, name, choices):
        return self.params[name]

    def suggest_int(self, name, low, high, **_):
        return self.params[name]

    suggest_float = suggest_int


def _model(folder):
    from recsys.serving.artefact import load_artefact

    return load_artefact(folder).model


def test_too_large_is_turned_down_before_training(tmp_path, cache, sweep_of):
    study, _ = search(sweep_of(limits={"ratio": 0.5}, trials=3), tmp_path, cache)
    rows = study.rows()
    rejected = [row for row in rows if row.state == "rejected"]
    assert rejected[0].number == 0 and "bytes, and at most" in rejected[0].facts["why"]
    assert not any(row.folder for row in rejected)
    trained = [row for row in rows if row.trained]
    assert len(trained) == 3 and all(row.facts["ratio"] <= 0.5 for row in trained)


def test_a_limit_that_nothing_keeps_says_the_smallest_size(tmp_path, cache, sweep_of):
    with pytest.raises(BudgetInfeasible, match=r"at most 1,000 bytes .* take ([\d,]+)") as caught:
        search(sweep_of(limits={"bytes": 1000}), tmp_path, cache)
    assert not (tmp_path / "study/trials").exists() or not any(
        (tmp_path / "study/trials").iterdir()
    )
    # What it names is reached, and is tried first after the experiment itself.
    least = caught.value.min_bytes
    study, _ = search(sweep_of(limits={"bytes": least}, trials=1), tmp_path, cache)
    assert [row.state for row in study.rows()] == ["rejected", "complete"]
    assert study.front()[0].values["bytes"] == least


def test_halving_stops_who_lags_behind(tmp_path, cache, sweep_of):
    pruner = {"kind": "halving", "first": 1, "reduction": 2}
    study, _ = search(sweep_of(pruner=pruner, trials=8), tmp_path, cache)
    rows = study.rows()
    stopped = [row for row in rows if row.state == "stopped"]
    assert stopped and all("at evaluation" in row.facts["why"] for row in stopped)
    whole = [row.facts["seconds"] for row in rows if row.state == "complete"]
    assert len(whole) + len(stopped) == 8
    assert not list((tmp_path / "study/trials").glob("*/seed-*/checkpoints"))


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_pruners_of_optuna(tmp_path, cache, sweep_of, kind):
    sweep = sweep_of(objectives=["auc"], trials=5, pruner={"kind": kind, "startup_trials": 1},
                     set={"train.evaluations_per_epoch": 4})  # fmt: skip
    study, _ = search(sweep, tmp_path, cache)
    trials = study.inner.get_trials()
    assert all(1 in trial.intermediate_values for trial in trials)
    assert {row.state for row in study.rows()} <= {"complete", "stopped"}


def test_cmaes_has_one_objective(tmp_path, cache, sweep_of):
    space = {
        "train.learning_rate": {"float": [0.001, 0.01]},
        "model.init_std": {"float": [0.01, 0.1]},
    }
    sampler = {"kind": "cmaes", "startup_trials": 2}
    sweep = sweep_of(sampler=sampler, space=space, trials=4, objectives=["auc"])
    assert [row.state for row in search(sweep, tmp_path, cache)[0].rows()] == ["complete"] * 4


def test_time_to_look_up_is_an_objective_and_a_limit(tmp_path, cache, sweep_of, monkeypatch):
    objectives = ["auc", "bytes", "lookup_us"]
    study, _ = search(
        sweep_of(trials=2, objectives=objectives, limits={"lookup_us": 1e6}), tmp_path, cache
    )
    assert all(row.values["lookup_us"] > 0 for row in study.rows())
    (tmp_path / "study").rename(tmp_path / "first")
    monkeypatch.setattr(worker, "_DRAWS", 3)
    with pytest.raises(BudgetInfeasible, match="3 candidates in a row were turned down"):
        search(sweep_of(objectives=objectives, limits={"lookup_us": 1e-9}), tmp_path, cache)


def test_no_new_trial_after_the_time(tmp_path, cache, sweep_of):
    search(sweep_of(trials=1), tmp_path, cache)
    study, _ = search(sweep_of(trials=50, hours=1e-9), tmp_path, cache)
    assert len(study.rows()) == 1


@pytest.mark.parametrize("kind", ["nsga2", "nsga3", "gp", "random"])
def test_samplers(tmp_path, cache, sweep_of, kind):
    space = {
        "model.embedding_dim": {"choice": [2, 4]},
        "train.learning_rate": {"float": [0.001, 0.01]},
    }
    sampler = {"kind": kind, "population": 2, "startup_trials": 2}
    study, _ = search(sweep_of(sampler=sampler, space=space, trials=4), tmp_path, cache)
    assert [row.state for row in study.rows()] == ["complete"] * 4


def test_a_grid_tries_everything_once(tmp_path, cache, sweep_of):
    space = {"model.embedding_dim": {"choice": [2, 4]}, "train.batch_size": {"choice": [128, 256]}}
    study, _ = search(sweep_of(sampler={"kind": "grid"}, space=space, trials=4), tmp_path, cache)
    tried = {tuple(row.settings.values()) for row in study.rows()}
    assert tried == {(2, 128), (2, 256), (4, 128), (4, 256)}


def test_several_seeds_say_their_noise(tmp_path, cache, sweep_of):
    study, _ = search(sweep_of(set={"seeds": [1, 2]}, trials=1), tmp_path, cache)
    (row,) = study.rows()
    found = [
        json.loads((tmp_path / "study" / row.folder / f"seed-{seed}/result.json").read_text())
        for seed in (1, 2)
    ]
    one, two = (each["metrics"]["valid"]["auc"] for each in found)
    assert row.values["auc"] == pytest.approx((one + two) / 2, abs=1e-12)
    assert row.facts["sd"]["valid"]["auc"] == pytest.approx(abs(one - two) / 2**0.5)


def test_a_trial_that_fails_is_written_down_and_the_others_go_on(
    tmp_path, cache, sweep_of, monkeypatch
):
    inner, calls = worker.run, []

    def sometimes(experiment, folder, options):
        calls.append(folder)
        if len(calls) == 2:
            raise ZeroDivisionError("by chance")
        return inner(experiment, folder, options)

    monkeypatch.setattr(worker, "run", sometimes)
    study, said = search(sweep_of(trials=3), tmp_path, cache)
    rows = study.rows()
    assert [row.state for row in rows] == ["complete", "failed", "complete"]
    assert rows[1].facts["why"] == "ZeroDivisionError: by chance"
    assert any("failed, ZeroDivisionError: by chance" in line for line in said)


def test_another_space_under_the_same_name_is_refused(tmp_path, cache, sweep_of):
    search(sweep_of(trials=1), tmp_path, cache)
    other = {"train.learning_rate": {"float": [1e-4, 1e-2]}}
    with pytest.raises(ConfigError, match=r"holds another search: space: `model.tables.C1"):
        search(sweep_of(space=other, trials=1), tmp_path, cache)
    study, said = search(sweep_of(trials=2), tmp_path, cache)  # more of the same goes on
    assert len(study.rows()) == 2 and "goes on after 1 trials" in said[0]


def test_a_study_of_a_version_with_fewer_settings_goes_on(tmp_path, cache, sweep_of):
    search(sweep_of(trials=1), tmp_path, cache)
    path = tmp_path / "study/sweep.json"
    content = json.loads(path.read_text())
    del content["experiment"]["train"]["epochs_per_evaluation"]
    path.write_text(json.dumps(content))
    sweep = sweep_of(trials=1)
    space = sweep.space_of(sweep.experiment(tmp_path), TABLES)
    assert len(Study(tmp_path / "study", sweep, space).rows()) == 1
    content["experiment"]["train"]["num_epochs"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="experiment: `train` changed"):
        Study(tmp_path / "study", sweep, space)


def test_what_an_earlier_study_found_is_known(tmp_path, cache, sweep_of):
    first, _ = search(sweep_of(trials=3), tmp_path, cache)
    (tmp_path / "study").rename(tmp_path / "before")
    prior = {"studies": [tmp_path / "before"]}
    study, said = search(sweep_of(trials=1, prior=prior), tmp_path, cache)
    assert any(line.startswith("3 trials of") for line in said)
    rows = study.rows()
    assert [dict(r.values) for r in rows[:3]] == [dict(r.values) for r in first.rows()]
    assert [row.trained for row in rows] == [False] * 3 + [True]


def test_one_width_for_all_tables_comes_first(tmp_path, cache, sweep_of):
    space = {"model.tables.C1.embedding_dim": {"power_of_two": [2, 4]},
             "model.tables.[C2, C3].embedding_dim": {"power_of_two": [1, 8]}}  # fmt: skip
    study, _ = search(sweep_of(trials=4, space=space, prior={"uniform": 3}), tmp_path, cache)
    widths = [list(row.settings.values()) for row in study.rows()]
    # The experiment's 8 is beyond what C1 may have, so that is drawn; then 1 to 8, C1 as near.
    assert widths[1:] == [[2, 1, 1], [4, 4, 4], [4, 8, 8]]


def test_a_training_is_a_trial_in_every_dtype(tmp_path, cache, sweep_of):
    space = {"train.learning_rate": {"float": [1e-3, 1e-2]},
             "serve.dtype": {"choice": ["fp32", "int8", "int4"]}}  # fmt: skip
    study, said = search(sweep_of(trials=2, space=space), tmp_path, cache)
    rows = study.rows()
    assert sum(row.trained for row in rows) == 2 and len(rows) == 6
    assert sum(line.startswith("[") for line in said) == 2
    for parent in (row for row in rows if row.trained):
        family = [row for row in rows if parent.number in (row.number, row.twin_of)]
        size = {row.dtype: row.values["bytes"] for row in family}
        assert size["int4"] < size["int8"] < size["fp32"]
        assert len({row.params["train.learning_rate"] for row in family}) == 1
        assert {row.params["serve.dtype"] for row in family} == set(size)
    # A twin is worth what a trial of its dtype would have been.
    twin = next(row for row in rows if row.twin_of is not None)
    parent = next(row for row in rows if row.number == twin.twin_of)
    (tmp_path / "study").rename(tmp_path / "first")
    space = {"serve.dtype": {"choice": [twin.dtype]}}
    alone, _ = search(sweep_of(trials=1, space=space, set=dict(parent.settings)), tmp_path, cache)
    assert alone.rows()[0].values == twin.values


def test_twins_keep_the_limits_and_are_told_once(tmp_path, cache, sweep_of):
    space = {"serve.dtype": {"choice": ["int8", "fp32", "int4"]}}
    study, _ = search(sweep_of(trials=1, space=space, limits={"ratio": 0.5}), tmp_path, cache)
    rows = [row for row in study.rows() if row.state == "complete"]
    assert sorted(row.dtype for row in rows) == ["int4", "int8"]
    trial = next(t for t in study.inner.get_trials() if "twin_of" not in t.user_attrs and t.values)
    add_twin(study, trial, next(r.dtype for r in rows if r.twin_of is not None), (0, 0), {})
    assert len([row for row in study.rows() if row.state == "complete"]) == 2


def test_important_fields_are_tried_wide_first(tmp_path, cache, sweep_of):
    study, _ = search(sweep_of(trials=4, prior={"uniform": 0, "importance": 3}), tmp_path, cache)
    scores = json.loads((tmp_path / "study/prior/importance.json").read_text())
    assert sum(scores.values()) == pytest.approx(1)
    rows = study.rows()
    tables = [n for n in rows[1].settings if "tables" in n]
    assert {rows[1].settings[n] for n in tables} == {1}  # the narrowest
    assert {rows[0].settings[n] for n in tables} == {8}  # the widest, which is the experiment
    middle = [rows[2].settings[n] for n in tables]
    assert rows[1].values["bytes"] < rows[2].values["bytes"] < rows[0].values["bytes"]
    assert len(set(middle)) > 1


SCRIPT = """
import sys
from pathlib import Path
from recsys.tune.sweep import Sweep
from recsys.tune.tune import TuneOptions, tune
sweep = Sweep.model_validate_json(Path(sys.argv[1]).read_text())
tune(sweep, sweep.experiment(Path()), sys.argv[2],
     TuneOptions(cache_dir=Path(sys.argv[3]), workers=int(sys.argv[4])))
"""


def in_a_process(sweep, folder: Path, cache: Path, workers: int = 1) -> subprocess.Popen:
    """The search as a program of its own."""
    path = folder.with_suffix(".json")
    path.write_text(sweep.model_dump_json(by_alias=True))
    command = [sys.executable, "-c", SCRIPT, str(path), str(folder), str(cache), str(workers)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def outcome(study: Study) -> list[tuple]:
    """What must not depend on how often a search was killed."""
    return [(row.state, dict(row.params), dict(row.values)) for row in study.rows()]


@pytest.mark.slow
def test_killed_and_gone_on_with_is_the_same_study(tmp_path, cache, sweep_of):
    sweep = sweep_of(trials=6, sampler={"startup_trials": 2})
    whole, _ = search(sweep, tmp_path, cache)
    for trials in (1, 3):
        job = in_a_process(sweep, tmp_path / "killed", cache)
        folders = tmp_path / "killed/trials"
        while len(list(folders.glob("*"))) <= trials and job.poll() is None:
            time.sleep(0.02)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    assert in_a_process(sweep, tmp_path / "killed", cache).wait() == 0
    space = whole.space
    assert outcome(Study(tmp_path / "killed", sweep, space)) == outcome(whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_trial(tmp_path, cache, sweep_of):
    """The first trial's worker is killed, as the kernel does when memory runs out."""
    sweep = sweep_of(trials=3, set={"train.num_epochs": 4})
    job = in_a_process(sweep, tmp_path / "two", cache, workers=2)
    victim = None
    while victim is None and job.poll() is None:
        time.sleep(0.02)
        for file in (tmp_path / "two/trials").glob("00000/seed-1/.lock"):
            text = file.read_text()
            victim = int(text.split()[1]) if text else None
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert job.wait() == 0
    space = sweep.space_of(sweep.experiment(tmp_path), TABLES)
    rows = Study(tmp_path / "two", sweep, space).rows()
    assert [row.state for row in rows] == ["failed", "complete", "complete"]
    assert "killed by SIGKILL. Most likely memory ran out" in rows[0].facts["why"]


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path, cache, sweep_of):
    sweep = sweep_of(trials=6)
    assert in_a_process(sweep, tmp_path / "two", cache, workers=2).wait() == 0
    done = sorted((tmp_path / "two/trials").iterdir())
    assert len(done) == 6
    best = load(done[0] / "seed-1/config.yaml")
    assert best.train.num_threads == 1
