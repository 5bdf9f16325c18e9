import pytest
import torch
from torch.nn import functional

from recsys.layers.conditional_attention import ConditionalCrossAttention
from recsys.layers.initialization import initialize

ITEM = torch.tensor([0, 2, 0, 2, 2])
TOKENS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def made(heads=2):
    layer = ConditionalCrossAttention(3, 6, heads)
    initialize(layer, torch.Generator().manual_seed(2))
    return layer


def test_it_is_torchs_attention_of_one_query():
    layer, weights = made(), torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    found = layer(TOKENS, ITEM, 3, 1, weights)
    for item in (0, 2):
        mine = item == ITEM
        x = TOKENS[mine]
        query = layer.queries[1].view(2, 1, 3)
        key, value = (part(x).view(-1, 2, 3).transpose(0, 1) for part in (layer.keys, layer.values))
        seen = functional.scaled_dot_product_attention(query, key, value, weights[mine].log()[None])
        wanted = layer.norm(layer.output(seen.transpose(0, 1).flatten()))
        torch.testing.assert_close(found[item], wanted)
    torch.testing.assert_close(found[1], layer.norm(torch.zeros(6)))


def test_weights_count_as_repetition_and_shares_sum_to_one():
    layer = made()
    twice = layer(TOKENS[[0, 0, 2]], torch.zeros(3, dtype=torch.long), 1, 0)
    weighted = layer(TOKENS[[0, 2]], torch.zeros(2, dtype=torch.long), 1, 0, torch.tensor([2.0, 1]))
    torch.testing.assert_close(twice, weighted)
    shares = layer.shares(TOKENS * 100, ITEM, 3, 2)
    sums = torch.zeros(3, 2).index_add(0, ITEM, shares)
    torch.testing.assert_close(sums, torch.tensor([[1.0, 1], [0, 0], [1, 1]]))


def test_one_token_is_a_linear_layer_whatever_the_condition():
    layer = made(heads=3)
    one = torch.arange(5)
    first, second = (layer(TOKENS, one, 5, condition) for condition in (0, 1))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, layer.norm(layer.output(layer.values(TOKENS))))


def test_gradients_are_those_of_finite_differences():
    layer = made().double()
    tokens = TOKENS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, ITEM, 3, 1), (tokens,))
    layer(tokens, ITEM, 3, 1).sum().backward()
    assert layer.queries.grad is not None and bool((layer.queries.grad[[0, 2]] == 0).all())


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="divides the width 6, got 4"):
        ConditionalCrossAttention(1, 6, 4)
