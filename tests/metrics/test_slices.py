import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.errors import DataError
from recsys.metrics.slices import slice_table


def test_every_slice_equals_sklearn_on_its_rows():
    random = np.random.default_rng(10)
    p, column = random.random(600), random.integers(0, 3, 600)
    labels, weights = (random.random(600) < p).astype(int), random.random(600)
    table = slice_table(labels, p, column, weights, name=lambda value: f"site {value}")
    assert sum(row.rows for row in table) == 600
    assert [row.rows for row in table] == sorted((row.rows for row in table), reverse=True)
    for row in table:
        kept = column == int(row.value.removeprefix("site "))
        args = labels[kept], p[kept]
        assert row.auc == pytest.approx(roc_auc_score(*args, sample_weight=weights[kept]), abs=1e-9)
        assert row.logloss == pytest.approx(log_loss(*args, sample_weight=weights[kept]), abs=1e-9)
        assert row.calibration == pytest.approx(
            (weights * p)[kept].sum() / (weights * labels)[kept].sum(), abs=1e-9
        )


def test_rare_values_are_put_together():
    table = slice_table([1, 0, 1, 0, 1, 1], [0.5] * 6, list("aaabbc"), max_slices=1)
    assert [(row.value, row.rows) for row in table] == [("a", 3), ("(other)", 3)]
    assert table[1].rate == pytest.approx(2 / 3)


def test_a_slice_of_one_class_has_no_auc():
    (row,) = slice_table([0, 0], [0.5, 0.25], [1, 1])
    assert math.isnan(row.auc) and math.isnan(row.calibration)


def test_padding_makes_no_slice():
    assert len(slice_table([1, 0, 1], [0.5] * 3, [1, 1, 9], [1, 1, 0])) == 1


def test_wrong_length():
    with pytest.raises(DataError, match="got 1 values for 2 rows"):
        slice_table([1, 0], [0.1, 0.2], [1])
