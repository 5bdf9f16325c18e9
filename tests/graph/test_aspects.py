import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.graph.aspects import AspectRule, AspectTable, aspect_table
from recsys.graph.interactions import Names

WHOLE = AspectRule(valid=0, test=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from("ab"), st.sampled_from("xyz")),
                min_size=1, max_size=40))  # fmt: skip
def test_pairs_are_those_of_brute_force(rows):
    table = aspect_table({n: str(n) for n in range(8)}, *zip(*rows), AspectRule(valid=0, test=0.4))
    for aspect, split in itertools.product(table.aspects, ("train", "test")):
        inside = set(table.members(split).tolist())
        expected = sorted(
            (i, j) for i, j in itertools.combinations(sorted(inside), 2)
            if {x for n, a, x in rows if (n, a) == (i, aspect)}
            & {x for n, a, x in rows if (n, a) == (j, aspect)}
        )  # fmt: skip
        assert list(zip(*(ends.tolist() for ends in table.pairs(aspect, split)))) == expected


def test_report_by_hand():
    texts = {"a": "x", "b": " ", "c": "z", "d": "w"}
    rule = WHOLE.model_copy(update={"unknown": "drop", "max_items": 2})
    table = aspect_table(
        texts, list("aabbcabcq"), ["k", "k", "k", "k", "k", "m", "m", "m", "k"],
        ["1", "1", "1", "", "2", "9", "9", "9", "1"], rule,
    )  # fmt: skip
    assert table.report == {
        "unknown_rows": 1, "empty_rows": 1, "duplicate_rows": 1, "frequent_labels": 1,
        "items_without_label": 1, "items_without_text": 1,
        "items:k": 3, "labels:k": 2, "pairs:k": 1,
    }  # fmt: skip
    assert table.aspects == ("k",)


def test_a_label_of_two_aspects_is_two():
    table = aspect_table({1: "", 2: ""}, [1, 2], ["k", "m"], ["x", "x"], WHOLE, aspects=("m", "k"))
    assert table.labels == ("x", "x") and table.aspects == ("m", "k")
    assert table.report["pairs:k"] == 0
    assert table.labels_of(0) == {"k": ["x"]}


def test_splits_are_by_item_and_seed():
    texts = dict.fromkeys(range(50), "")
    columns = (range(50), ["k"] * 50, ["x"] * 50)
    table = aspect_table(texts, *columns)
    assert [len(table.members(split)) for split in ("train", "valid", "test")] == [35, 5, 10]
    other = aspect_table(texts, *columns, AspectRule(seed=1))
    assert (table.split != other.split).any()
    assert len(table.pairs("k", "test")[0]) == 45


@pytest.mark.parametrize(
    ("columns", "rule", "text"),
    [
        (([1, 9], ["k", "k"], ["x", "x"]), WHOLE, r"item `9` has a label and no text.*\n.*row 2"),
        (([1], ["k", "k"], ["x", "x"]), WHOLE, "got 1 items, 2 aspects and 2 labels"),
        (([1], ["k"], [""]), WHOLE, "no label is left of 1 rows"),
        (([], [], []), WHOLE, "no label is left of 0 rows"),
    ],
)
def test_what_is_refused(columns, rule, text):
    with pytest.raises(DataError, match=text):
        aspect_table({1: "one", 2: "two"}, *columns, rule)


def test_names_and_shares_that_are_refused():
    with pytest.raises(ConfigError, match="nothing is left"):
        aspect_table({1: ""}, [1], ["k"], ["x"], AspectRule(valid=0.5, test=0.5))
    with pytest.raises(DataError, match=r"expected one of the aspects \['m'\], got 'k'"):
        aspect_table({1: ""}, [1], ["k"], ["x"], WHOLE, aspects=["m"])
    table = aspect_table({1: "", 2: ""}, [1, 2], ["k", "k"], ["x", "x"], WHOLE)
    with pytest.raises(DataError, match=r"expected one of the aspects \['k'\], got 'm'"):
        table.pairs("m", "train")
    with pytest.raises(DataError, match="expected one of the splits"):
        table.pairs("k", "tune")
    parts = (Names([1, 2]), ("", ""), ("k",), ("x",), np.array([0]))
    with pytest.raises(DataError, match="every item and label once"):
        AspectTable(*parts, np.array([1, 0]), np.array([0, 0]), np.zeros(2, int))
    with pytest.raises(DataError, match="expected `label` from 0 to 0, got 1 to 1"):
        AspectTable(*parts, np.array([0]), np.array([1]), np.zeros(2, int))
    with pytest.raises(DataError, match="no item to learn from"):
        AspectTable(*parts, np.array([0]), np.array([0]), np.ones(2, int))
    with pytest.raises(DataError, match="expected 2 values of `split`, got 1"):
        AspectTable(*parts, np.array([0]), np.array([0]), np.zeros(1, int))
