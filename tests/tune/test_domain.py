"""Every kind of domain: what it asks, what it knows, what it refuses."""

import optuna
import pytest

from recsys.errors import ConfigError
from recsys.tune.domain import read_domain

SCHEME = {
    "one_of": {
        "full": {"kind": "full"},
        "hash": {"kind": "hash", "multiplex": {"choice": [False, True]}, "salt": {"int": [1, 3]}},
    }
}
ASKED = [
    ({"choice": ["a", [8, 4]]}, {"x": "[8, 4]"}, [8, 4]),
    ({"int": [1, 9], "step": 2}, {"x": 5}, 5),
    ({"float": [1e-4, 1e-2], "log": True}, {"x": 1e-3}, 1e-3),
    ({"power_of_two": [2, 64]}, {"x (log2)": 4}, 16),
    (SCHEME, {"x": "full"}, {"kind": "full"}),
    (
        SCHEME,
        {"x": "hash", "x.hash.multiplex": True, "x.hash.salt": 2},
        {"kind": "hash", "multiplex": True, "salt": 2},
    ),
]


@pytest.mark.parametrize(("raw", "answers", "value"), ASKED)
def test_an_answer_gives_a_value_and_the_value_its_answer(raw, answers, value):
    domain = read_domain(raw, "place")
    assert domain.ask(optuna.trial.FixedTrial(answers), "x") == value
    assert domain.known("x", value) == answers


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ({"choice": [1, 2]}, 3),
        ({"int": [1, 9], "step": 2}, 4),
        ({"int": [0, 1]}, True),
        ({"float": [0.1, 0.2]}, 0.3),
        ({"power_of_two": [2, 64]}, 12),
        ({"power_of_two": [2, 64]}, 128),
        (SCHEME, {"kind": "unified"}),
        (SCHEME, {"kind": "hash", "multiplex": True, "salt": 9}),
    ],
)
def test_values_outside_are_not_known(raw, value):
    assert read_domain(raw, "place").known("x", value) is None


def test_settings_of_a_block_are_asked_for_only_where_it_is_chosen():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(12):
        trial = study.ask()
        kind = read_domain(SCHEME, "place").ask(trial, "x")["kind"]
        seen.add(kind)
        assert set(trial.params) == {"x"} | (
            {"x.hash.multiplex", "x.hash.salt"} if kind == "hash" else set()
        )
    assert seen == {"full", "hash"}


def test_ends_are_what_must_be_allowed():
    assert read_domain({"int": [1, 9]}, "p").ends() == [1, 9]
    assert read_domain({"power_of_two": [4, 4]}, "p").ends() == [4]
    assert read_domain(SCHEME, "p").ends() == [
        {"kind": "full"},
        {"kind": "hash", "multiplex": False, "salt": 1},
        {"kind": "hash", "multiplex": True, "salt": 3},
    ]


def test_a_grid_has_every_answer():
    assert read_domain({"power_of_two": [2, 16]}, "p").grid("x") == {"x (log2)": [1, 2, 3, 4]}
    assert read_domain({"float": [0.1, 0.3], "step": 0.1}, "p").grid("x")["x"] == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    with pytest.raises(ConfigError, match="a grid needs a `step`"):
        read_domain({"float": [0.1, 0.3]}, "p").grid("x")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (3, "What is fixed belongs into `set`"),
        ({"chioce": [1]}, "Did you mean `choice`"),
        ({"choice": [1], "int": [1, 2]}, "Keep one"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": [1, 1]}, "different values"),
        ({"int": [5, 1]}, "the lower end first"),
        ({"int": [1, 5], "lgo": True}, "lgo"),
        ({"float": [0, 1], "log": True}, "ends above 0"),
        ({"float": [0.1, 1], "log": True, "step": 0.1}, "not both"),
        ({"float": [0.1, ".inf"]}, "a number|finite"),
        ({"power_of_two": [3, 8]}, "powers of two"),
        ({"one_of": {"a": {"x": {"int": [2, 1]}}}}, "the lower end first"),
    ],
)
def test_what_is_no_domain(raw, text):
    with pytest.raises(ConfigError, match=f"^space.lr: .*({text})"):
        read_domain(raw, "space.lr")
