"""A layer of LATTE against its equations, node by node and edge by edge in loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.graph.latte_layers import LATTELayers
from recsys.graph.meta_relation_attention import MetaRelationAttention
from recsys.graph.meta_relations import base_relations, decompose

COUNTS = {"user": 4, "item": 3, "brand": 2}
EDGES = {
    ("user", "buys", "item"): np.array([[0, 0, 1, 2], [0, 1, 1, 2]]),  # user 3 has nothing
    ("item", "of", "brand"): np.array([[0, 1, 2], [0, 0, 1]]),
}
BASE = base_relations(COUNTS, EDGES)


def made(relations=BASE, outputs=tuple(COUNTS), heads=2, **options):
    torch.manual_seed(3)
    layer = MetaRelationAttention(relations, COUNTS, outputs, 3, 4, heads, **options)
    with torch.no_grad():
        layer.sharpness.copy_(torch.linspace(0.5, 2, len(layer.relations)))
    return layer


def inputs(requires_grad=False):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(count, 3, generator=generator).requires_grad_(requires_grad)
            for name, count in COUNTS.items()}  # fmt: skip


def weight(layer, part, name):
    return getattr(layer, part)[str(list(COUNTS).index(name))].weight


def score(layer, number, rows, i, j, head):
    """e_ij of one pair and one head."""
    relation, d = layer.relations[number], 4 // layer.heads
    left = (weight(layer, "left", relation.head) @ rows[relation.head][i])[head * d :][:d]
    right = (weight(layer, "right", relation.tail) @ rows[relation.tail][j])[head * d :][:d]
    raw = layer.attend_left[number, head] @ left + layer.attend_right[number, head] @ right
    return layer.sharpness[number] * (raw if raw > 0 else 0.2 * raw)


def looped(layer, rows):
    """The output of all nodes, one after the other."""
    found, d = {}, 4 // layer.heads
    for name in layer.outputs:
        choice, out = layer.choice[str(list(COUNTS).index(name))], []
        for i in range(COUNTS[name]):
            shares = (choice.weight @ rows[name][i] + choice.bias).exp()
            shares = shares / shares.sum()
            total = shares[-1] * (weight(layer, "left", name) @ rows[name][i])
            mine = [n for n, r in enumerate(layer.relations) if r.head == name]
            for place, number in enumerate(mine):
                relation = layer.relations[number]
                others = relation.matrix[[i]].indices.tolist()
                taken = torch.zeros(4)
                for head in range(layer.heads):
                    e = [score(layer, number, rows, i, j, head).exp() for j in others]
                    for j, value in zip(others, e):
                        right = weight(layer, "right", relation.tail) @ rows[relation.tail][j]
                        part = torch.zeros(4)
                        part[head * d : (head + 1) * d] = right[head * d : (head + 1) * d]
                        taken = taken + value / sum(e) * part
                total = total + shares[place] * taken
            out.append(total.clamp(min=0) if layer.activation else total)
        found[name] = torch.stack(out)
    return found


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_output_and_gradients_are_those_of_the_equations(heads, activation, steps):
    relations = decompose(BASE, steps, tuple(COUNTS), 5)[-1]
    layer = made(relations, heads=heads, activation=activation)
    rows, copies = inputs(True), inputs(True)
    found, wanted = layer(rows), looped(layer, copies)
    generator = torch.Generator().manual_seed(4)
    ups = {name: torch.randn(out.shape, generator=generator) for name, out in found.items()}
    for name in COUNTS:
        torch.testing.assert_close(found[name], wanted[name])
    totals = [sum((out[name] * ups[name]).sum() for name in COUNTS) for out in (found, wanted)]
    parameters = list(layer.parameters())
    first = torch.autograd.grad(totals[0], [*parameters, *rows.values()])
    second = torch.autograd.grad(totals[1], [*parameters, *copies.values()])
    torch.testing.assert_close(first, second)


def test_only_wanted_types_come_out_and_a_node_without_neighbours_takes_itself():
    layer = made(outputs=("user",), activation=False)
    rows = inputs()
    found = layer(rows)
    assert list(found) == ["user"] and len(layer.relations) == 1
    own = layer.shares("user", rows["user"])[3, -1] * (weight(layer, "left", "user")
                                                       @ rows["user"][3])  # fmt: skip
    torch.testing.assert_close(found["user"][3], own)


def test_proximity_of_all_pairs(monkeypatch):
    relations = decompose(BASE, 2, tuple(COUNTS), 5)[-1]  # with weights below 1
    layer, rows = made(relations), inputs()
    drawn = []

    def fixed(count, size, device=None):
        drawn.append(torch.arange(size[0]) * 7 % count)
        return drawn[-1]

    monkeypatch.setattr(torch, "randint", fixed)
    found = layer.proximity(layer.projected(rows), None, negatives=2)
    losses = []
    for number, relation in enumerate(layer.relations):
        row, col = relation.matrix.nonzero()

        def mean_score(i, j, number=number):
            return sum(score(layer, number, rows, i, j, head) for head in range(2)) / 2

        near = [relation.matrix[[i]].toarray()[0, j] * functional.logsigmoid(mean_score(i, j))
                for i, j in zip(row, col)]  # fmt: skip
        far = [functional.logsigmoid(-mean_score(int(i), int(j)))
               for i, j in zip(drawn[2 * number], drawn[2 * number + 1])]  # fmt: skip
        assert len(far) == 2 * len(near)
        losses.append(-(sum(near) / len(near) + sum(far) / len(far)) / 2)
    torch.testing.assert_close(found, sum(losses) / len(losses), check_dtype=False)


def test_drawn_pairs_are_right_on_average():
    relations = decompose(BASE, 2, tuple(COUNTS), 5)[-1]
    layer, projected = made(relations), made(relations).projected(inputs())
    torch.manual_seed(0)
    with torch.no_grad():
        whole = torch.stack([layer.proximity(projected, None) for _ in range(300)]).mean()
        some = torch.stack([layer.proximity(projected, 1) for _ in range(3000)]).mean()
    torch.testing.assert_close(some, whole, rtol=0, atol=0.03)


def test_edge_weights_are_shares_times_attention():
    layer, rows = made(), inputs()
    found = layer.edge_weights(rows)
    for number, relation in enumerate(layer.relations):
        dense = torch.zeros(relation.matrix.shape)
        row, col = relation.matrix.nonzero()
        dense[row, col] = found[number]
        place = [r for r in layer.relations if r.head == relation.head].index(relation)
        shares = layer.shares(relation.head, rows[relation.head])[:, place]
        some = torch.from_numpy(np.diff(relation.matrix.indptr) > 0)
        torch.testing.assert_close(dense.sum(1)[some], shares.detach()[some])
    first = math.exp(score(layer, 0, rows, 0, 0, 0)), math.exp(score(layer, 0, rows, 0, 0, 1))
    other = math.exp(score(layer, 0, rows, 0, 1, 0)), math.exp(score(layer, 0, rows, 0, 1, 1))
    attention = sum(a / (a + b) for a, b in zip(first, other)) / 2
    assert float(found[0][0]) == pytest.approx(
        float(layer.shares("user", rows["user"])[0, 0]) * attention, rel=1e-5
    )


def test_layers_are_stacked_side_by_side():
    torch.manual_seed(5)
    stack = LATTELayers(BASE, COUNTS, ("user",), 3, 4, num_layers=2, heads=2, top=5)
    rows = inputs()
    first, second = stack.layers
    middle = first(rows)
    wanted = torch.cat([middle["user"], second(middle)["user"]], 1)
    torch.testing.assert_close(stack(rows)["user"], wanted)
    assert {relation.head for relation in second.relations} == {"user"}
    shares = stack.relation_shares(rows, "user")
    assert list(shares[0]) == ["buys (item)", "self"]
    assert list(shares[1]) == ["buys > rev buys (user)", "buys > of (brand)", "self"]
    for layer in shares:
        torch.testing.assert_close(sum(layer.values()), torch.ones(4))
    torch.manual_seed(1)
    found, total = stack.with_proximity(rows, None)
    torch.testing.assert_close(found["user"], wanted)
    torch.manual_seed(1)
    expected = first.proximity(first.projected(rows)) + second.proximity(second.projected(middle))
    torch.testing.assert_close(total, expected)
    assert stack.with_proximity(rows, None, 0)[1] == 0


def test_dropout_is_of_attention_in_training_only():
    layer, rows = made(dropout=0.5), inputs()
    torch.manual_seed(1)
    assert not torch.equal(layer(rows)["user"], layer(rows)["user"])
    layer.eval()
    torch.testing.assert_close(layer(rows)["user"], looped(layer, rows)["user"])


def test_heads_share_the_width():
    with pytest.raises(ValueError, match="a width that 3 heads share, got 4"):
        MetaRelationAttention(BASE, COUNTS, ("user",), 3, 4, heads=3)


def test_only_layers_of_one_width_start_as_identity():
    with pytest.raises(ValueError, match="expected one width, got 3 and 4"):
        LATTELayers(BASE, COUNTS, ("user",), 3, 4, num_layers=1).start_as_identity()
    stack = LATTELayers(BASE, COUNTS, ("user",), 4, 4, num_layers=2)
    stack.start_as_identity()
    for layer in stack.layers:
        for linear in (*layer.left.values(), *layer.right.values()):
            assert torch.equal(linear.weight, torch.eye(4))
