"""Paths of a sweep: expanded, checked, asked."""

import optuna
import pytest

from recsys.config import Experiment
from recsys.errors import ConfigError
from recsys.tune.space import Space

BASE = Experiment.parse(
    {
        "dataset": {"class": "recsys.datasets.synthetic.Synthetic", "num_rows": 500},
        "model": {"class": "recsys.models.ctr.fm.FM", "embedding_dim": 8},
    }
)
TABLES = {"C1": 5, "C2": 3000, "C3": 70}
WIDTH = {"power_of_two": [2, 8]}


def space(raw, groups=None) -> Space:
    return Space(BASE, raw, TABLES, groups)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("*", [["C1"], ["C2"], ["C3"]]),
        ("C2", [["C2"]]),
        ("[C1, C3]", [["C1", "C3"]]),
        ("@small", [["C1", "C3"]]),
        ("*@small", [["C1"], ["C3"]]),
    ],
)
def test_tables_free_and_tied(path, expected):
    found = space({f"model.tables.{path}.embedding_dim": WIDTH}, {"small": ["C1", "C3"]})
    places = [[place.split(".")[2] for place in p.places] for p in found.parameters]
    assert places == expected


def test_a_candidate_is_an_experiment():
    found = space(
        {
            "model.tables.[C1, C3].embedding_dim": WIDTH,
            "model.compression": {
                "one_of": {
                    "full": None,
                    "hash": {"scheme": {"kind": "hash"}, "ratio": {"float": [0.1, 0.5]}},
                }
            },
            "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
            "serve.dtype": {"choice": ["fp32", "int8"]},
        }
    )
    answers = {
        "model.tables.[C1,C3].embedding_dim (log2)": 2,
        "model.compression": "hash",
        "model.compression.hash.ratio": 0.25,
        "train.learning_rate": 0.005,
        "serve.dtype": "int8",
    }
    candidate = found.ask(optuna.trial.FixedTrial(answers))
    made = candidate.experiment(found.base)
    assert candidate.dtype == "int8"
    assert {n: o.embedding_dim for n, o in made.model.config.tables.items()} == {"C1": 4, "C3": 4}
    assert made.model.config.compression.ratio == 0.25 and made.train.learning_rate == 0.005
    assert made.dataset == BASE.dataset
    assert found.answers(candidate.settings, "int8") == answers


def test_defaults_are_the_experiment():
    found = space(
        {
            "model.tables.*.embedding_dim": {"power_of_two": [1, 16]},
            "train.learning_rate": {"float": [1e-4, 1e-2]},
            "train.batch_size": {"int": [8, 64]},  # the default is not in it
            "model.compression": {"one_of": {"full": None}},
            "serve.dtype": {"choice": ["int8", "fp32"]},
        }
    )
    assert found.defaults() == {
        "model.tables.C1.embedding_dim (log2)": 3,
        "model.tables.C2.embedding_dim (log2)": 3,
        "model.tables.C3.embedding_dim (log2)": 3,
        "train.learning_rate": BASE.train.learning_rate,
        "model.compression": "full",
        "serve.dtype": "fp32",
    }


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, "`space` is empty: name at least one setting"),
        ({"train.learning_rat": {"int": [1, 2]}}, "Did you mean `(train.)?learning_rate`"),
        ({"model.embeding_dim": WIDTH}, "Did you mean `(model.)?embedding_dim`"),
        ({"train.batch_size": {"int": [0, 64]}}, "train.batch_size = 0: .*at least 1"),
        ({"train.optimizer": {"choice": ["adam", "adma"]}}, "adma"),
        ({"model.tables.C9.embedding_dim": WIDTH}, "the data has no table `C9`"),
        ({"model.tables.[C1, X].embedding_dim": WIDTH}, "no table `X`"),
        ({"model.tables.@big.embedding_dim": WIDTH}, "names no `groups`"),
        ({"serve.dtype": {"choice": ["fp32", "int9"]}}, "there is no dtype 'int9'. Did you mean"),
        (
            {"model.compression.scheme": {"one_of": {"a": {"kind": "hahs"}}}},
            "hahs",
        ),
        (
            {"model.tables.*.embedding_dim": WIDTH, "model.tables.C1.embedding_dim": WIDTH},
            "searched twice",
        ),
        (
            {"train.batch_size": {"int": [0, 4]}, "train.num_epochs": {"int": [-1, 2]}},
            "(?s)2 problems.*batch_size.*num_epochs",
        ),
    ],
)
def test_what_is_wrong_is_said_before_any_trial(raw, text):
    with pytest.raises(ConfigError, match=text):
        space(raw)


def test_unknown_and_empty_groups():
    with pytest.raises(ConfigError, match=r"no group `smalk`. Did you mean `small`"):
        space({"model.tables.@smalk.embedding_dim": WIDTH}, {"small": ["C1"]})
    with pytest.raises(ConfigError, match="no table is in the group `huge`"):
        space({"model.tables.@huge.embedding_dim": WIDTH}, {"huge": []})
