import math

import numpy as np
import pytest
import torch

from recsys.config import TrainConfig
from recsys.evaluate.predictions import Predictions
from recsys.schema import Label, Numeric, Schema, Vector
from recsys.train.diagnosis import InputRange, constant_problem, loss_problem
from recsys.types import Batch

SCHEMA = Schema(
    features=(Numeric(name="age"), Numeric(name="price"), Vector(name="image", dim=2)),
    labels=(Label(name="click"),),
)


def inputs(*rows):
    found = InputRange(SCHEMA)
    for row in rows:
        found.add(
            Batch(
                dense=torch.tensor([row]), values=torch.zeros(0, dtype=torch.int32),
                lengths=torch.zeros(0, dtype=torch.int32), labels=torch.zeros(1, 1), keys=(),
                value_counts=(),
            )
        )  # fmt: skip
    return found


def test_the_range_covers_all_batches_since_it_was_forgotten():
    found = inputs([1.0, -5e4, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0])
    assert "`price` is not scaled (it reaches 5e+04)" in found.problem()
    found.forget()
    assert found.problem() == ""


def test_columns_of_a_vector_have_its_name():
    assert "Feature `image` holds NaN" in inputs([1.0, 1.0, 0.0, math.nan]).problem()
    assert "Feature `age` holds NaN or infinity" in inputs([math.inf, 1.0, 0.0, 0.0]).problem()


def test_without_a_bad_column_the_learning_rate_is_blamed():
    clipped = TrainConfig(learning_rate=0.5, clip_norm=1.0, precision="bf16")
    text = loss_problem("loss nan in steps 1 to 5", inputs([1.0] * 4).problem(), clipped, None)
    assert "train.learning_rate=0.5" in text and "clip_norm" not in text and "fp32" in text


@pytest.mark.parametrize(
    ("labels", "dense", "factor", "cause"),
    [
        ([[0.0], [0.0]], 1.0, 1.0, "All labels of the last training batch are 0"),
        ([[0.0], [1.0]], 1e9, 1.0, "`age` is not scaled"),
        ([[0.0], [1.0]], 1.0, 1e-9, "The learning rate is 1e-12: raise it"),
        ([[0.0], [1.0]], 1.0, 1.0, "hidden units died"),
    ],
)
def test_causes_of_constant_predictions(labels, dense, factor, cause):
    found = Predictions(("click",), np.zeros((3, 1)), np.full((3, 1), 2.0), None, None, {})
    seen = inputs([dense, 1.0, 0.0, 0.0])
    text = constant_problem(found, torch.tensor(labels), seen, TrainConfig(), factor)
    assert text.startswith("the model predicts the same 0.8808 for every row of `click`.")
    assert cause in text


def test_differing_predictions_and_single_rows_are_fine():
    for logits in ([[0.0], [0.1]], [[0.0]]):
        found = Predictions(
            ("click",), np.zeros((len(logits), 1)), np.array(logits), None, None, {}
        )
        labels = torch.zeros(2, 1)
        assert constant_problem(found, labels, inputs([1.0] * 4), TrainConfig(), 1.0) == ""
