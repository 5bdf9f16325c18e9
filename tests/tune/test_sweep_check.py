"""What a sweep must not ask of models that cannot give it."""

from __future__ import annotations

import json

import pytest

from recsys.config import Experiment
from recsys.errors import ConfigError
from recsys.tune.objectives import direction_of
from recsys.tune.sweep import Sweep
from recsys.tune.sweep_check import check_sweep
from recsys.tune.tune import TuneOptions, tune
from tests.tune.conftest import CONFIG
from tests.tune.test_filter_workload import EASE, LIGHT_GCN

LAYERS = {"model.num_layers": {"int": [0, 2]}}
PENALTY = {"model.l2": {"float": [1, 1000], "log": True}}


def refused(tmp_path, base, space, **fields) -> str:
    """Why a search does not start; nothing is written for it."""
    (tmp_path / "config.json").write_text(json.dumps(base))
    fields = {"objectives": ["ndcg@5"], **fields}
    sweep = Sweep.model_validate({"config": tmp_path / "config.json", "space": space, **fields})
    with pytest.raises(ConfigError) as caught:
        tune(sweep, sweep.experiment(tmp_path), tmp_path / "study", TuneOptions(cache_dir=tmp_path))
    assert not (tmp_path / "study").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("space", "fields", "text"),
    [
        (LAYERS, {"objectives": ["auc"]}, "`auc` judges predicted clicks, and recsys.models.graph"),
        (LAYERS, {"objectives": ["recall@9"]}, "`recall@9`: expected one of evaluation.ks=[5]"),
        (LAYERS, {"objectives": ["ndcg@5", "lookup_us"]}, "`lookup_us` is the time to look"),
        (LAYERS, {"limits": {"lookup_us": 3}}, "`lookup_us` is the time to look"),
        (LAYERS, {"prior": {"importance": 3}}, "prior.importance: it finds widths of the fields"),
        (LAYERS, {"prior": {"supernet": 3}}, "prior.supernet: it finds widths of the fields"),
        ({"dataset.seed": {"int": [1, 3]}}, {}, "space.dataset.seed: trials with other values"),
        ({"evaluation.cold_below": {"int": [1, 3]}}, {}, "space.evaluation.cold_below: trials"),
        (
            {"model.tables.@all.embedding_dim": {"power_of_two": [2, 8]}},
            {"groups": {"all": {}}},
            "Search `model.embedding_dim`",
        ),
        ({"model.num_layer": {"int": [0, 2]}}, {}, "Did you mean"),
        (LAYERS | {"train.batch_size": {"int": [0, 9]}}, {}, "train.batch_size = 0"),
    ],
)
def test_of_a_filter(tmp_path, space, fields, text):
    assert text in refused(tmp_path, LIGHT_GCN, space, **fields)


@pytest.mark.parametrize(
    ("space", "fields", "text"),
    [
        (PENALTY, {"objectives": ["ndcg@5", "bytes"]}, "EASE has none"),
        (PENALTY, {"limits": {"ratio": 0.5}}, "EASE has none"),
        (PENALTY, {"pruner": {"kind": "median"}}, "EASE is computed and not trained, so there is"),
        ({"serve.dtype": {"choice": ["int8"]}}, {}, "EASE has no embedding tables. Leave it out"),
        ({"model.compression.ratio": {"choice": [0.5]}}, {}, "EASE has no embedding tables"),
        ({"embedding.learning_rate": {"float": [1, 2]}}, {}, "so it has no effect. Leave it out"),
    ],
)
def test_of_a_fitted_model(tmp_path, space, fields, text):
    assert text in refused(tmp_path, EASE, space, **fields)


def test_all_problems_are_named(tmp_path):
    fields = {"objectives": ["auc"], "pruner": {"kind": "median"}}
    found = refused(tmp_path, EASE, {"serve.dtype": {"choice": ["int8"]}}, **fields)
    assert found.startswith("3 problems.\n  objectives: `auc`") and "pruner.kind" in found


def test_of_a_model_that_predicts_clicks(tmp_path):
    sweep = Sweep.model_validate(
        {"config": "x", "space": {"train.num_epochs": {"int": [1, 2]}}, "objectives": ["ndcg@20"]}
    )
    with pytest.raises(ConfigError, match=r"`ndcg@20` judges lists, and .*FM predicts clicks"):
        check_sweep(sweep, Experiment.parse(CONFIG))


def test_a_model_of_another_kind(tmp_path):
    node = {"model": {"class": "recsys.models.node.gcn.GCN"}}
    (tmp_path / "config.json").write_text(json.dumps(node))
    sweep = Sweep(config=tmp_path / "config.json", space=LAYERS)
    with pytest.raises(
        ConfigError, match=r"node.gcn.GCN is neither searched around nor compressed"
    ):
        sweep.experiment(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ndcg", "say `ndcg@20`"),
        ("ndgc@10", "Did you mean `ndcg@10`"),
        ("recall@0", "say `recall@"),
    ],
)
def test_objectives_that_do_not_exist(name, text):
    with pytest.raises(ConfigError, match=text):
        direction_of(name)


def test_directions():
    assert [direction_of(name) for name in ("auc", "logloss", "map@7", "bytes")] == [
        "maximize", "minimize", "maximize", "minimize"
    ]  # fmt: skip
