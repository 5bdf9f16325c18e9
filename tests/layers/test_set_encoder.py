import torch

from recsys.layers.set_encoder import PlainSelfAttention, SetEncoder


def test_attention_is_the_equation_and_does_not_see_what_is_not_real():
    torch.manual_seed(0)
    layer, x = PlainSelfAttention(4), torch.randn(2, 3, 4)
    real = torch.tensor([[True, True, False], [True, True, True]])
    q, k = layer.queries.weight, layer.keys.weight
    for row, count in ((0, 2), (1, 3)):
        part = x[row, :count]
        shares = ((part @ q.T) @ (part @ k.T).T / 2).softmax(1)
        torch.testing.assert_close(layer(x, real)[row, :count], shares @ part)


def test_padding_and_order_change_nothing_and_an_empty_set_is_zero():
    torch.manual_seed(0)
    for pool in ("mean", "attention"):
        sets, x = SetEncoder(4, pool, num_layers=2), torch.randn(1, 3, 4)
        alone = sets(x, torch.ones(1, 3, dtype=torch.bool))
        wide = torch.cat([x[:, [2, 0, 1]], 100 * torch.ones(1, 2, 4)], dim=1)
        real = torch.tensor([[True, True, True, False, False]])
        torch.testing.assert_close(sets(wide, real), alone)
        assert (sets(x, torch.zeros(1, 3, dtype=torch.bool)) == 0).all()


def test_attention_is_trained():
    sets = SetEncoder(4, "attention")
    torch.manual_seed(0)
    sets(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)).pow(3).sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in sets.parameters())
    assert len(list(sets.parameters())) == 2
