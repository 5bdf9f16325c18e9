"""Numbers in a model, on paper."""

import pytest
import torch

from recsys.layers.numeric import DenseLinear, NumericEmbedding


def test_embedding_by_hand():
    layer = NumericEmbedding(2, 2, std=0.1, bias=True)
    layer.load_state_dict(
        {
            "weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            "bias": torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
        }
    )
    assert layer(torch.tensor([[2.0, -1.0]])).tolist() == [[[2.5, 4.5], [-3.0, -3.0]]]


def test_embedding_without_bias_maps_zero_to_zero():
    layer = NumericEmbedding(3, 4, std=0.1)
    assert layer.bias is None and not layer(torch.zeros(2, 3)).any()


def test_embedding_starts_like_a_table_row():
    weight = NumericEmbedding(5000, 7, std=0.03).weight
    assert weight.std().item() == pytest.approx(0.03, rel=0.02)


def test_dense_linear_by_hand():
    layer = DenseLinear(2, 2, std=1.0)
    layer.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [10.0, 2.0]])})
    assert layer(torch.tensor([[3.0, 4.0]])).tolist() == [[43.0, 8.0]]


def test_dense_linear_without_columns_is_zero():
    layer = DenseLinear(0, 2, std=1.0)
    assert layer(torch.zeros(3, 0)).tolist() == [[0.0, 0.0]] * 3 and not list(layer.parameters())


def test_dense_linear_start():
    assert DenseLinear(5000, 1, std=0.25).weight.std().item() == pytest.approx(0.25, rel=0.03)
