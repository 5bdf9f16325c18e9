import numpy as np
import pytest

from recsys.errors import DataError, TrainingError
from recsys.evaluate.nodes import evaluate_nodes
from recsys.testing.nodes import tiny_nodes
from tests.evaluate.fixed_classes import Fixed


def test_metrics_by_hand():
    found = evaluate_nodes(Fixed(Fixed.Config(), tiny_nodes()), "test", 50)
    # nodes 17 .. 23 have the classes 2 0 1 2 0 1 2; told: 0 0 0 2 0 0 0
    assert found.labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert found.predicted.tolist() == [0, 0, 0, 2, 0, 0, 0]
    assert found.metrics["accuracy"] == pytest.approx(3 / 7)
    f1 = [2 * 2 / (2 + 6), 0, 2 * 1 / (3 + 1)]
    assert found.metrics["macro_f1"] == pytest.approx(np.mean(f1))
    assert found.metrics["logloss"] == pytest.approx(-(3 * np.log(0.8) + 4 * np.log(0.1)) / 7)
    assert found.intervals["accuracy"].low <= 3 / 7 <= found.intervals["accuracy"].high
    assert found.rows()[2] == ("c", 3, 1.0, pytest.approx(1 / 3), pytest.approx(0.5))
    assert found.to_json()["classes"][1]["f1"] == 0
    assert "macro" not in found.table() and "0.33333" in found.table()


def test_what_cannot_be_judged():
    model = Fixed(Fixed.Config(), tiny_nodes())
    with pytest.raises(DataError, match="the data has no dev split"):
        evaluate_nodes(model, "dev")
    model.bad = True
    with pytest.raises(TrainingError, match="NaN or infinite"):
        evaluate_nodes(model, "test")
