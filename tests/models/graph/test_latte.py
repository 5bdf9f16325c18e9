"""LATTE for recommendation; its layers: tests/graph/test_meta_relation_attention.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.meta_relations import base_relations
from recsys.models.graph.latte import LATTE
from recsys.testing.cf import CFModelConformance, tiny_interactions, tiny_knowledge
from recsys.types import PairBatch


class TestSuite(CFModelConformance):
    model = LATTE
    config = LATTE.Config(embedding_dim=8, top=5, proximity_pairs=32)


class TestSuiteWithHeads(CFModelConformance):
    model = LATTE
    config = LATTE.Config(
        embedding_dim=8, heads=2, num_layers=1, activation="relu", proximity_pairs=None
    )


def made(**options) -> LATTE:
    graph = InteractionGraph.of(tiny_interactions(), tiny_knowledge())
    model = LATTE(LATTE.Config(embedding_dim=6, top=4, **options), graph)
    model.reset_parameters(3)
    return model.eval()


def test_its_relations_are_those_of_the_graph_in_both_directions():
    model = made()
    graph, known = model.graph, tiny_knowledge()
    items, first = known.num_items, known.relation != 2
    edges = {
        ("user", "interact", "item"): (graph.user.numpy(), graph.item.numpy()),
        ("item", "in", "entity"): (known.head[known.relation == 0],
                                   known.tail[known.relation == 0] - items),
        ("item", "by", "entity"): (known.head[known.relation == 1],
                                   known.tail[known.relation == 1] - items),
        ("entity", "near", "entity"): (known.head[~first] - items, known.tail[~first] - items),
    }  # fmt: skip
    wanted = {(r.head, r.name.replace("rev", "inverse"), r.tail): r.matrix.toarray()
              for r in base_relations(model.counts, edges)}  # fmt: skip
    relations = model.layers.first.relations
    assert {(r.head, r.name, r.tail) for r in relations} == set(wanted)
    for relation in relations:
        key = relation.head, relation.name, relation.tail
        assert (relation.matrix.toarray() == wanted[key]).all(), key


def test_vectors_are_the_row_and_the_layers_and_the_loss_is_bpr_with_proximity():
    model = made(l2=0.3, proximity=0.7, proximity_pairs=None)
    rows = model.node_rows()
    users, items, entities = rows.split([30, 20, 21])
    typed = {"user": users, "item": items, "entity": entities}
    layers = model.layers(typed)
    wanted = torch.cat([torch.cat([typed[kind], layers[kind]], 1) for kind in ("user", "item")])
    torch.testing.assert_close(model.encode(), wanted)
    assert wanted.shape == (50, 18)
    batch = PairBatch(torch.tensor([0, 4]), torch.tensor([3, 1]), torch.tensor([[2, 5], [0, 9]]))
    torch.manual_seed(2)
    found = model.loss(batch)
    torch.manual_seed(2)
    near = model.layers.with_proximity(typed, None)[1]
    scores = wanted[:30] @ wanted[30:].T
    gaps = scores[[0, 0, 4, 4], [2, 5, 0, 9]] - scores[[0, 0, 4, 4], [3, 3, 1, 1]]
    used = torch.cat([rows[[0, 4]], rows[[33, 31]], rows[[32, 35, 30, 39]]])
    expected = functional.softplus(gaps).mean() + 0.3 * used.square().sum() / 4 + 0.7 * near
    torch.testing.assert_close(found, expected)
    without = made(l2=0.3, proximity=0.0)
    torch.testing.assert_close(without.loss(batch), expected - 0.7 * near)


def test_an_explanation_is_shares_times_attention_along_paths():
    model = made()
    weights, graph = model.edge_weights(), model.knowledge
    triples = {triple: float(weight) for triple, weight in zip(graph.triples(), weights)}
    user = 2
    seen = model.graph.item[model.graph.user == user].tolist()
    item = next(i for i in range(20) if i not in seen)
    found = model.explain(item, model.graph.matrix()[[user]], user)
    assert found.score is None and found.reasons
    names = graph.relations
    for reason in found.reasons:
        nodes = [node.id + (0 if node.kind == "user" else 30) for node in reason.path]
        ends = [*nodes, item + 30]
        product = 1.0
        for head, name, tail in zip(ends, reason.relations, ends[1:]):
            product *= triples[head, names.index(name), tail]
        assert reason.weight == pytest.approx(product, rel=1e-5)
    with pytest.raises(ConfigError, match="LATTE explains by attention on the edges of a user"):
        model.explain(item, model.graph.matrix()[[user]])
    with pytest.raises(ConfigError, match="LATTE with one layer gives entities no attention"):
        made(num_layers=1).explain(item, model.graph.matrix()[[user]], user)
    one = made(num_layers=1).edge_weights()
    of_entities = graph.head >= 30 + 20
    assert (one[of_entities] == 0).all() and (one[~of_entities] > 0).all()


def test_it_starts_by_passing_rows_on():
    model = made(num_layers=1)
    rows = model.node_rows()
    seen, first = model.graph.item[model.graph.user == 5], model.layers.first
    shares = first.shares("user", rows[:30])[5]
    weights = model.edge_weights()[model.knowledge.head == 5] / shares[0]
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    taken = (weights[:, None] * rows[30 + seen]).sum(0)
    wanted = torch.cat([rows[5], shares[0] * taken + shares[1] * rows[5]])
    torch.testing.assert_close(model.encode()[5], wanted)


def test_shares_of_relations_add_up():
    first, second = made().relation_shares("user")
    assert list(first) == ["interact (item)", "self"]
    assert list(second) == [
        "interact > in or by (entity)", "interact > inverse interact (user)", "self",
    ]  # fmt: skip
    for layer in (first, second):
        torch.testing.assert_close(sum(layer.values()), torch.ones(30))


def test_what_it_cannot_be_built_from():
    with pytest.raises(ConfigError, match="a divisor of embedding_dim=6, got 4"):
        made(heads=4)
    with pytest.raises(ConfigError, match="learns from a knowledge graph"):
        LATTE(LATTE.Config(), InteractionGraph.of(tiny_interactions()))
