import math

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.metrics.auc import auc
from recsys.metrics.calibration import calibration_ratio
from recsys.metrics.ece import expected_calibration_error
from recsys.metrics.grouped_auc import grouped_auc
from recsys.metrics.logloss import logloss
from recsys.metrics.normalized_entropy import normalized_entropy
from recsys.metrics.pr_auc import pr_auc
from recsys.metrics.report import binary_report, task_reports


def test_holds_each_metric():
    random = np.random.default_rng(11)
    p, users = random.random(300), random.integers(0, 20, 300)
    labels, weights = (random.random(300) < p).astype(float), random.random(300)
    report = binary_report(labels, p, weights, users)
    args = labels, p, weights
    assert report.values == {
        "auc": auc(*args),
        "logloss": logloss(*args),
        "normalized_entropy": normalized_entropy(*args),
        "calibration": calibration_ratio(*args),
        "ece": expected_calibration_error(*args),
        "pr_auc": pr_auc(*args),
        "grouped_auc": grouped_auc(labels, p, users, weights).value,
    }
    assert report.rows == 300 and report.positives == labels.sum()
    assert report.rate == pytest.approx(np.average(labels, weights=weights))
    assert "20 groups, 0 of one class skipped" in report.notes["grouped_auc"]


def test_says_why_a_value_is_nan():
    report = binary_report([0, 0, 0], [0.1, 0.2, 0.3])
    nans = {name for name, value in report.values.items() if math.isnan(value)}
    assert nans == {"auc", "pr_auc", "normalized_entropy", "calibration"} == set(report.notes)
    assert report.notes["auc"] == "all labels are 0: there is nothing to rank"


def test_one_report_a_task():
    labels, p = np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.6], [0.2, 0.4]])
    reports = task_reports(("click", "buy"), labels, p)
    assert (reports["click"]["auc"], reports["buy"]["auc"]) == (1.0, 0.0)
    with pytest.raises(DataError, match="one column of labels"):
        task_reports(("click",), labels, p)
