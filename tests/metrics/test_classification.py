import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from recsys.errors import DataError
from recsys.metrics.classification import (
    class_scores,
    classification_intervals,
    classification_metrics,
    confusion,
)


def test_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 2])
    table = confusion(labels, predicted, 4)
    assert table.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    scores = class_scores(table)
    np.testing.assert_allclose(scores["precision"], [2 / 3, 1 / 2, 1, 0])
    np.testing.assert_allclose(scores["recall"], [2 / 3, 1, 1 / 2, 0])
    np.testing.assert_allclose(scores["f1"], [2 / 3, 2 / 3, 2 / 3, np.nan])
    found = classification_metrics(table)  # the fourth class is nowhere and does not count
    assert found == pytest.approx({"accuracy": 4 / 6, "macro_f1": 2 / 3, "micro_f1": 4 / 6})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_as_scikit_learn(pairs):
    labels, predicted = np.array(pairs).T
    found = classification_metrics(confusion(labels, predicted, 5))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    for kind in ("macro", "micro"):
        wanted = f1_score(labels, predicted, average=kind, zero_division=0)
        assert found[f"{kind}_f1"] == pytest.approx(wanted)
    wanted = precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
    scores = class_scores(confusion(labels, predicted, 5))
    np.testing.assert_allclose(scores["precision"], wanted[0])
    np.testing.assert_allclose(scores["recall"], wanted[1])
    np.testing.assert_allclose(np.nan_to_num(scores["f1"]), wanted[2])


def test_intervals_are_those_of_a_binomial():
    table = np.array([[80, 20], [0, 300]])  # accuracy .95 of 400
    found = classification_intervals(table, num_samples=4000, seed=1)
    half = 1.96 * np.sqrt(0.95 * 0.05 / 400)
    assert found["accuracy"].low == pytest.approx(0.95 - half, abs=0.004)
    assert found["accuracy"].high == pytest.approx(0.95 + half, abs=0.004)
    assert (
        found["macro_f1"].low < classification_metrics(table)["macro_f1"] < found["macro_f1"].high
    )


def test_what_cannot_be_judged():
    with pytest.raises(DataError, match=r"one or more, got \(0,\) and \(0,\)"):
        confusion(np.zeros(0, int), np.zeros(0, int), 2)
    with pytest.raises(DataError, match="classes from 0 to 1, got 0 to 2"):
        confusion(np.array([0]), np.array([2]), 2)
