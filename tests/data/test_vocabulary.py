import copy
import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import vocab_native
from recsys.data import vocabulary as vocabulary_module
from recsys.data.vocab_native import NativeMap
from recsys.data.vocabulary import Vocabulary, VocabularyCounter
from recsys.errors import DataError

BACKENDS = ["arrow", *(["native"] if vocab_native.is_available() else [])]
TEXTS = st.lists(st.one_of(st.none(), st.text("ab\0\u00e9", max_size=12)), max_size=60)
INTS = st.lists(
    st.one_of(st.none(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)), max_size=60
)
KINDS = {"string": pa.string(), "int": pa.int64()}


def naive(values: list, min_count: int, limit: int | None) -> list[tuple]:
    """Ids and counts by falling count; ties: null, then bytes or number."""

    def key(item: tuple) -> tuple:
        value, count = item
        rank = value.encode() if isinstance(value, str) else value
        return (-count, value is not None, rank if value is not None else 0)

    items = [item for item in Counter(values).items() if item[1] >= min_count]
    tied_nulls = sorted((i for i in items if i[0] is None), key=key)
    items = sorted((i for i in items if i[0] is not None), key=key)
    for null in tied_nulls:
        at = next((n for n, i in enumerate(items) if i[1] <= null[1]), len(items))
        items.insert(at, null)
    return items[:limit]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["string", "int"])
@given(data=st.data(), min_count=st.integers(1, 3), limit=st.sampled_from([None, 1, 4]))
@settings(max_examples=40, deadline=None)
def test_equals_a_naive_count(backend, dtype, data, min_count, limit):
    batches = data.draw(st.lists(TEXTS if dtype == "string" else INTS, max_size=4))
    counter = VocabularyCounter(dtype, backend)
    for batch in batches:
        counter.add(pa.array(batch, KINDS[dtype]))
    vocabulary = counter.finish(min_count, limit)
    values = [value for batch in batches for value in batch]
    expected = naive(values, min_count, limit)
    assert list(zip(vocabulary.ids.to_pylist(), vocabulary.counts.tolist())) == expected

    codes = {value: code for code, (value, _) in enumerate(expected, start=2)}
    unseen = ["not there"] if dtype == "string" else [77]
    asked = pa.array([*unseen, *values, None], KINDS[dtype]).slice(1)
    assert vocabulary.encode(asked).tolist() == [codes.get(v, 1) for v in [*values, None]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_by_hand(backend):
    counter = VocabularyCounter("string", backend)
    counter.add(pa.array(["b", "c", "b", None]))
    counter.add(pa.array(["a", "c", "b", None, "rare"]))
    vocabulary = counter.finish(min_count=2)
    # b 3 times; null and c twice, null first; a and rare once: too rare
    assert vocabulary.ids.to_pylist() == ["b", None, "c"]
    assert vocabulary.num_embeddings == 5
    assert vocabulary.encode(pa.array(["c", None, "a", "b"])).tolist() == [4, 3, 1, 2]
    assert vocabulary.decode(np.array([2, 0, 4, 1])) == ["b", None, "c", None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_null_is_unknown_where_training_saw_none(backend):
    vocabulary = Vocabulary(pa.array(["x"]), np.array([1]), backend)
    assert vocabulary.encode(pa.array([None, "x"], pa.string())).tolist() == [1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@given(first=TEXTS, second=TEXTS)
@settings(max_examples=30, deadline=None)
def test_growing_only_appends(backend, first, second):
    def counted(values: list) -> Vocabulary:
        counter = VocabularyCounter("string", backend)
        counter.add(pa.array(values, pa.string()))
        return counter.finish()

    old, new = counted(first), counted(second)
    grown = old.grown(new)
    assert grown.ids.to_pylist()[: len(old)] == old.ids.to_pylist()
    assert dict(zip(grown.ids.to_pylist(), grown.counts.tolist())) == Counter(first + second)
    both = pa.array(first, pa.string())
    assert grown.encode(both).tolist() == old.encode(both).tolist()


def test_the_arrow_counter_adds_up_its_parts(monkeypatch):
    monkeypatch.setattr(vocabulary_module, "_COMPACT_ROWS", 3)
    counter = VocabularyCounter("int", "arrow")
    for start in range(6):
        counter.add(pa.array([start, start + 1, 0]))
    assert sum(part.num_rows for part in counter._partial) <= 9
    vocabulary = counter.finish()
    assert vocabulary.ids.to_pylist() == [0, 1, 2, 3, 4, 5, 6]
    assert vocabulary.counts.tolist() == [7, 2, 2, 2, 2, 2, 1]


def test_growing_leaves_out_rare_new_ids():
    old = Vocabulary(pa.array(["a"]), np.array([5]))
    more = Vocabulary(pa.array(["b", "c", "a"]), np.array([3, 1, 1]))
    grown = old.grown(more, min_count=2)
    assert grown.ids.to_pylist() == ["a", "b"]
    assert grown.counts.tolist() == [6, 3]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ids", [["b", None, ""], [5, None, -(2**63)]])
def test_saved_and_loaded(tmp_path, ids, backend):
    vocabulary = Vocabulary(pa.array(ids), np.array([3, 2, 1]), backend)
    vocabulary.save(tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet").to_pydict() == {"id": ids, "count": [3, 2, 1]}
    loaded = Vocabulary.load(tmp_path / "v.parquet", backend)
    assert loaded.encode(pa.array(ids)).tolist() == [2, 3, 4]


def test_a_damaged_vocabulary(tmp_path):
    (tmp_path / "v.parquet").write_text("no")
    with pytest.raises(DataError, match=r"not a readable vocabulary.*\n.*v.parquet"):
        Vocabulary.load(tmp_path / "v.parquet")


@pytest.mark.skipif("native" not in BACKENDS, reason="compiled map not built")
def test_a_vocabulary_with_an_id_twice():
    twice = Vocabulary(pa.array(["a", "a"]), np.array([1, 1]), "native")
    with pytest.raises(DataError, match="2 ids has only 1 distinct"):
        twice.encode(pa.array(["a"]))


@pytest.mark.skipif("native" not in BACKENDS, reason="compiled map not built")
def test_the_map_refuses_other_arrow_types():
    with pytest.raises(TypeError, match="ids must be string, got int64"):
        NativeMap(is_text=True).add(pa.array([1]))


@pytest.mark.skipif("native" not in BACKENDS, reason="compiled map not built")
def test_an_id_that_is_too_long_for_the_map():
    with pytest.raises(MemoryError, match="longer than 16 MB"):
        NativeMap(is_text=True).add(pa.array(["x" * (1 << 24)]))


def test_without_the_library_the_arrow_backend_is_taken(monkeypatch):
    monkeypatch.setattr(vocab_native, "_library", None)
    counter = VocabularyCounter("string")
    counter.add(pa.array(["a", "a", "b"]))
    assert counter.backend == "arrow"
    assert counter.finish().encode(pa.array(["b", "a"])).tolist() == [3, 2]
    with pytest.raises(RuntimeError, match="not built"):
        NativeMap(is_text=True)


@pytest.mark.skipif("native" not in BACKENDS, reason="compiled map not built")
def test_backends_agree_on_many_ids():
    ids = np.random.default_rng(0).zipf(1.2, 200_000) % 50_000
    text = pa.array(ids).cast(pa.string())
    results = []
    for backend in ("native", "arrow"):
        counter = VocabularyCounter("string", backend)
        for start in range(0, len(text), 30_000):
            counter.add(text.slice(start, 30_000))
        results.append(counter.finish(min_count=2))
    native, arrow = results
    assert native.ids.equals(arrow.ids)
    assert (native.counts == arrow.counts).all()
    assert (native.encode(text) == arrow.encode(text)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_are_independent(backend):
    vocabulary = Vocabulary(pa.array(["a", "b"]), np.array([2, 1]), backend)
    assert vocabulary.encode(pa.array(["b"])).tolist() == [3]
    for copied in (copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        assert copied.encode(pa.array(["b", "c"])).tolist() == [3, 1]
    if backend == "native":
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copy.copy(NativeMap(is_text=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_beyond_32_bit_offsets_has_a_type_of_its_own(backend):
    ids = pa.array(["a", None, "b"], pa.large_string())
    vocabulary = Vocabulary(ids, np.array([3, 2, 1]), backend)
    assert vocabulary.encode(pa.array(["b", None, "x"])).tolist() == [4, 3, 1]
    grown = vocabulary.grown(Vocabulary(pa.array(["c", "a"]), np.array([1, 1]), backend))
    assert grown.ids.to_pylist() == ["a", None, "b", "c"]
    assert grown.counts.tolist() == [4, 2, 1, 1]
