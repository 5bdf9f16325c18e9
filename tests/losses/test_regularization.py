import pytest
import torch

from recsys.losses.regularization import l2_regularization


def test_by_hand():
    """(25 + 4 + 1 + 1) / 2 over a batch of 2, however the rows are arranged."""
    users, negatives = torch.tensor([[3.0, 4.0]]), torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
    assert l2_regularization([users, negatives], 2).item() == pytest.approx(31 / 4)


def test_gradient_is_the_row_over_the_batch_as_often_as_it_is_used():
    table = torch.tensor([[3.0, 4.0], [9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    l2_regularization([table[[0, 0]]], 4).backward()
    assert table.grad is not None and table.grad.tolist() == [[1.5, 2.0], [0.0, 0.0]]
    torch.autograd.gradcheck(lambda t: l2_regularization([t], 3), table)


def test_nothing_to_regularize():
    with pytest.raises(ValueError, match="got 0 tensors and 1"):
        l2_regularization([], 1)
    with pytest.raises(ValueError, match="got 1 tensors and 0"):
        l2_regularization([torch.zeros(1, 1)], 0)
