"""Searches on a Ray cluster of this machine."""

from __future__ import annotations

import pytest

from tests.tune.test_filter_workload import search as filter_search
from tests.tune.test_filter_workload import sweep_of as filter_sweep
from tests.tune.test_tune import search

ray_tune = pytest.importorskip("recsys.tune.ray_tune", reason="needs ray")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    """One for all tests."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_tasks_share_a_study(tmp_path, cache, sweep_of, cluster):
    sweep = sweep_of(trials=4, limits={"ratio": 0.9})
    study, said = search(sweep, tmp_path, cache, workers=2, start=ray_tune.on_cluster())
    rows = study.rows()
    assert sum(row.state == "complete" for row in rows) == 4 and "[4/4]" in said[-1]
    assert all(row.facts["ratio"] <= 0.9 for row in rows if row.trained)
    # What it found is what one process finds for the same settings.
    (tmp_path / "study").rename(tmp_path / "ray")
    alone, _ = search(sweep, tmp_path, cache)
    by_settings = {str(dict(row.params)): row.values for row in alone.rows()}
    same = [row for row in rows if str(dict(row.params)) in by_settings and row.trained]
    assert same and all(row.values == by_settings[str(dict(row.params))] for row in same)


def test_trials_of_ray_tune_are_those_of_the_study(tmp_path, cache, sweep_of, cluster):
    study, _ = search(
        sweep_of(trials=3), tmp_path, cache, workers=2, start=ray_tune.with_ray_tune()
    )
    rows = study.rows()
    assert [row.state for row in rows] == ["complete"] * 3
    assert all(row.facts["valid"]["auc"] == row.values["auc"] for row in rows)


def test_tasks_search_around_a_filter(tmp_path, cluster):
    space = {"model.num_layers": {"choice": [0, 1, 2]}}
    sweep = filter_sweep(tmp_path, space=space, sampler={"kind": "grid"})
    study, _ = filter_search(sweep, tmp_path, workers=2, start=ray_tune.on_cluster())
    rows = study.rows()
    assert [row.state for row in rows] == ["complete"] * 3
    assert {row.settings["model.num_layers"] for row in rows} == {0, 1, 2}
