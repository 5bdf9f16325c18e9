"""Triples: every one once, negatives that no triple has, all of those equally often."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.graph.collaborative_knowledge import CollaborativeKnowledge
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.triple_sampling import TripleLoader, UnknownTails
from recsys.testing.cf import tiny_interactions, tiny_knowledge


def graph() -> CollaborativeKnowledge:
    return CollaborativeKnowledge.of(InteractionGraph.of(tiny_interactions(), tiny_knowledge()))


def knowledge(num_items=2, entities=4, triples=((0, 0, 2), (1, 0, 2), (1, 1, 3))):
    head, relation, tail = np.array(triples, np.int64).reshape(-1, 3).T
    names = Names([f"e{n}" for n in range(entities)])
    return KnowledgeGraph(names, Names(["by", "in"]), num_items, head, relation, tail)


# --------------------------------------------------------------------------------- the graph


def test_edges_are_pairs_and_triples_in_both_directions():
    """Users 0, 1; items 2, 3; entities 4, 5."""
    pairs = InteractionGraph(
        2, 2, torch.tensor([0, 1]), torch.tensor([1, 0]), knowledge=knowledge()
    )
    found = CollaborativeKnowledge.of(pairs)
    assert found.relations == (
        "interact", "by", "in", "inverse interact", "inverse by", "inverse in"
    )  # fmt: skip
    edges = [(0, 0, 3), (1, 0, 2), (2, 1, 4), (3, 1, 4), (3, 2, 5)]
    assert found.triples() == sorted(edges + [(t, r + 3, h) for h, r, t in edges])
    assert (found.num_nodes, len(found)) == (6, 10)
    assert [found.node(n).kind for n in range(6)] == ["user"] * 2 + ["item"] * 2 + ["entity"] * 2
    assert found.node(5).id == 3
    places = found.between(torch.tensor([3, 1]), torch.tensor([2, 5]))
    assert [found.triples()[n] for n in places] == [(1, 0, 2), (3, 2, 5)]


def test_graphs_without_fitting_knowledge_are_refused():
    user = torch.tensor([0])
    with pytest.raises(ConfigError, match="has none"):
        CollaborativeKnowledge.of(InteractionGraph(1, 2, user, user))
    with pytest.raises(DataError, match="is about 2"):
        CollaborativeKnowledge.of(InteractionGraph(1, 3, user, user, knowledge=knowledge()))


# --------------------------------------------------------------------------------- negatives


def test_unknown_tails_are_drawn_uniformly():
    found = graph()
    unknown, generator = UnknownTails(found), torch.Generator().manual_seed(0)
    edge = int((found.relation == 0).nonzero()[3])
    head = int(found.head[edge])
    known = set(found.tail[(found.head == head) & (found.relation == 0)].tolist())
    draws = unknown.draw(torch.full((6000,), edge), generator)
    counts = torch.bincount(draws, minlength=found.num_nodes)
    assert all(counts[node] == 0 for node in known)
    others = counts[[node for node in range(found.num_nodes) if node not in known]].float()
    mean = 6000 / len(others)
    assert ((others - mean).abs() < 5 * mean**0.5).all()


def test_a_head_with_all_nodes_is_refused():
    head, tail = torch.tensor([0, 0]), torch.tensor([0, 1])
    with pytest.raises(DataError, match="node 0 has all 2 nodes as tails of `like`"):
        UnknownTails(CollaborativeKnowledge(1, 1, 2, ("like",), head, head, tail))


# --------------------------------------------------------------------------------- batches


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 4), st.integers(0, 9))
def test_ranks_share_the_triples_out_and_negatives_are_unknown(batch_size, world, seed):
    found = graph()
    parts = [list(TripleLoader(found, batch_size, seed, rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    known, seen = set(found.triples()), []
    for batch in (batch for part in parts for batch in part):
        columns = (batch.head, batch.relation, batch.tail, batch.negative)
        for h, r, t, n in zip(*(column.tolist() for column in columns)):
            seen.append((h, r, t))
            assert (h, r, n) not in known and 0 <= n < found.num_nodes
    assert set(seen) == known and len(seen) < len(known) + world


def test_resuming_gives_the_very_same_triples():
    def lists(batches):
        return [(b.head.tolist(), b.tail.tolist(), b.negative.tolist()) for b in batches]

    loader = TripleLoader(graph(), 50, seed=3)
    first, wanted = lists(loader), lists(loader)
    assert first != wanted
    loader = TripleLoader(graph(), 50, seed=3)
    loader.set_epoch(1)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    resumed = TripleLoader(graph(), 50, seed=3)
    resumed.load_state_dict(state)
    assert lists(resumed) == wanted[1:]
    with pytest.raises(CheckpointError, match="batch_size"):
        TripleLoader(graph(), 51, seed=3).load_state_dict(state)


def test_triples_are_not_in_the_order_of_the_pairs():
    """Loaders of one seed do not draw alike."""
    train = Interactions(Names([0]), Names(range(2)), np.array([0]), np.array([0]))
    loader = TripleLoader(CollaborativeKnowledge.of(InteractionGraph.of(train, knowledge())))
    plain = torch.randperm(loader.total, generator=loader.generator(0))
    assert not torch.equal(loader.order(0), plain)
