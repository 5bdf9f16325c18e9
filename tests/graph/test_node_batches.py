import numpy as np
import pytest
import torch

from recsys.errors import CheckpointError, ConfigError
from recsys.graph.neighbors import NeighborSampler, SampledLayers
from recsys.graph.node_batches import NodeLoader, sampled_powers
from recsys.graph.propagation import Adjacency

NODES, LABELS = torch.arange(10, 20), torch.arange(10) % 3
RING = torch.arange(20)


def sampler() -> NeighborSampler:
    row = torch.cat([RING, RING])
    return NeighborSampler(Adjacency.from_edges(row, torch.cat([RING + 1, RING - 1]) % 20, 20, 20),
                           [1, 1])  # fmt: skip


def test_all_nodes_are_one_batch_in_order():
    (batch,) = NodeLoader(NODES, LABELS)
    assert batch.nodes.equal(NODES) and batch.labels.equal(LABELS) and batch.sampled is None
    assert batch.batch_size == 10 and len(NodeLoader(NODES, LABELS)) == 1


def test_an_epoch_has_every_node_once_with_its_label():
    loader = NodeLoader(NODES, LABELS, batch_size=4, seed=3)
    orders = []
    for _ in range(2):
        batches = list(loader)
        assert [batch.batch_size for batch in batches] == [4, 4, 2]
        nodes = torch.cat([batch.nodes for batch in batches])
        assert torch.cat([batch.labels for batch in batches]).equal(LABELS[nodes - 10])
        assert nodes.sort()[0].equal(NODES)
        orders.append(nodes.tolist())
    assert orders[0] != orders[1]


def test_resuming_gives_the_same_batches_with_the_same_neighbours():
    whole = list(NodeLoader(NODES, LABELS, 4, sampler(), seed=5))
    loader = NodeLoader(NODES, LABELS, 4, sampler(), seed=5)
    next(iter(loader))
    other = NodeLoader(NODES, LABELS, 4, sampler(), seed=5)
    other.load_state_dict(loader.state_dict())
    rest = list(other)
    assert other.batches_left() == 3 and len(rest) == 2
    for found, wanted in zip(rest, whole[1:]):
        assert found.nodes.equal(wanted.nodes)
        assert found.sampled.nodes.equal(wanted.sampled.nodes)
    with pytest.raises(CheckpointError, match="batch_size=4, but now batch_size=5"):
        NodeLoader(NODES, LABELS, 5, sampler(), 5).load_state_dict(loader.state_dict())
    with pytest.raises(CheckpointError, match="data="):
        NodeLoader(NODES, LABELS + 1, 4, sampler(), 5).load_state_dict(loader.state_dict())
    with pytest.raises(ConfigError, match="batch_size of 1 or more"):
        NodeLoader(NODES, LABELS, 0)


def test_powers_of_given_operators_by_hand():
    # batch [7, 4, 7] -> nodes 4, 7 first; two steps of made-up operators
    generator = np.random.default_rng(1)
    first, second = generator.random((2, 3)), generator.random((3, 5))
    rows = torch.from_numpy(generator.random((5, 2))).float()
    layers = []
    for matrix in (first, second):
        row, col = (torch.from_numpy(ends) for ends in np.nonzero(matrix))
        values = torch.from_numpy(matrix[matrix != 0]).float()
        layers.append(Adjacency.from_edges(row, col, *matrix.shape, values))
    sampled = SampledLayers(torch.tensor([4, 7, 1, 2, 9]), tuple(layers), torch.tensor([1, 0, 1]))
    found = sampled_powers(sampled, rows)
    a, b = torch.from_numpy(first).float(), torch.from_numpy(second).float()
    wanted = [rows[:2], a @ rows[:3], a @ (b @ rows)]
    assert len(found) == 3
    for power, expected in zip(found, wanted):
        torch.testing.assert_close(power, expected[[1, 0, 1]])
