import numpy as np
import pytest
import torch

from recsys.errors import ConfigError, DataError
from recsys.graph.bundle_assembly import assemble
from recsys.graph.bundle_graphs import BundleGraphs, bundles_to_pyg
from recsys.graph.interaction_graph import InteractionGraph


def data(user_item=([1, 2], [7, 9])):
    return assemble(
        {"train": ([1, 2], ["a", "b"]), "test": ([1], ["b"])},
        (["a", "a", "b", "b"], [7, 8, 8, 9]), user_item,
    )  # fmt: skip


def test_products_are_those_of_dense_matrices():
    graphs = BundleGraphs.of(data())
    content = torch.tensor([[1.0, 1, 0], [0, 1, 1]])
    alone = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    rows = torch.tensor([[1.0, 5], [2, 6], [4, 7]])
    torch.testing.assert_close(graphs.to_bundles() @ rows, content @ rows / 2)
    torch.testing.assert_close(graphs.to_users("none") @ rows, alone @ rows)
    whole = torch.zeros(5, 5)
    whole[:2, 2:], whole[2:, :2] = content, content.T
    degrees = whole.sum(1)
    expected = whole / (degrees[:, None] * degrees).sqrt()
    values = torch.arange(10.0).reshape(5, 2)
    torch.testing.assert_close(graphs.square("bundle", "item") @ values, expected @ values)
    with pytest.raises(DataError, match="got item and user"):
        graphs.square("item", "user")


def test_held_out_pairs_are_no_edges():
    graphs = BundleGraphs.of(data())
    assert graphs.user_bundle.tolist() == [[0, 1], [0, 1]]
    found = bundles_to_pyg(data())
    assert found.validate()
    takes = found["user", "takes", "bundle"]
    assert takes.edge_index.tolist() == [[0, 1], [0, 1]]
    assert takes.test_label_index.tolist() == [[0], [1]]
    assert found["item", "rev_contains", "bundle"].edge_index.tolist() == [
        [0, 1, 1, 2],
        [0, 0, 1, 1],
    ]
    assert found["bundle"].ids.tolist() == ["a", "b"]


def test_without_pairs_of_users_and_items():
    found = bundles_to_pyg(data(None))
    assert ("user", "interacts", "item") not in found.edge_types
    assert BundleGraphs.of(data(None)).user_item.shape == (2, 0)
    np.testing.assert_array_equal(found["item"].ids, [7, 8, 9])


def test_a_graph_of_users_and_bundles_has_the_same_edges():
    made = data()
    graph = InteractionGraph.of(made.user_bundle.train, contents=made.contents)
    found, wanted = BundleGraphs.of_graph(graph), BundleGraphs.of(made)
    for name in ("user_bundle", "bundle_item", "user_item"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert (found.num_users, found.num_bundles, found.num_items) == (2, 2, 3)
    with pytest.raises(ConfigError, match="looks into bundles"):
        BundleGraphs.of_graph(InteractionGraph.of(made.user_bundle.train))


def test_overlaps_are_cosines_of_contents():
    ends, cosines = BundleGraphs.of(data()).overlaps()
    found = torch.zeros(2, 2).index_put((ends[0], ends[1]), cosines)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    apart = assemble({"train": ([1, 2], ["a", "b"])}, (["a", "b"], [7, 8]))
    assert BundleGraphs.of(apart).overlaps()[0].tolist() == [[0, 1], [0, 1]], "no zeros"
