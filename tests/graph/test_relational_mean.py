"""Means over triples against one vector for every triple."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.graph.relational_mean import RelationalMean


def by_hand(head, relation, tail, x, vectors, kept=None):
    out = torch.zeros_like(x)
    for node in range(len(x)):
        here = head == node if kept is None else (head == node) & kept
        if here.any():
            out[node] = (vectors[relation[here]] * x[tail[here]]).mean(0)
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 30), st.integers(0, 99))
def test_values_and_gradients(nodes, relations, triples, seed):
    """Also of triples that repeat."""
    generator = torch.Generator().manual_seed(seed)
    head, tail = (torch.randint(nodes, (triples,), generator=generator) for _ in range(2))
    relation = torch.randint(relations, (triples,), generator=generator)
    x = torch.randn(nodes, 3, generator=generator, requires_grad=True)
    vectors = torch.randn(relations, 3, generator=generator, requires_grad=True)
    found = RelationalMean.of(head, relation, tail, nodes)(x, vectors)
    wanted = by_hand(head, relation, tail, x, vectors)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(nodes, 3, generator=generator)
    mine = torch.autograd.grad((found * weight).sum(), (x, vectors))
    theirs = torch.autograd.grad((wanted * weight).sum(), (x, vectors))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_is_left_of_triples_has_a_mean_of_its_own():
    """Triples into node 0 from 1 to 4: the mean is of those that were kept."""
    head, tail, x = torch.zeros(4, dtype=torch.int64), torch.arange(1, 5), 2.0 ** torch.arange(5)
    mean = RelationalMean.of(head, torch.zeros_like(head), tail, 5)
    generator, seen, shares = torch.Generator().manual_seed(0), set(), []
    means = {
        round(sum(2.0**n for n in range(1, 5) if bits >> n & 1) / (bits.bit_count() or 1), 3): bits
        for bits in range(0, 32, 2)
    }
    for _ in range(400):
        value = round(float(mean.drop_edges(0.4, generator)(x[:, None], torch.ones(1, 1))[0]), 3)
        seen.add(means[value])
        shares.append(means[value].bit_count() / 4)
    assert len(seen) == 16, "every set of triples occurs"
    assert abs(sum(shares) / 400 - 0.6) < 0.05
