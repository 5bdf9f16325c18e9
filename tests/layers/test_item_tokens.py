"""Checked by hand: what stands in where something is not known."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.layers.item_tokens import ItemTokens


def parts() -> tuple[ItemTokens, Tensor, Tensor, list[Tensor], Tensor]:
    torch.manual_seed(0)
    layer = ItemTokens([3, 2], feedback=2, width=4, hidden=5)
    ids, warm = torch.randn(4, 4), torch.tensor([True, True, False, False])
    first = normalize(torch.randn(4, 3))
    first[1], first[3] = 0, 0
    second = normalize(torch.randn(4, 2))
    second[1], second[2], second[3] = 0, 0, 0
    told = torch.randn(4, 2)
    told[2] = 0
    return layer, ids, warm, [first, second], told


def test_everything_is_known():
    layer, ids, warm, contents, told = parts()
    content = sum(normalize(encode(x)) for encode, x in zip(layer.contents, contents))
    expected = normalize(torch.stack([content[0], ids[0], layer.feedback(told)[0]]))
    torch.testing.assert_close(layer(ids, warm, contents, told)[0], expected)


def test_without_content_the_row_stands_in():
    layer, ids, warm, contents, told = parts()
    tokens = layer(ids, warm, contents, told)
    row = normalize(ids[1], dim=0)
    torch.testing.assert_close(tokens[1, 0], row)
    torch.testing.assert_close(tokens[1, 1], row)


def test_a_cold_item_without_feedback_is_its_content_thrice():
    layer, ids, warm, contents, told = parts()
    tokens = layer(ids, warm, contents, told)
    content = normalize(layer.contents[0](contents[0][2:3]))[0]
    for token in tokens[2]:
        torch.testing.assert_close(token, content)


def test_of_a_cold_item_of_which_nothing_is_known_the_row_is_all_there_is():
    layer, ids, warm, contents, told = parts()
    tokens = layer(ids, warm, contents, told)
    torch.testing.assert_close(tokens[3, 0], normalize(ids[3], dim=0))
    torch.testing.assert_close(tokens[3, 1], normalize(ids[3], dim=0))


def test_rows_of_items_with_no_content_learn_and_those_of_cold_ones_with_content_do_not():
    layer, ids, warm, contents, told = parts()
    ids.requires_grad_()
    layer(ids, warm, contents, told).cos().sum().backward()
    assert ids.grad is not None
    assert ids.grad[1].abs().sum() > 0 and ids.grad[2].abs().sum() == 0


def test_the_fused_vector_is_a_mean_after_attention():
    layer, ids, warm, contents, told = parts()
    tokens = layer(ids, warm, contents, told)
    q, k = layer.attention.queries.weight, layer.attention.keys.weight
    for one, fused in zip(tokens, layer.fuse(tokens)):
        shares = ((one @ q.T) @ (one @ k.T).T / 2).softmax(1)
        torch.testing.assert_close(fused, (shares @ one).mean(0))
