"""Bundle data as graphs: three pairs of indices to propagate over, and an object of PyG.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.data import HeteroData

from recsys.errors import ConfigError, DataError
from recsys.graph.bundles import BundleContents, BundleData
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency, Norm

CONTAINS = ("bundle", "contains", "item")
"""Type of the edges from bundles to their items."""
TAKES = ("user", "takes", "bundle")
"""Type of the edges from users to the bundles they took."""
INTERACTS = ("user", "interacts", "item")
"""Type of the edges from users to the items they took by themselves."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BundleGraphs:
    """The training pairs between users, bundles and items, as ends of edges.

    Args:
        num_users: U.
        num_bundles: B.
        num_items: I.
        user_bundle: Training pairs of users and bundles.
        bundle_item: What is in the bundles.
        user_item: Pairs of users and items; without edges where those are not known.

    Shape:
        - user_bundle, bundle_item, user_item: (2, E) int64, by the first end, then the second

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> data = assemble({"train": ([0, 1], [0, 1])}, ([0, 0, 1], [0, 1, 1]))
        >>> graphs = BundleGraphs.of(data)
        >>> graphs.bundle_item.tolist(), graphs.user_item.shape[1]
        ([[0, 0, 1], [0, 1, 1]], 0)
        >>> graphs.to_bundles(norm="row") @ torch.tensor([[2.0], [4.0]])  # means of items
        tensor([[3.],
                [4.]])
    """

    num_users: int
    num_bundles: int
    num_items: int
    user_bundle: Tensor
    bundle_item: Tensor
    user_item: Tensor

    @classmethod
    def of(cls, data: BundleData) -> BundleGraphs:
        """The training pairs of the data.

        Args:
            data: Held-out pairs of it are no edges.
        """
        train = data.user_bundle.train
        return cls._of(data.num_users, np.stack([train.user, train.item]), data.contents)

    @classmethod
    def of_graph(cls, graph: InteractionGraph) -> BundleGraphs:
        """The pairs of a graph whose items are bundles.

        Args:
            graph: With its ``contents``.

        Raises:
            ConfigError: It has none.
        """
        pairs = torch.stack([graph.user, graph.item]).cpu().numpy()
        return cls._of(graph.num_users, pairs, checked_contents(graph))

    @classmethod
    def _of(cls, num_users: int, pairs: np.ndarray, contents: BundleContents) -> BundleGraphs:
        bundles, alone = contents.bundles, contents.user_item
        none = np.zeros((2, 0), np.int64)
        user_item = none if alone is None else np.stack([alone.user, alone.item])
        return cls(
            num_users, bundles.num_bundles, bundles.num_items, _edges(pairs),
            _edges(np.stack([bundles.bundle, bundles.item])), _edges(user_item),
        )  # fmt: skip

    def square(
        self, first: str, second: str, norm: Norm = "sym", self_loops: bool = False
    ) -> Adjacency:
        """Two kinds of nodes as one graph, those of ``first`` first, edges in both directions.

        Args:
            first: ``user`` or ``bundle``.
            second: ``bundle`` or ``item``.
            norm: See `recsys.graph.propagation.Adjacency`.
            self_loops: Whether every node has itself as a neighbour.

        Raises:
            DataError: There are no such pairs.
        """
        edges = {("user", "bundle"): self.user_bundle, ("bundle", "item"): self.bundle_item,
                 ("user", "item"): self.user_item}.get((first, second))  # fmt: skip
        if edges is None:
            raise DataError(
                "expected user and bundle, bundle and item, or user and item, got "
                f"{first} and {second}."
            )
        counts = {"user": self.num_users, "bundle": self.num_bundles, "item": self.num_items}
        row, col = edges[0], edges[1] + counts[first]
        nodes = counts[first] + counts[second]
        return Adjacency.from_edges(
            torch.cat([row, col]), torch.cat([col, row]), nodes, nodes, None, norm, self_loops
        )

    def overlaps(self) -> tuple[Tensor, Tensor]:
        """Pairs of bundles that share items, and the cosine of their contents.

        Returns:
            Both ends of every pair, (2, P) int64, a bundle with itself too; and the cosines, (P,)
            float32, all above 0.
        """
        bundle, item = self.bundle_item.numpy()
        length = np.bincount(bundle, minlength=self.num_bundles).astype(np.float32) ** -0.5
        shape = self.num_bundles, self.num_items
        content = csr_array((length[bundle], (bundle, item)), shape=shape)
        found = (content @ content.T).tocoo()
        ends = torch.from_numpy(np.stack(found.coords).astype(np.int64))
        return ends, torch.from_numpy(found.data.astype(np.float32))

    def to_bundles(self, norm: Norm = "row") -> Adjacency:
        """From rows of items to rows of bundles: with ``row`` the mean of a bundle's items.

        Args:
            norm: See `recsys.graph.propagation.Adjacency`.
        """
        bundle, item = self.bundle_item
        return Adjacency.from_edges(bundle, item, self.num_bundles, self.num_items, None, norm)

    def to_users(self, norm: Norm = "row") -> Adjacency:
        """From rows of items to rows of users: with ``row`` the mean of a user's items.

        Args:
            norm: See `recsys.graph.propagation.Adjacency`.
        """
        user, item = self.user_item
        return Adjacency.from_edges(user, item, self.num_users, self.num_items, None, norm)


def checked_contents(graph: InteractionGraph) -> BundleContents:
    """What is in the bundles that are the items of a graph.

    Args:
        graph: To look into.

    Raises:
        ConfigError: Its items are no bundles.
    """
    if graph.contents is None:
        raise ConfigError(
            "the model looks into bundles, and the items of this data are none. Set `dataset` to a "
            "data set of bundles (planted_bundles, bundle_folder, meal_rec, bundle_rec), or give "
            "InteractionGraph its `contents`."
        )
    return graph.contents


def bundles_to_pyg(data: BundleData) -> HeteroData:
    """Users, bundles and items as nodes; training pairs and contents as edges, and all reversed.

    Edge types are `TAKES`, `CONTAINS` and, where they are known, `INTERACTS`. Nodes have
    ``num_nodes`` and their ids as ``ids`` (numpy). Held-out pairs are no edges: they are
    ``valid_label_index`` and ``test_label_index`` of `TAKES`.

    Args:
        data: Its parts.

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> found = bundles_to_pyg(assemble({"train": ([0], [0])}, ([0, 0], [0, 1])))
        >>> found["bundle", "contains", "item"].edge_index.tolist(), found["item"].num_nodes
        ([[0, 0], [0, 1]], 2)
    """
    made = HeteroData()
    for node, names in (("user", data.users), ("bundle", data.bundles.bundles),
                        ("item", data.items)):  # fmt: skip
        made[node].num_nodes, made[node].ids = len(names), names.values
    graphs = BundleGraphs.of(data)
    edges: Mapping[tuple[str, str, str], Tensor] = {
        TAKES: graphs.user_bundle, CONTAINS: graphs.bundle_item, INTERACTS: graphs.user_item,
    }  # fmt: skip
    for edge_type, pairs in edges.items():
        if edge_type == INTERACTS and data.user_item is None:
            continue
        source, name, goal = edge_type
        made[edge_type].edge_index = pairs
        made[goal, f"rev_{name}", source].edge_index = pairs.flip(0)
    for name, split in data.user_bundle.items():
        if name != "train":
            ends = np.stack([split.user, split.item])
            made[TAKES][f"{name}_label_index"] = _edges(ends)
    return made


def _edges(ends: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(ends, np.int64))
