"""A model whose scores are written down, and interactions from lists of pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from recsys.cf import CFModel
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, Names


class FixedScores(CFModel):
    """Gives rows of one matrix."""

    class Config(CFModel.Config):
        """No options."""

    matrix: Tensor

    def __init__(self, graph: InteractionGraph, matrix: Tensor) -> None:
        super().__init__(self.Config(), graph)
        self.register_buffer("matrix", matrix)
        self.modes: list[bool] = []

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        self.modes.append(self.training)
        return self.matrix[users]


def interactions(pairs: Iterable[tuple[int, int]], num_users: int, num_items: int) -> Interactions:
    """Pairs of numbers; ids are ``u0``, ... and ``i0``, ..."""
    ordered = np.array(sorted(set(pairs)), dtype=np.int64).reshape(-1, 2)
    return Interactions(
        Names([f"u{number}" for number in range(num_users)]),
        Names([f"i{number}" for number in range(num_items)]),
        ordered[:, 0],
        ordered[:, 1],
    )


def example(
    num_users: int = 23, num_items: int = 40
) -> tuple[FixedScores, Interactions, Interactions]:
    """A model with random scores that tie now and then, what was seen, what is relevant."""
    random = np.random.default_rng(0)
    drawn = random.random((num_users, num_items))
    drawn[5] = 0.5  # nothing seen, nothing relevant
    drawn[6] = np.where(drawn[6] < 0.3, 0.5, drawn[6])  # nothing seen
    seen = interactions(zip(*np.nonzero(drawn < 0.3)), num_users, num_items)
    relevant = interactions(zip(*np.nonzero(drawn > 0.85)), num_users, num_items)
    matrix = torch.from_numpy(random.integers(0, 60, drawn.shape)).float()
    return FixedScores(InteractionGraph.of(seen), matrix), seen, relevant


def on_a_rank() -> tuple[dict[str, float], list[list[int]], dict[str, int]]:
    """What a rank of several gets."""
    found = evaluate_ranking(*example(), RankingOptions(ks=(3, 7), bootstrap_samples=0))
    return found.metrics, found.lists.tolist(), found.counts
