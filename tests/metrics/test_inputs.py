import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.metrics.auc import auc
from recsys.metrics.inputs import binary_inputs


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([], [], None, "no rows of positive weight"),
        ([1, 0], [0.1, 0.2], [0, 0], "no rows of positive weight"),
        ([1, 0], [0.1], None, "of one length, got 2, 1 and 2"),
        ([1, 0], [0.1, float("nan")], None, "`scores` must be finite; 1 of 2 .* row 2: nan"),
        ([1, 0], [float("inf"), 0.1], None, "`scores` must be finite"),
        ([1, 2], [0.1, 0.2], None, "`labels` must be 0 or 1; 1 of 2 .* row 2: 2.0"),
        ([1, float("nan")], [0.1, 0.2], None, "`labels` must be 0 or 1"),
        ([1, 0], [0.1, 0.2], [1, -1], "`weights` must be finite and at least 0"),
        (np.ones((2, 2)), np.ones((2, 2)), None, "one value a row, got shape"),
    ],
)
def test_bad_input_is_refused_with_its_place(labels, scores, weights, message):
    with pytest.raises(DataError, match=message):
        binary_inputs(labels, scores, weights)


def test_logits_where_probabilities_are_expected():
    with pytest.raises(DataError, match=r"probabilities between 0 and 1 \(not logits\)"):
        binary_inputs([1, 0], [2.0, -1.0], probabilities=True)


def test_padding_may_hold_anything_in_its_scores():
    assert auc([1, 0, 0], [0.9, 0.1, float("nan")], [1, 1, 0]) == 1.0


def test_torch_columns_equal_lists():
    labels, scores = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([0.3, 0.5, 0.8])
    assert auc(labels, scores.requires_grad_()) == auc([1, 0, 1], [0.3, 0.5, 0.8]) == 0.5
