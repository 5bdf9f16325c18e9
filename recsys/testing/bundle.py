"""What every recommender of bundles has to do, as one suite to inherit.

That is what `recsys.testing.cf` asks of any filter, and that it looks into bundles if it says so.

Example::

    class TestCrossCBR(BundleModelConformance):
        model = CrossCBR
        config = CrossCBR.Config(embedding_dim=8)

pytest collects the inherited tests with the class. A test beside it pins the equations.

Stability: testing
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.cf import EmbeddingModel
from recsys.errors import ConfigError, DataError
from recsys.graph.bundles import BundleContents, Bundles
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names
from recsys.testing.cf import CFModelConformance, tiny_contents, tiny_interactions

USERS, BUNDLES, ITEMS = 3, 4, 5
"""Of `small_bundles`."""


def small_bundles(user_item: bool = True) -> InteractionGraph:
    """Three users, four bundles, five items, small enough for dense matrices.

    Nobody took the last bundle; the last item is in no bundle; the last user took no item.

    Args:
        user_item: Whether it is known who took which item.
    """
    taken = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    names = Names(range(ITEMS))
    bundles = Bundles(
        Names(range(BUNDLES)), names, np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 3, 2])
    )
    alone = Interactions(Names(range(USERS)), names, np.array([0, 0, 1]), np.array([0, 4, 2]))
    contents = BundleContents(bundles, alone if user_item else None)
    return InteractionGraph(USERS, BUNDLES, taken[0], taken[1], contents=contents)


def dense_matrices(graph: InteractionGraph) -> dict[str, Tensor]:
    """The pairs of a graph of bundles as matrices of 0 and 1: ``ub``, ``ui``, ``bi``.

    Args:
        graph: A small one.
    """
    contents = graph.contents
    assert contents is not None
    found = {"ub": torch.from_numpy(graph.matrix().toarray())}
    found["bi"] = torch.zeros(graph.num_items, contents.bundles.num_items)
    found["bi"][contents.bundles.bundle, contents.bundles.item] = 1
    found["ui"] = torch.zeros(graph.num_users, contents.bundles.num_items)
    if contents.user_item is not None:
        found["ui"][contents.user_item.user, contents.user_item.item] = 1
    return found


def squared(matrix: Tensor) -> Tensor:
    """``D^-1/2 A D^-1/2`` of both kinds of nodes, without self-loops.

    Args:
        matrix: Pairs of 0 and 1.
    """
    rows, columns = matrix.shape
    whole = torch.zeros(rows + columns, rows + columns)
    whole[:rows, rows:], whole[rows:, :rows] = matrix, matrix.T
    root = whole.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * whole * root


def mean_of(matrix: Tensor) -> Tensor:
    """Rows that sum to 1, or to 0 where they are empty.

    Args:
        matrix: Of 0 and 1.
    """
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)


class BundleModelConformance(CFModelConformance):
    """Inherit, name the model and a small config, and run pytest."""

    looks_inside: ClassVar[bool] = True
    """Whether bundles that nobody took are ranked by their contents."""
    cold_rank: ClassVar[float] = 0.6
    """What they must reach: 0.5 is chance."""
    cold_config: ClassVar[dict[str, Any]] = {}
    """What that is measured with, beside ``config``."""

    def test_scores_are_products_of_vectors_without_noise(self) -> None:
        """So that an index of vectors ranks alike; also of a bundle that nobody took."""
        made = cast(EmbeddingModel, self.build())
        users, bundles = (part.clone() for part in made.vectors())
        assert users.isfinite().all() and bundles.isfinite().all()
        made.train()
        made.eval()
        torch.testing.assert_close(made.vectors()[0], users)
        self.close(self.scores(made), users @ bundles.T)

    def test_bundles_that_nobody_took_are_known_by_their_contents(self) -> None:
        """Users want those of their own group; with the contents of others it is chance."""
        assert cast(EmbeddingModel, self.build()).knows_unseen_items == self.looks_inside
        if not self.looks_inside:
            pytest.skip("it does not look into bundles")
        assert self.rank_of_cold_bundles() > self.cold_rank

    def rank_of_cold_bundles(self) -> float:
        """Share of pairs of a user and two cold bundles in which that of the own group wins.

        A fifth of the bundles are taken out of training.
        """
        train = tiny_interactions()
        cold = np.arange(train.num_items) % 5 == 0
        made = cast(
            EmbeddingModel, self.build(train=train.take(~cold[train.item]), **self.cold_config)
        )
        self.train_some(made, 30)
        scores = self.scores(made)[:-1, torch.from_numpy(cold)]
        users, numbers = np.arange(train.num_users - 1), np.flatnonzero(cold)
        own = torch.from_numpy(users[:, None] % 3 == numbers % 3)
        wins = [(s[o][:, None] > s[~o]).float().mean() for s, o in zip(scores, own) if o.any()]
        return float(torch.stack(wins).mean())

    def test_contents_are_needed_and_must_be_of_these_bundles(self) -> None:
        """Else the error says what to do."""
        train, contents = tiny_interactions(), tiny_contents()
        with pytest.raises(ConfigError, match=r"looks into bundles.*planted_bundles"):
            cast(Any, self.model)(self.config, InteractionGraph.of(train))
        with pytest.raises(DataError, match=r"expected 30 users and 20 bundles.*got 30 and 19"):
            fewer = contents.bundles.take(np.arange(19))
            InteractionGraph.of(train, contents=BundleContents(fewer, contents.user_item))
        if self.looks_inside:
            graph = InteractionGraph.of(
                train, contents=dataclasses.replace(contents, user_item=None)
            )
            with pytest.raises(ConfigError, match="need pairs of users and items"):
                cast(Any, self.model)(self.config, graph)
