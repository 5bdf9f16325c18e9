import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import TrainingError
from recsys.graph.text_features import (
    TextFeatures,
    TextOptions,
    count_grams,
    grams_of,
    principal_axes,
)

TEXTS = ["a a b", "b c", "c", ""]


def made(**options):
    found = TextFeatures(TEXTS, TextOptions(num_buckets=1000, **options), np.array([0, 1, 3]))
    found.initialize()
    return found


def test_weights_by_hand():
    found = made()
    column = {gram: int(count_grams([gram], found.options).indices[0]) for gram in "abc"}
    # of 3 texts to learn from: a in 1, b in 2, c in 1
    idf = {"a": 1 + np.log(4 / 2), "b": 1 + np.log(4 / 3), "c": 1 + np.log(4 / 2)}
    first = np.array([(1 + np.log(2)) * idf["a"], idf["b"]])
    first /= np.linalg.norm(first)
    rows = found.rows(np.arange(4)).toarray()
    np.testing.assert_allclose([rows[0, column["a"]], rows[0, column["b"]]], first, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.rows_of(["A, a-B!"]).toarray()[0], rows[0])


def test_every_gram_counts_as_often_as_it_occurs():
    options = TextOptions(words=3, characters=(2, 2))
    assert grams_of("x y", options) == ["x", "y", "x y", "<x", "x>", "<y", "y>"]
    assert count_grams(["x y", "x y x"], options).sum(1).tolist() == [7, 12]
    one = count_grams(["x y z"], TextOptions(num_buckets=1))
    assert one.toarray().tolist() == [[3.0]]
    salted, plain = (count_grams(["x"], TextOptions(salt=salt)) for salt in (1, 0))
    assert salted.indices[0] != plain.indices[0]


def test_axes_keep_what_two_texts_have_in_common():
    found = made(axes=2)
    rows = found.rows(np.arange(4))
    along = found.along_axes(rows)
    assert along.shape == (4, 2)
    # two texts to learn from are not empty, so two axes hold all of them
    torch.testing.assert_close(
        along[:2] @ along[:2].T, torch.from_numpy((rows @ rows.T).toarray()[:2, :2])
    )
    again = made(axes=2)
    assert torch.equal(again.axes, found.axes)


def test_axes_are_those_of_numpy_and_fill_up_with_zeros():
    rows = np.random.default_rng(1).normal(size=(6, 9))
    wanted = np.linalg.svd(rows)[2]
    found = principal_axes(csr_array(rows), 4)
    np.testing.assert_allclose(np.abs((wanted[:4] * found.T).sum(1)), 1, rtol=1e-5)
    assert not principal_axes(csr_array(np.ones((3, 5))), 4)[:, 1:].any()


def test_a_state_brings_what_was_fitted():
    fresh = TextFeatures(["other"], TextOptions(num_buckets=1000, axes=2), np.array([0]))
    with pytest.raises(TrainingError, match="only built"):
        fresh.rows(np.array([0]))
    found = made(axes=2)
    fresh.load_state_dict(found.state_dict())
    np.testing.assert_array_equal(
        fresh.rows_of(TEXTS).toarray(), found.rows(np.arange(4)).toarray()
    )
    assert torch.equal(
        fresh.along_axes(fresh.rows_of(TEXTS)), found.along_axes(found.rows_of(TEXTS))
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [({"words": 0}, "grams of words or of characters"),
     ({"characters": (3, 2)}, r"shortest and the longest, from 1, got \[3, 2\]"),
     ({"trained": False}, "need `axes`")],
)  # fmt: skip
def test_options_that_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        TextOptions(**options)
