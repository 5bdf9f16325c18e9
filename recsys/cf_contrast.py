"""What graph filters with a contrastive loss share.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys.cf_graph import LinearModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.losses.contrast import Contrast, PotConfig
from recsys.losses.pot import compactness_directions, drop_budget, worst_compactness
from recsys.types import PairBatch


class ContrastiveModel(LinearModel):
    """A `LinearModel` that also learns to tell two views of a node from those of others.

    A subclass overrides ``loss`` and calls `contrastive_loss` with its two views.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(LinearModel.Config):
        """Options that contrastive models share."""

        contrast_weight: float = Field(default=0.2, ge=0)
        """Of the contrastive loss."""
        temperature: float = Field(default=0.2, gt=0)
        """Of the contrastive loss."""
        contrast_among: Literal["batch", "all"] = "batch"
        """What a node's second view is chosen from: the nodes of the batch, or all of its kind."""
        contrast_dtype: Literal["fp32", "bf16"] = "fp32"
        """Of the products of the contrastive loss. CPUs with AVX-512 BF16 or AMX compute them about
        four times as fast in bf16, which rounds every product to 8 bits."""
        pot: PotConfig | None = None
        """Regularization by node compactness; None leaves it out."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.contrast = Contrast(
            config.temperature, config.pot,
            dtype=torch.bfloat16 if config.contrast_dtype == "bf16" else None,
        )  # fmt: skip
        """How views are compared."""
        self.contrast_weight = config.contrast_weight
        self.among_all = config.contrast_among == "all"

    def contrastive_loss(
        self,
        first: Tensor,
        second: Tensor,
        batch: PairBatch,
        rows: Tensor,
        counted: bool = False,
        with_negatives: bool = False,
    ) -> Tensor:
        """The weighted contrastive loss of the users plus that of the items of a batch.

        Args:
            first: One view of all nodes, users first, (U + I, D).
            second: The other.
            batch: Whose nodes are looked at, each once.
            rows: Of layer 0, (U + I, D), for bounds of POT.
            counted: Whether nodes count as often as they occur in the batch; else once.
            with_negatives: Whether negatives are among the items.
        """
        items = batch.item
        if with_negatives:
            items = torch.cat([items, self.negatives_of(batch).reshape(-1)])
        counts: list[Tensor] = []
        numbers: list[Tensor] = []
        for nodes in (batch.user, items + self.graph.num_users):
            found, often = nodes.unique(return_counts=True)
            numbers.append(found)
            counts.append(often)
        sizes = [len(found) for found in numbers]
        nodes = torch.cat(numbers)
        views = [functional.embedding(nodes, view).split(sizes) for view in (first, second)]
        among: tuple[Tensor | None, ...] = (None, None)
        if self.among_all:
            among = second.split([self.graph.num_users, self.graph.num_items])
        total = rows.new_zeros(())
        for side in range(2):
            one, two = views[0][side], views[1][side]
            total = total + self.contrast(
                one, two, among[side], counts[side] if counted else None,
                self._worst(numbers[side], one, two, rows),
            )  # fmt: skip
        return self.contrast_weight * total

    def _worst(
        self, nodes: Tensor, first: Tensor, second: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Bounds of the compactness of some of the nodes against both views, where they are needed.

        The vector of a node is a sum over its own edges; see `recsys.losses.pot`.
        """
        pot = self.contrast.pot
        if pot is None or pot.mode != "budget" or len(nodes) < 2:
            return None
        chosen = torch.randperm(len(nodes))[: pot.num_nodes].to(nodes.device)
        nodes = nodes[chosen]
        indptr, col = self.adjacency.pattern.indptr, self.adjacency.col
        degrees = indptr[nodes + 1] - indptr[nodes]
        owner = torch.arange(len(nodes), device=nodes.device).repeat_interleave(degrees)
        before = degrees.cumsum(0) - degrees
        edges = torch.arange(len(owner), device=nodes.device) + (indptr[nodes] - before)[owner]
        shares = functional.embedding(col[edges], self.passed_on(rows))
        shares = shares * self.adjacency.values[edges].unsqueeze(1)
        own = functional.embedding(nodes, rows) * self.layer_weight if not self.first_layer else 0
        budgets = drop_budget(degrees, pot.rate)

        def bound(views: Tensor) -> Tensor:
            directions = compactness_directions(views)[chosen]
            parts = (shares * directions[owner]).sum(1)
            base = (own * directions).sum(1)
            return worst_compactness(parts, owner, budgets, base)

        return bound(second), bound(first)
