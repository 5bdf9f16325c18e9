import math

from recsys.evaluate.summary import flat_metrics, metrics_table, slices_table, text_table
from recsys.metrics.report import BinaryReport
from recsys.metrics.slices import SliceRow


def report(**values):
    return BinaryReport(2, 1, 0.5, values, {})


def test_one_task_has_no_task_names():
    assert flat_metrics({"click": report(auc=0.7)}) == {"auc": 0.7}


def test_a_mean_leaves_out_tasks_without_the_metric():
    found = flat_metrics({"a": report(auc=0.7), "b": report(auc=math.nan)})
    assert found["auc"] == 0.7 and math.isnan(found["b.auc"])
    assert math.isnan(flat_metrics({"a": report(auc=math.nan)})["auc"])


def test_callers_can_add_an_oracle_and_a_baseline():
    table = metrics_table({"DeepFM": {"auc": 0.78, "ece": 0.01}, "oracle": {"auc": 0.8}})
    assert table.splitlines() == [
        "            auc      ece",
        "------  -------  -------",
        "DeepFM  0.78000  0.01000",
        "oracle  0.80000        -",
    ]


def test_slices():
    rows = [SliceRow("phone", 1200, 0.25, 0.7, 0.5, math.nan)]
    assert slices_table("device", rows).splitlines()[2].split() == [
        "phone", "1,200", "0.25000", "0.70000", "0.50000", "-",
    ]  # fmt: skip


def test_cells():
    assert text_table(["a", "b"], [["x", None], ["long name", 12345]]).splitlines()[2:] == [
        "x               -",
        "long name  12,345",
    ]
