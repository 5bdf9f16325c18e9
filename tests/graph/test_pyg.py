import numpy as np
import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData

from recsys.errors import DataError
from recsys.graph.cleaning import clean
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits, Names
from recsys.graph.pyg import from_hetero_data, to_edge_index, to_hetero_data
from recsys.graph.splitting import UserSplit, split_interactions
from recsys.graph.triples import knowledge_graph

INTERACTS = ("user", "interacts", "item")


def log(**more):
    users, items = ["ann", "bob", "ann", "eve", "eve"], [3, 5, 5, 3, 9]
    return clean(users, items, **more)[0]


def test_there_and_back():
    first = log(time=[5, 4, 3, 2, 1], weight=[1, 2, 3, 4, 5], kind=["a", "b", "a", "b", "b"])
    data = to_hetero_data(first)
    assert data.validate()
    again = from_hetero_data(data)
    for name in ("user", "item", "time", "weight", "kind"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.kinds == ("a", "b")
    assert again.users.values.tolist() == ["ann", "bob", "eve"]
    assert again.items.numbers([9, 4]).tolist() == [2, -1]


def test_reverse_edges_and_held_out_pairs():
    splits = split_interactions(log(), UserSplit(valid=0, test=0.5))
    data = to_hetero_data(splits)
    edges = data[INTERACTS].edge_index
    assert edges.tolist() == [splits.train.user.tolist(), splits.train.item.tolist()]
    assert data["item", "rev_interacts", "user"].edge_index.tolist() == edges.flip(0).tolist()
    test = data[INTERACTS].test_label_index
    assert test.tolist() == [splits.test.user.tolist(), splits.test.item.tolist()]
    assert "valid_label_index" not in data[INTERACTS]
    assert len(data.edge_types) == 2
    assert data["user"].num_nodes == 3 and data["item"].num_nodes == 3


def test_knowledge_becomes_one_edge_type_for_relation_and_ends():
    first = log()
    triples = ([3, 5, 3, 100], ["by", "by", "like", "in"], [100, 101, 9, 101])
    data = to_hetero_data(InteractionSplits(first), knowledge_graph(first.items, triples))
    assert data["entity"].ids.tolist() == [100, 101]
    # Items 3, 5, 9 are numbers 0, 1, 2; entities 100, 101 are 0, 1 among the entities.
    expected = {
        ("item", "by", "entity"): [[0, 1], [0, 1]],
        ("item", "like", "item"): [[0], [2]],
        ("entity", "in", "entity"): [[0], [1]],
    }
    for (head, relation, tail), edges in expected.items():
        assert data[head, relation, tail].edge_index.tolist() == edges
        assert data[tail, f"rev_{relation}", head].edge_index.tolist() == edges[::-1]
    assert len(data.edge_types) == 2 + 2 * len(expected)
    assert data.validate()
    triples = ([100, 101], ["in", "rev_in"], [101, 100])
    twice = knowledge_graph(first.items, ([*triples[0], 3], [*triples[1], "by"], [*triples[2], 5]))
    with pytest.raises(DataError, match=r"two relations become .*'rev_in'"):
        to_hetero_data(first, twice)
    other = knowledge_graph(Names([3]), ([3], ["by"], [100]))
    with pytest.raises(DataError, match="is about 1 items, the interactions about 3"):
        to_hetero_data(first, other)


def test_from_data_of_others():
    """Without ids numbers are the ids; edges in any order, repeated, as an EdgeIndex."""
    data = HeteroData()
    data["person"].num_nodes, data["film"].x = 3, torch.zeros(4, 2)
    edges = torch.tensor([[2, 0, 2], [1, 3, 1]])
    data["person", "saw", "film"].edge_index = EdgeIndex(edges, sparse_size=(3, 4))
    data["person", "saw", "film"].edge_weight = torch.tensor([1.0, 2.0, 4.0])
    found = from_hetero_data(data, ("person", "saw", "film"))
    assert (found.user.tolist(), found.item.tolist()) == ([0, 2], [3, 1])
    assert found.weight.tolist() == [2.0, 5.0]
    assert found.items.values.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"expected the edge type \('user', 'interacts', 'item'\)"):
        from_hetero_data(data)
    data["person", "saw", "film"].edge_index = torch.tensor([[0], [4]])
    with pytest.raises(DataError, match="expected film from 0 to 3, got 4 to 4"):
        from_hetero_data(data, ("person", "saw", "film"))
    data["person", "saw", "film"].edge_index = torch.empty(2, 0, dtype=torch.long)
    with pytest.raises(DataError, match="has no edges"):
        from_hetero_data(data, ("person", "saw", "film"))


@pytest.mark.parametrize("joint", [False, True])
def test_edge_index_multiplies_like_the_dense_matrix(joint):
    graph = InteractionGraph.of(log())
    edges = to_edge_index(graph, joint)
    edges.validate()  # the declared order and size are true
    dense = torch.from_numpy(graph.matrix().toarray())
    if joint:
        dense = torch.cat(
            [
                torch.cat([torch.zeros(3, 3), dense], 1),
                torch.cat([dense.T, torch.zeros(3, 3)], 1),
            ]
        )
    values = torch.arange(dense.shape[1] * 2.0).reshape(-1, 2)
    torch.testing.assert_close(edges.matmul(values), dense @ values)
    assert edges.sparse_size() == tuple(dense.shape)
    assert edges.is_sorted_by_row
