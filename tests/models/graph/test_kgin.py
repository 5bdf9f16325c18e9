"""KGIN against its equations, written out with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.losses.distance_correlation import distance_correlation
from recsys.models.graph.kgin import KGIN
from recsys.testing.cf import CFModelConformance
from recsys.testing.embedding_model import tiny_graph
from recsys.testing.knowledge import KnowledgeModelConformance
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))


class TestSuite(KnowledgeModelConformance):
    model = KGIN
    config = KGIN.Config(embedding_dim=8, num_layers=2, node_dropout=0.0, message_dropout=0.0)
    learning_rate = 0.02
    cold_rank = 0.62


class TestDropout(CFModelConformance):
    model = KGIN
    config = KGIN.Config(embedding_dim=8, num_layers=2, node_dropout=0.3, message_dropout=0.1)


def graph(triples: int = 7) -> InteractionGraph:
    """Items 0-4, entities 5-6; an item that is a tail, two relations of one pair."""
    head, relation, tail = np.array(
        [[0, 1, 2, 3, 4, 4, 5], [0, 0, 0, 0, 0, 1, 1], [5, 5, 6, 6, 6, 6, 4]]
    )[:, :triples]
    known = KnowledgeGraph(
        Names([f"e{n}" for n in range(7)]), Names(["by", "in"]), 5, head, relation, tail
    )
    pairs = tiny_graph()
    return InteractionGraph(3, 5, pairs.user, pairs.item, knowledge=known)


def model(**options) -> KGIN:
    options = {"node_dropout": 0.0, "message_dropout": 0.0, "init_std": 0.5, **options}
    made = KGIN(KGIN.Config(embedding_dim=6, **options), graph())
    made.reset_parameters(1)
    return made


def vectors(found: KGIN, rows: torch.Tensor) -> torch.Tensor:
    """From the equations of the class: one vector for every triple, one sum for every intent."""
    parts, known = found.intents, found.graph.knowledge
    assert known is not None
    triples = [(h, r, t) for h, r, t in zip(known.head, known.relation, known.tail)]
    triples += [(t, r + 2, h) for h, r, t in triples]
    users, entities = rows[:3], rows[3:]
    matrix = torch.from_numpy(found.graph.matrix().toarray())
    total_users, total_items = users, entities[:5]
    for _ in range(found.config.num_layers):
        around = matrix @ entities[:5] / matrix.sum(1, keepdim=True)
        shares = (users @ parts.latent.T).softmax(1)
        factor = torch.ones_like(users)
        for p in range(found.config.num_intents):
            intent = (parts.mixture[p].softmax(0)[:, None] * parts.relations).sum(0)
            factor = factor + shares[:, p, None] * intent
        means = []
        for entity in range(7):
            messages = [parts.relations[r] * entities[t] for h, r, t in triples if h == entity]
            means.append(torch.stack(messages).mean(0))
        users = functional.normalize(around * factor, dim=1)
        entities = functional.normalize(torch.stack(means), dim=1)
        total_users, total_items = total_users + users, total_items + entities[:5]
    return torch.cat([total_users, total_items])


def test_loss_and_gradients_are_those_of_the_equations():
    found = model(num_layers=2, num_intents=3, l2=0.3, independence=0.7)
    loss = found.loss(BATCH)
    table, *_ = found.embeddings.table_parameters()
    parts = list(found.intents.parameters())
    gradient, *others = torch.autograd.grad(loss, [table, *parts])

    rows = found.node_rows().detach().requires_grad_()
    wanted_vectors = vectors(found, rows)
    torch.testing.assert_close(found.eval().encode(), wanted_vectors)
    scores = wanted_vectors[:3] @ wanted_vectors[3:].T
    differences = scores[[0, 0, 2, 2], [2, 4, 1, 4]] - scores[[0, 0, 2, 2], [1, 1, 3, 3]]
    used = torch.tensor([0, 2, 4, 6, 5, 7, 4, 7])
    wanted = functional.softplus(differences).mean()
    wanted = wanted + 0.3 * wanted_vectors[used].square().sum() / 4
    mixture = found.intents.mixture
    for one, two in ((0, 1), (0, 2), (1, 2)):
        wanted = wanted + 0.7 * distance_correlation(mixture[one], mixture[two])
    torch.testing.assert_close(loss, wanted)
    mine, *theirs = torch.autograd.grad(wanted, [rows, *parts])
    both = torch.cat([gradient[2:5], gradient[7:12], gradient[14:16]])
    torch.testing.assert_close(both, mine, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(others, theirs, rtol=1e-4, atol=1e-6)


def test_independence_makes_intents_different():
    """Trained by it alone, mixtures of relations come to depend less on each other."""
    found = model(num_intents=3, independence=1.0, l2=0.0)
    mixture = found.intents.mixture
    optimizer = torch.optim.SGD([mixture], lr=0.5)
    before = float(found.loss(BATCH).detach())
    for _ in range(20):
        optimizer.zero_grad()
        found.loss(BATCH).backward()
        optimizer.step()
    assert float(found.loss(BATCH).detach()) < before - 0.01


def test_dropout_is_drawn_in_training_alone():
    found = model(node_dropout=0.5, message_dropout=0.1)
    torch.manual_seed(0)
    assert not torch.equal(found.encode(), found.encode())
    whole = vectors(found, found.node_rows().detach())
    torch.testing.assert_close(found.eval().encode(), whole)


def test_message_dropout_takes_entries_of_layers():
    """Of one layer, a quarter is 0 in training; rows have no 0."""
    found = model(num_layers=1, message_dropout=0.25)
    torch.manual_seed(0)
    rows = torch.cat([found.node_rows()[:3], found.node_rows()[3:8]])
    zeros = torch.stack([found.encode() == rows for _ in range(400)]).float().mean()
    assert abs(float(zeros.detach()) - 0.25) < 0.02


def test_a_graph_without_triples_is_refused():
    with pytest.raises(ConfigError, match="has no triple"):
        KGIN(KGIN.Config(), graph(triples=0))
