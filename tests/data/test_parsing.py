import numpy as np
import pyarrow as pa
import pytest

from recsys.data.casting import iso_microseconds, to_floats, to_ints, to_strings, to_times
from recsys.data.parsing import GROUP, TIMESTAMP, WEIGHT, Parser
from recsys.errors import DataError
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema, Sequence, Vector

NAN = float("nan")


def parse(features: tuple, raw: dict, **options):
    schema = Schema(features=features, labels=(Label(name="y"),), **options)
    rows = len(next(iter(raw.values())))
    table = pa.table({"y": [0] * rows, **raw})
    return Parser(schema, ("",)).parse(table, "log.parquet")


# ------------------------------------------------------------------------------ single columns


@pytest.mark.parametrize(
    "array",
    [
        pa.array([b"7", None, b"\xc3\xa9"]),
        pa.array(["7", None, "\u00e9"], pa.large_string()),
        pa.array(["7", "", "\u00e9"], pa.string_view()),
        pa.array(["7", None, "\u00e9"]).dictionary_encode(),
    ],
)
def test_strings_of_every_arrow_type(array):
    strings, bad = to_strings(array, "c", pa.array([""]))
    assert strings.type == pa.string()
    assert strings.to_pylist() == ["7", None, "\u00e9"]
    assert bad == {}


def test_integers_are_their_text():
    assert to_strings(pa.array([-1, None]), "c", None)[0].to_pylist() == ["-1", None]
    assert to_strings(pa.nulls(2), "c", None)[0].to_pylist() == [None, None]
    strings, bad = to_strings(pa.array([7.0, NAN, 1.5]), "c", None)
    assert (strings.to_pylist(), bad) == (["7", None, None], {2: "is not an integer"})


def test_invalid_utf8_is_found_also_in_parquet_strings():
    raw = pa.array([b"ok", b"\xff\xfe", b"x"])
    unchecked = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    strings, bad = to_strings(unchecked, "c", None)
    assert (strings.to_pylist(), bad) == (["ok", None, "x"], {1: "is not valid UTF-8"})


@pytest.mark.parametrize(
    ("array", "expected", "bad"),
    [
        (pa.array([b"5", b" -7 ", None]), [5, -7, None], {}),
        (pa.array(["1.5", "2", "x"]), [None, 2, None], {0: "integer", 2: "integer"}),
        (pa.array(["9223372036854775808", "-9223372036854775808"]), [None, -(2**63)], {0: "int64"}),
        (pa.array([2**63, 1], pa.uint64()), [None, 1], {0: "outside int64"}),
        (pa.array([1.0, NAN, 2.5]), [1, None, None], {2: "not an integer"}),
        (pa.array([3, None], pa.int8()), [3, None], {}),
    ],
)
def test_ints(array, expected, bad):
    ints, found = to_ints(array, "c", None)
    assert ints.to_pylist() == expected
    assert set(found) == set(bad)
    assert all(text in found[row] for row, text in bad.items())


@pytest.mark.parametrize(
    ("array", "expected", "bad"),
    [
        (pa.array([b"1e3", b" 2 ", None]), [1000, 2, NAN], {}),
        (pa.array(["x", "1,5", "0.5"]), [NAN, NAN, 0.5], {0: "number", 1: "number"}),
        (pa.array(["inf", "-Infinity", "1e39"]), [NAN] * 3, dict.fromkeys(range(3), "infinite")),
        (pa.array([NAN, 1.0, None]), [NAN, 1, NAN], {0: "is NaN"}),
        (pa.array([True, False]), [1, 0], {}),
        (pa.array([1, None], pa.int16()), [1, NAN], {}),
    ],
)
def test_floats(array, expected, bad):
    values, found = to_floats(array, "c", None)
    np.testing.assert_array_equal(values, expected)
    assert set(found) == set(bad)
    assert all(text in found[row] for row, text in bad.items())


def test_nan_may_mean_missing():
    values, bad = to_floats(pa.array(["NaN", "1", "inf"]), "c", None, nan="missing")
    np.testing.assert_array_equal(values, [NAN, 1, NAN])
    assert list(bad) == [2]


@pytest.mark.parametrize(
    ("array", "expected", "clock"),
    [
        (pa.array([7, 9]), [7, 9], "number"),
        (pa.array([7.9, 9.0]), [7, 9], "number"),
        (pa.array(["7", "9.5"]), [7, 9], "number"),
        (pa.array([" 7", "1e1"]), [7, 10], "number"),
        (pa.array(["1970-01-01", "1970-01-01 00:00:01"]), [0, 1_000_000], "iso"),
        (pa.array(["1970-01-01T00:00:00Z", "1970-01-01T01:00:00+01:00"]), [0, 0], "iso"),
        (pa.array([0, 1], pa.timestamp("s")), [0, 1_000_000], "iso"),
        (pa.array([0, 1], pa.date32()), [0, 86_400_000_000], "iso"),
    ],
)
def test_times(array, expected, clock):
    times, bad, found = to_times(array, "t", None, None)
    assert (times.to_pylist(), bad, found) == (expected, {}, clock)


def test_times_of_another_kind_than_before_are_bad():
    _, bad, _ = to_times(pa.array(["2024-01-01", "5"]), "t", None, "number")
    assert list(bad) == [0]
    assert "not a time like the others" in bad[0]
    _, bad, clock = to_times(pa.array(["2024-01-01T00:00:00Z", "soon", None]), "t", None, None)
    assert (list(bad), clock) == ([1], "iso")
    assert iso_microseconds("1970-01-02") == 86_400_000_000


@pytest.mark.parametrize(
    ("cast", "array", "expected"),
    [
        (to_strings, pa.array([[1]]), "text or integers, got Arrow type list"),
        (to_ints, pa.array([[1]]), "integers, got Arrow type list"),
        (to_floats, pa.array([0], pa.timestamp("s")), "numbers, got Arrow type timestamp"),
    ],
)
def test_columns_of_a_wrong_type(cast, array, expected):
    with pytest.raises(DataError, match=rf"{expected}.*\n.*column `c`"):
        cast(array, "c", None)


# ------------------------------------------------------------------------------------- features


def test_bags_from_text_and_from_lists_are_equal():
    bag = MultiValued(name="tags", separator="|", pooling="sum", max_length=2, weights="w")
    text = {"tags": ["a|b|c", "", None, "|d"], "w": ["1|2|3", "", None, "|4"]}
    lists = {"tags": [["a", "b", "c"], [], None, [None, "d"]], "w": [[1, 2, 3], [], None, [9, 4]]}
    text["w"][3] = "9|4"
    for raw in (text, lists):
        parsed = parse((bag,), raw)
        assert parsed.bad == {}
        assert parsed.table["tags"].to_pylist() == [["a", "b"], [], [], ["d"]]
        assert parsed.table["tags@weights"].to_pylist() == [[1, 2], [], [], [4]]


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(2),
        pa.array([None, None], pa.string()),
        pa.array([[], [None]], pa.list_(pa.null())),
        pa.array(["", None]).dictionary_encode(),
    ],
)
def test_columns_of_empty_bags(column):
    bag = MultiValued(name="tags", separator="|", pooling="sum")
    parsed = parse((bag,), {"tags": column})
    assert parsed.bad == {}
    assert parsed.table["tags"].to_pylist() == [[], []]


def test_a_sequence_keeps_its_latest_items():
    sequence = Sequence(name="s", dtype="int", separator=" ", max_length=2, pooling="mean")
    parsed = parse((sequence,), {"s": ["1 2 3", "4", None, "5  6 7"]})
    assert parsed.table["s"].to_pylist() == [[2, 3], [4], [], [6, 7]]


def test_bad_items_name_their_row():
    bag = MultiValued(name="s", dtype="int", separator="|", pooling="sum")
    parsed = parse((bag,), {"s": ["1", "2|x|y", None, "3|4|z"]})
    assert {row: cell.text for row, cell in parsed.bad.items()} == {
        1: "`s` has an item that is not an integer: '2|x|y'.",
        3: "`s` has an item that is not an integer: '3|4|z'.",
    }


def test_uneven_weights_are_bad():
    bag = MultiValued(name="s", separator="|", pooling="sum", weights="w")
    raw = {"s": ["a|b", "a", "c"], "w": ["1|2", "1|2", "5"]}
    parsed = parse((bag,), raw)
    assert parsed.bad[1].text == "`w` has 2 weights for 1 ids: '1|2'."
    assert parsed.table["s"].to_pylist() == [["a", "b"], [], ["c"]]
    assert parsed.table["s@weights"].to_pylist() == [[1, 2], [], [5]]


def test_vectors():
    parsed = parse((Vector(name="v", dim=2),), {"v": [[1, 2], [3], None, [4, NAN], [5, 6]]})
    assert parsed.table["v"].to_pylist() == [[1, 2], [0, 0], [0, 0], [0, 0], [5, 6]]
    assert {row: cell.reason for row, cell in parsed.bad.items()} == {
        1: "has 1 numbers, not 2",
        2: "has 0 numbers, not 2",
        3: "has an item that is NaN (leave missing cells empty; numeric features may say "
        "nan=missing)",
    }


def test_a_vector_must_be_a_list_column():
    with pytest.raises(
        DataError, match=r"expected a list column, got.*\n.*log.parquet, column `v`"
    ):
        parse((Vector(name="v", dim=2),), {"v": ["1 2"]})


# ---------------------------------------------------------------------------------------- roles

USER = Categorical(name="user")


def labelled(label: Label, values: list):
    schema = Schema(features=(USER,), labels=(label,))
    return Parser(schema, ()).parse(pa.table({"user": ["u"] * len(values), "y": values}))


def test_labels():
    parsed = labelled(Label(name="y"), [0, 1, 2, None, NAN])
    assert parsed.table["y"].to_pylist()[:2] == [0, 1]
    assert {row: cell.reason.split(" (")[0] for row, cell in parsed.bad.items()} == {
        2: "is a label outside {0, 1}",
        3: "is missing",
        4: "is NaN",
    }


def test_label_threshold_and_ignored_values():
    parsed = labelled(Label(name="y", threshold=4, ignore=(3,)), [5, 4, 3, 1])
    assert parsed.table["y"].to_pylist() == [1, 1, 0, 0]
    assert parsed.ignored.tolist() == [False, False, True, False]
    assert parsed.bad == {}


def test_an_ignored_value_may_lie_outside_the_set():
    parsed = labelled(Label(name="y", ignore=(-1,)), [0, -1, 1])
    assert parsed.ignored.tolist() == [False, True, False]
    assert parsed.bad == {}


def test_roles():
    raw = {"user": ["a", "b", "a"], "w": [1, 0.5, 0], "t": [3, 4, 5]}
    parsed = parse((USER,), raw, weight="w", group="user", timestamp="t")
    assert parsed.table[WEIGHT].to_pylist() == [1, 0.5, 0]
    assert parsed.table[TIMESTAMP].to_pylist() == [3, 4, 5]
    groups = parsed.table[GROUP].to_pylist()
    assert groups[0] == groups[2] != groups[1]


def test_groups_are_equal_for_text_and_integers():
    text = parse((USER,), {"user": ["17", "4", None]}, group="user")
    ints = parse((USER,), {"user": [17, 4, None]}, group="user")
    assert text.table[GROUP].to_pylist() == ints.table[GROUP].to_pylist()
    assert text.table[GROUP].to_pylist()[2] == 0


def test_bad_roles():
    raw = {"user": ["a"] * 3, "w": [-1, None, 1], "t": [1, 2, None]}
    parsed = parse((USER,), raw, weight="w", timestamp="t")
    assert {row: cell.text for row, cell in parsed.bad.items()} == {
        0: "`w` is missing or negative; a row weight must be at least 0: '-1'.",
        1: "`w` is missing or negative; a row weight must be at least 0: 'None'.",
        2: "`t` is missing: 'None'.",
    }


def test_the_first_bad_cell_of_a_row_is_reported():
    features = (Numeric(name="a"), Numeric(name="b"))
    parsed = parse(features, {"a": ["1", "x"], "b": ["y", "z"]})
    assert {row: cell.column for row, cell in parsed.bad.items()} == {0: "b", 1: "a"}
