"""What a collaborative filter is built from: the training pairs as a bipartite graph.

Stability: caller
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.errors import DataError
from recsys.graph.bundles import BundleContents
from recsys.graph.concepts import Descriptions
from recsys.graph.interactions import Interactions
from recsys.graph.item_features import ItemFeatures
from recsys.graph.knowledge import KnowledgeGraph
from recsys.schema import OOV_INDEX, Categorical, Label, Schema

FIRST_INDEX = OOV_INDEX + 1
"""Row of number 0 in the tables of users and items; PAD and OOV come before it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class InteractionGraph:
    """Users and items as nodes, training pairs as edges, with what is known about the items.

    Nodes are numbered users first: item i is node ``num_users + i``. Where bundles are recommended
    they are the items here, and ``contents`` says what is in them.

    Args:
        num_users: U, also those without an edge.
        num_items: I, also those without an edge.
        user: User of every edge, rising.
        item: Its item, rising within a user.
        weight: Of every edge, or None for all 1.
        knowledge: What is known about items, or None.
        contents: What is in the items, which are bundles, or None.
        descriptions: Texts and concepts of users and items, or None.
        features: What is known of the items beside the pairs, or None.

    Shape:
        - user, item: (E,) int64
        - weight: (E,) float32

    Raises:
        DataError: There is no edge, or the contents, descriptions or features are of other users
            or items.

    Example:
        >>> graph = InteractionGraph(2, 3, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]))
        >>> graph.schema.num_embeddings()
        {'user': 4, 'item': 5}
        >>> graph.item_degrees().tolist()
        [1, 0, 2]
    """

    num_users: int
    num_items: int
    user: Tensor
    item: Tensor
    weight: Tensor | None = None
    knowledge: KnowledgeGraph | None = None
    contents: BundleContents | None = None
    descriptions: Descriptions | None = None
    features: ItemFeatures | None = None

    def __post_init__(self) -> None:
        if len(self.user) == 0:
            raise DataError("the graph has no edge: expected at least one training interaction.")
        if self.descriptions is not None:
            found = len(self.descriptions.user_texts), len(self.descriptions.item_texts)
            if found != (self.num_users, self.num_items):
                raise DataError(
                    f"descriptions: expected those of {self.num_users:,} users and "
                    f"{self.num_items:,} items, got {found[0]:,} and {found[1]:,}."
                )
        if self.features is not None and self.features.num_items != self.num_items:
            raise DataError(
                f"features: expected those of {self.num_items:,} items, as in the training pairs, "
                f"got {self.features.num_items:,}."
            )
        if self.contents is not None:
            alone = self.contents.user_item
            users = self.num_users if alone is None else alone.num_users
            found = users, self.contents.bundles.num_bundles
            if found != (self.num_users, self.num_items):
                raise DataError(
                    f"contents: expected {self.num_users:,} users and {self.num_items:,} bundles, "
                    f"as in the training pairs, got {found[0]:,} and {found[1]:,}."
                )

    @classmethod
    def of(
        cls,
        train: Interactions,
        knowledge: KnowledgeGraph | None = None,
        weighted: bool = False,
        contents: BundleContents | None = None,
        descriptions: Descriptions | None = None,
        features: ItemFeatures | None = None,
    ) -> InteractionGraph:
        """The graph of the training interactions.

        Args:
            train: Pairs to learn from.
            knowledge: About their items.
            weighted: Whether edges have the weights of the pairs; else all 1.
            contents: Of the items, where those are bundles.
            descriptions: Texts and concepts of users and items.
            features: What is known of items beside the pairs.

        Raises:
            DataError: There is none, weights are asked for and there are none, or the contents,
                descriptions or features are of other users or items.
        """
        weight = None
        if weighted:
            if train.weight is None:
                raise DataError("weighted edges were asked for, and the interactions have none.")
            weight = torch.from_numpy(train.weight.astype(np.float32))
        return cls(
            train.num_users, train.num_items, torch.from_numpy(train.user.astype(np.int64)),
            torch.from_numpy(train.item.astype(np.int64)), weight, knowledge, contents,
            descriptions, features,
        )  # fmt: skip

    @property
    def num_edges(self) -> int:
        """E."""
        return len(self.user)

    @property
    def schema(self) -> Schema:
        """Features ``user`` and ``item`` with their tables' rows, PAD and OOV included."""
        sizes = {"user": self.num_users, "item": self.num_items}
        return Schema(
            features=tuple(
                Categorical(name=name, num_embeddings=size + FIRST_INDEX)
                for name, size in sizes.items()
            ),
            labels=(Label(name="interaction"),),
        )

    def matrix(self) -> csr_array:
        """R: users by items, 1 (or its weight) where there is an edge, (U, I) float32."""
        weight = np.ones(self.num_edges, np.float32) if self.weight is None else self.weight.numpy()
        parts = (weight, self.item.numpy(), self.offsets().numpy())
        return csr_array(parts, shape=(self.num_users, self.num_items))

    def offsets(self) -> Tensor:
        """Where the edges of every user begin, and the end of the last, (U + 1,) int64."""
        counts = torch.bincount(self.user, minlength=self.num_users)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def user_degrees(self) -> Tensor:
        """Items of every user, (U,) int64."""
        return torch.bincount(self.user, minlength=self.num_users)

    def item_degrees(self) -> Tensor:
        """Users of every item, (I,) int64."""
        return torch.bincount(self.item, minlength=self.num_items)
