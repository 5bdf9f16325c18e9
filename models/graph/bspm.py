"""Blurring and sharpening of the graph's signals, without training.

Train it: ``recsys train --config configs/graph/bspm.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_fitted import FittedModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.spectrum import ItemFilter

_ORDER = {"euler": 1, "rk4": 4}


class BSPM(FittedModel):
    """Histories are blurred over the graph, then sharpened: two differential equations.

    With P and the ideal filter of `recsys.graph.spectrum.ItemFilter`: blurring solves
    ``dy/dt = y P - y`` from the history; sharpening solves ``dy/dt = -y P`` from what is blurred.
    What the ideal filter leaves of the history, times ``ideal_weight``, is added before sharpening
    (``early``) or behind it (``late``).

    Args:
        config: Times, steps and weights.
        graph: The training pairs.

    Source:
        Choi et al., "Blurring-Sharpening Process Models for Collaborative Filtering", SIGIR 2023.
        Both equations are linear, so a step of any Runge-Kutta method of order
        n with n stages is ``sum_(m <= n) (h A)^m / m!``. Differs: the ideal filter is applied, not
        solved for (the same with their one Euler step). The defaults are those of their code for
        Gowalla. For Yelp2018: ``solver: euler, sharpen_time: 1.2, average_points: true,
        ideal_rank: 384, ideal_weight: 0.3``; for Amazon-Book: ``sharpen_steps: 2, sharpen_time:
        2.2, ideal_rank: 0``.

    Example:
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = BSPM(BSPM.Config(ideal_rank=0, solver="euler", sharpen_time=1.0), graph)
        >>> model.fit(lambda line: None)
        >>> blurred = torch.tensor([0.125**0.5, 0.75])  # P = [[.5, .354], [.354, .75]]
        >>> sharp = blurred - torch.tensor([[0.5, 0.125**0.5], [0.125**0.5, 0.75]]) @ blurred
        >>> torch.allclose(model.scores(torch.tensor([1]))[0], sharp)
        True

    Stability: caller
    """

    class Config(FittedModel.Config):
        """Options of `BSPM`."""

        ideal_rank: int = Field(default=448, ge=0)
        """Eigenvectors of the ideal filter; 0 leaves it out."""
        ideal_weight: float = Field(default=0.2, ge=0)
        """Its weight beside blurring (beta of the paper)."""
        blur_time: float = Field(default=1.0, gt=0)
        """How long is blurred; 1 in one step is one product with P."""
        blur_steps: int = Field(default=1, ge=1)
        """Steps of the Euler method for blurring."""
        sharpen_time: float = Field(default=2.5, ge=0)
        """How long is sharpened; 0 leaves it out."""
        sharpen_steps: int = Field(default=1, ge=1)
        """Steps of the solver for sharpening."""
        solver: Literal["euler", "rk4"] = "rk4"
        """How sharpening is solved: 1 or 4 products with P a step."""
        merge: Literal["early", "late"] = "early"
        """Where the ideal filter comes in: before sharpening or behind it."""
        average_points: bool = False
        """Scores are the mean over all steps of both processes, not the last."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.filter = ItemFilter(graph.num_items)

    def fit(self, say: Callable[[str], None]) -> None:
        """Computes the eigenvectors."""
        self.filter.assign(self.graph.matrix(), self.config.ideal_rank, self.seed, say)

    def scores_of(self, history: csr_array) -> Tensor:
        """See `recsys.cf.FittedModel`."""
        return self.filter.respond(history, self._process)

    def _process(self, y: Tensor, ideal: Tensor) -> Tensor:
        """Both processes, for (I, N) columns of histories."""
        config, smooth = self.config, self.filter.smooth
        ideal = config.ideal_weight * ideal
        points = _solve(
            lambda x: smooth(x) - x, y, config.blur_time, config.blur_steps, _ORDER["euler"]
        )
        if config.sharpen_time > 0:
            start = points[-1] + ideal if config.merge == "early" else points[-1]
            points += _solve(
                lambda x: -smooth(x), start, config.sharpen_time, config.sharpen_steps,
                _ORDER[config.solver],
            )  # fmt: skip
        last = torch.stack(points).mean(0) if config.average_points else points[-1]
        merged = config.merge == "early" and config.sharpen_time > 0
        return last if merged else last + ideal


def _solve(
    slope: Callable[[Tensor], Tensor], y: Tensor, time: float, steps: int, order: int
) -> list[Tensor]:
    """The states after each step of ``dy/dt = slope(y)``, which is linear."""
    points, step = [], time / steps
    for _ in range(steps):
        found = y
        for term in range(order, 0, -1):  # y + h A (y + h/2 A (y + h/3 A (...)))
            found = y + (step / term) * slope(found)
        y = found
        points.append(y)
    return points
