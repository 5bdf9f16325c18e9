"""Sampled layers against the whole graph, and walks against what can be counted by hand."""

import pytest
import torch

from recsys.errors import ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.neighbors import NeighborSampler, walk_neighbors
from recsys.graph.propagation import Adjacency

# User 2 and item 3 (node 6) have nothing.
GRAPH = InteractionGraph(
    3, 4, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 2])
)  # fmt: skip
ADJ = Adjacency.bipartite(GRAPH)
SEEDS = torch.tensor([1, 0, 2, 5, 0])


def test_neighbours_are_neighbours_in_fixed_shapes():
    sampler = NeighborSampler(ADJ, [4, 3])
    one, two = sampler.neighbors(SEEDS, torch.Generator().manual_seed(0))
    dense = ADJ.to_dense()
    assert one.shape == (5, 4) and two.shape == (5, 4, 3)
    assert one[2].eq(-1).all() and two[2].eq(-1).all()
    for n in (0, 1, 3, 4):
        assert (dense[SEEDS[n], one[n]] > 0).all()
        assert (dense[one[n][:, None], two[n]] > 0).all()


def test_every_edge_is_drawn_equally_often():
    edges = NeighborSampler(ADJ, [1]).edges(
        torch.tensor([0]), 9000, torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(edges[0]).double()
    assert len(counts) == 3
    assert ((counts - 3000) ** 2 / 3000).sum() < 13.8  # 99.9 % of chi2(2)


@pytest.mark.parametrize("norm", ["sym", "row"])
@pytest.mark.parametrize("combine", ["mean", "sum", "last"])
def test_sampled_layers_are_right_on_average(norm, combine):
    adj = Adjacency.bipartite(GRAPH, norm)
    x = torch.rand(7, 2, generator=torch.Generator().manual_seed(1))
    wanted = adj.propagate(x, 2, combine)[SEEDS]
    sampler, generator = NeighborSampler(adj, [3, 2]), torch.Generator().manual_seed(0)
    runs = []
    for _ in range(400):
        sampled = sampler.sample(SEEDS, generator)
        assert torch.equal(sampled.nodes[sampled.position], SEEDS)
        assert len(sampled.nodes.unique()) == len(sampled.nodes)
        runs.append(sampled.propagate(x[sampled.nodes], combine))
    runs = torch.stack(runs)
    error = runs.std(0) / 20
    assert ((runs.mean(0) - wanted).abs() <= 4 * error + 1e-5).all()
    assert torch.equal(runs[:, 1], runs[:, 4])  # the same node twice in the batch


def test_a_node_with_one_neighbour_is_exact_and_has_its_gradient():
    ring = torch.arange(5)
    adj = Adjacency.from_edges(ring, (ring + 1) % 5, 5, 5, torch.arange(1.0, 6.0))
    sampled = NeighborSampler(adj, [2, 1, 3]).sample(torch.tensor([3]))
    assert sampled.nodes.tolist() == [3, 4, 0, 1]
    x = torch.rand(5, 3, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    sampled.propagate(x[sampled.nodes], "sum").square().sum().backward()
    adj.propagate(y, 3, "sum")[3].square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_draws_are_repeated_by_the_generator():
    sampler = NeighborSampler(ADJ, [3, 3])
    one, two = (sampler.neighbors(SEEDS, torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_walks_find_what_is_visited_most():
    # Item 0 shares two users with item 2 and one with item 1; item 3 has nobody.
    nodes, shares = walk_neighbors(
        ADJ, torch.tensor([3, 6]), 3, num_walks=4000, num_steps=1,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert nodes.tolist() == [[5, 4, -1], [-1, -1, -1]]
    # From item 0 to user 0 (items 0 1 2) or 1 (items 0 2): item 2 in 1/6 + 1/4, item 1 in 1/6.
    assert shares[0].tolist() == pytest.approx([5 / 7, 2 / 7, 0], abs=0.03)
    assert shares[1].eq(0).all()
    kept, all_of_it = walk_neighbors(ADJ, torch.tensor([3]), 1, num_walks=500, num_steps=3)
    assert kept.tolist() == [[5]] and all_of_it.tolist() == [[1]]


def test_equally_visited_nodes_come_by_number():
    ring = torch.arange(3)
    adj = Adjacency.from_edges(ring, (ring + 1) % 3, 3, 3)
    nodes, shares = walk_neighbors(adj, torch.tensor([0, 1]), 5, 2, 2, 1)
    assert nodes.tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1]]
    assert shares[:, :2].eq(0.5).all()


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match=r"fan-outs of 1 or more, got \(7, 7\) and \[0\]"):
        NeighborSampler(ADJ, [0])
    with pytest.raises(DataError, match="nodes from 0 to 6, got 7 to 7"):
        NeighborSampler(ADJ, [1]).sample(torch.tensor([7]))
    with pytest.raises(ConfigError, match="hops of 1 or more"):
        walk_neighbors(ADJ, SEEDS, 1, hops=0)
    with pytest.raises(ConfigError, match="mean, sum or last, got 'stack'"):
        NeighborSampler(ADJ, [1]).sample(SEEDS).propagate(torch.ones(9, 1), "stack")
