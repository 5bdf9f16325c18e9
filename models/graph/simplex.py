"""SimpleX: users as a mix of themselves and what they have seen, by a cosine contrastive loss.

Train it: ``recsys train --config configs/graph/simplex.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf_graph import PairModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency
from recsys.losses.cosine_contrastive import cosine_contrastive
from recsys.losses.ranking import batch_scores
from recsys.losses.regularization import l2_regularization
from recsys.types import PairBatch

_USERS_AT_ONCE = 4096


class SimpleX(PairModel):
    """Scores are cosines of items with ``h_u = gamma e_u + (1 - gamma) V p_u``.

    p_u is made of the rows of the items that the user has seen (at most ``max_history``, chosen
    once at random):

        mean            p_u = mean_i e_i
        self_attention  p_u = sum_i softmax_i(q . tanh(W e_i + b)) e_i
        user_attention  p_u = sum_i softmax_i(e_u . tanh(W e_i + b)) e_i
        none            h_u = e_u, matrix factorization with this loss (MF-CCL)

    Loss over a pair and its N negatives: ``(1 - cos+) + w / N sum_n max(0, cos_n - m)``. A step
    looks up the rows of its batch and its histories alone, so tables may be trained by row
    gradients (``embedding.mode: sparse``) and negatives may be shared.

    Args:
        config: Aggregation, margin and weight of negatives.
        graph: The training pairs.

    Source:
        Mao et al., "SimpleX: A Simple and Strong Baseline for Collaborative Filtering", CIKM 2021,
        and the official code. Differs: attention is a softmax over what the user has
        seen, where the code gives padding a share too. Margin and weight are to be tuned: the paper
        has others for every data set.

    Example:
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> users, items = SimpleX(SimpleX.Config(), graph).eval().vectors()
        >>> [round(float(length), 3) for length in users.norm(dim=1)]
        [1.0, 1.0]
    """

    class Config(PairModel.Config):
        """Options of SimpleX."""

        aggregation: Literal["mean", "self_attention", "user_attention", "none"] = "mean"
        """How what a user has seen becomes a vector; ``none`` leaves it out."""
        gamma: float = Field(default=0.5, ge=0, le=1)
        """Share of the user's own row."""
        max_history: int = Field(default=100, ge=1)
        """Items of a user that are looked at."""
        margin: float = Field(default=0.9, ge=-1, le=1)
        """m: negatives with a smaller cosine cost nothing."""
        negative_weight: float = Field(default=150.0, ge=0)
        """w, of the mean over negatives."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """With which probability an entry of a user's vector is 0 in a step."""
        l2: float = Field(default=0.0, ge=0)
        """Weight of the L2 of the rows of a batch."""

    config: Config
    history_offsets: Tensor
    history_items: Tensor

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        offsets, items = _truncated(graph, config.max_history)
        self.register_buffer("history_offsets", offsets, persistent=False)
        self.register_buffer("history_items", items, persistent=False)
        dim = config.embedding_dim
        if config.aggregation != "none":
            self.value = nn.Linear(dim, dim, bias=False)
        if config.aggregation in ("self_attention", "user_attention"):
            self.key = nn.Linear(dim, dim)
        if config.aggregation == "self_attention":
            self.query = nn.Linear(dim, 1, bias=False)

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """What some users have seen, as far as it is looked at.

        Args:
            users: Numbers, (N,) int64.

        Returns:
            Position in ``users`` and number of every item, by position.
        """
        if self.config.aggregation == "none":
            return users[:0], users[:0]
        first = self.history_offsets[users]
        counts = self.history_offsets[users + 1] - first
        position = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        shift = first - (counts.cumsum(0) - counts)
        places = torch.arange(len(position), device=users.device) + shift[position]
        return position, self.history_items[places]

    def mixed(self, users: Tensor, items: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        """Vectors h of some users, (N, D).

        Args:
            users: Their rows, (N, D).
            items: Rows of items, (M, D).
            position: Of a user in ``users``, for everything seen.
            seen: Position in ``items`` of what was.
        """
        kind = self.config.aggregation
        if kind == "none":
            return users
        adj = Adjacency.from_edges(position, seen, len(users), len(items), norm="row")
        if kind != "mean":
            keys = torch.tanh(self.key(items))
            if kind == "self_attention":
                scores = functional.embedding(adj.col, self.query(keys))[:, 0]
            else:
                asked = functional.embedding(adj.row, users)
                scores = (asked * functional.embedding(adj.col, keys)).sum(1)
            adj = adj.reweight(adj.softmax(scores))
        gamma = self.config.gamma
        return gamma * users + (1 - gamma) * self.value(adj @ items)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`. All vectors have length 1."""
        users, items = self.rows().split([self.graph.num_users, self.graph.num_items])
        numbers = torch.arange(len(users), device=users.device).split(_USERS_AT_ONCE)
        blocks = zip(users.split(_USERS_AT_ONCE), numbers)
        mixed = [self.mixed(rows, items, *self.histories(block)) for rows, block in blocks]
        return functional.normalize(torch.cat([*mixed, items]), dim=1)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        config, negatives = self.config, self.negatives_of(batch)
        users, user_at = batch.user.unique(return_inverse=True)
        position, seen = self.histories(users)
        parts = [batch.item, negatives.reshape(-1), seen]
        wanted, at = torch.cat(parts).unique(return_inverse=True)
        item_at, negative_at, seen_at = at.split([len(part) for part in parts])
        negative_at = negative_at.view_as(negatives)
        user_rows, item_rows = self.look_up(users, wanted)
        mixed = functional.embedding(user_at, self.mixed(user_rows, item_rows, position, seen_at))
        mixed = functional.dropout(mixed, config.dropout, self.training)
        items = functional.normalize(item_rows, dim=1)
        vectors = (
            functional.normalize(mixed, dim=1),
            functional.embedding(item_at, items),
            functional.embedding(negative_at, items),
        )
        positive, scores = batch_scores(vectors, batch)
        loss = cosine_contrastive(positive, scores, config.margin, config.negative_weight)
        if config.l2:
            rows = (user_rows[user_at], item_rows[item_at], item_rows[negative_at])
            loss = loss + config.l2 * l2_regularization(rows, batch.batch_size)
        return loss


def _truncated(graph: InteractionGraph, most: int) -> tuple[Tensor, Tensor]:
    """Some items of every user, at random but always the same: offsets (U + 1,), items."""
    draws = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(0))
    order = draws.argsort()
    order = order[graph.user[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - graph.offsets()[graph.user[order]]
    counts = graph.user_degrees().clamp(max=most)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), graph.item[rank < most]
