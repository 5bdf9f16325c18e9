import numpy as np
from scipy.sparse import csr_array
from torch_geometric.data import Data, HeteroData

from recsys.graph.nodes_pyg import to_pyg
from recsys.testing.nodes import tiny_nodes


def test_one_type_becomes_data():
    nodes = tiny_nodes()
    data = to_pyg(nodes)
    assert isinstance(data, Data) and data.validate()
    np.testing.assert_array_equal(data.edge_index.numpy(), nodes.edges["node", "links", "node"])
    np.testing.assert_array_equal(data.x.to_dense().numpy(), nodes.features["node"].toarray())
    assert data.val_mask.nonzero()[:, 0].tolist() == [12, 13, 14, 15, 16]
    assert data.y.tolist() == nodes.labels.tolist()


def test_several_types_become_hetero_data():
    nodes = tiny_nodes(tags=True)
    data = to_pyg(nodes)
    assert isinstance(data, HeteroData) and data.validate()
    assert data["tag"].num_nodes == 4 and "x" not in data["tag"]
    np.testing.assert_array_equal(
        data["node", "has", "tag"].edge_index.numpy(), nodes.edges["node", "has", "tag"]
    )
    assert data["node"].test_mask.sum() == 7


def test_dense_features_stay_dense():
    nodes = tiny_nodes()
    rows = np.random.default_rng(0).random((24, 2)).astype(np.float32)
    dense = type(nodes)(nodes.target, nodes.counts, nodes.labels, nodes.classes, nodes.splits,
                        nodes.edges, {"node": rows})  # fmt: skip
    np.testing.assert_array_equal(to_pyg(dense).x.numpy(), rows)
    assert isinstance(nodes.features["node"], csr_array)
