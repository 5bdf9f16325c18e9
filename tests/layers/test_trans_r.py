"""TransR: projections, distances and attention, triple by triple."""

import pytest
import torch

from recsys.layers import trans_r
from recsys.layers.initialization import initialize
from recsys.layers.trans_r import TransR


def layer(relations=4, width=5, relation_width=3) -> TransR:
    made = TransR(relations, width, relation_width)
    initialize(made, torch.Generator().manual_seed(1))
    return made


def test_projections_are_those_of_every_triples_relation():
    made, rows = layer(), torch.randn(7, 2, 5, requires_grad=True)
    relation = torch.tensor([2, 0, 2, 3, 0, 0, 2])
    found = made(rows, relation)
    wanted = torch.stack([rows[n] @ made.weight[r] for n, r in enumerate(relation.tolist())])
    torch.testing.assert_close(found, wanted)
    mine = torch.autograd.grad(found.square().sum(), (rows, made.weight))
    theirs = torch.autograd.grad(wanted.square().sum(), (rows, made.weight))
    torch.testing.assert_close(mine, theirs)
    assert not mine[1][1].any(), "relation 1 does not occur"
    assert made(rows[:0], relation[:0]).shape == (0, 2, 3)


def test_distances_by_hand():
    made = TransR(2, 2, 2)
    with torch.no_grad():
        made.translation.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    head, tail = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[2.0, 2.0], [4.0, 5.0]])
    assert made.distance(head, tail, torch.tensor([0, 1])).tolist() == [0.0, 25.0]


@pytest.mark.parametrize("at_once", [2, 1000])
def test_attention_is_that_of_every_edge(monkeypatch, at_once):
    monkeypatch.setattr(trans_r, "_EDGES_AT_ONCE", at_once)
    made, rows = layer(), torch.randn(6, 5)
    head, relation, tail = torch.tensor(
        [[0, 5, 1, 1, 4, 0], [3, 0, 3, 3, 0, 3], [1, 1, 2, 0, 3, 4]]
    )
    wanted = [
        (rows[t] @ made.weight[r]) @ torch.tanh(rows[h] @ made.weight[r] + made.translation[r])
        for h, r, t in zip(head.tolist(), relation.tolist(), tail.tolist())
    ]
    found = made.attention(rows.requires_grad_(), head, relation, tail)
    torch.testing.assert_close(found, torch.stack(wanted).detach())
    assert not found.requires_grad
