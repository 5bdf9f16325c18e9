"""TransR: a relation is a projection of nodes and a translation between them.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.layers.initialization import normal_, xavier_normal_

_EDGES_AT_ONCE = 1 << 17


class TransR(nn.Module):
    """How far a triple is from true, and how much a tail matters to its head.

        distance(h, r, t) = |W_r e_h + e_r - W_r e_t|^2
        attention(h, r, t) = (W_r e_t)^T tanh(W_r e_h + e_r)

    The relations' own vectors are dense weights like their matrices, beside which they are small.

    Args:
        num_relations: R.
        width: D, of the nodes.
        relation_width: H, of the space where relations are translations.

    Source:
        Lin et al., "Learning Entity and Relation Embeddings for Knowledge Graph Completion", AAAI
        2015; the attention of Wang et al., "KGAT", KDD 2019.

    Example:
        >>> layer = TransR(1, 2, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.eye(2)), layer.translation.fill_(1.0)
        >>> rows = torch.tensor([[[0.0, 1.0], [1.0, 3.0]]])  # a head and a tail
        >>> head, tail = layer(rows, torch.tensor([0])).unbind(1)
        >>> layer.distance(head, tail, torch.tensor([0]))  # |(1, 2) - (1, 3)|^2
        tensor([1.], grad_fn=<SumBackward1>)
    """

    def __init__(self, num_relations: int, width: int, relation_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_relations, width, relation_width))
        self.translation = nn.Parameter(torch.empty(num_relations, relation_width))
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Xavier-normal matrices; vectors of about the length of a projected row of length 1.

        Args:
            generator: Of the draws.
        """
        _, width, relation_width = self.weight.shape
        xavier_normal_(self.weight, width, relation_width, generator)
        normal_(self.translation, relation_width**-0.5, generator)

    def forward(self, rows: Tensor, relation: Tensor) -> Tensor:
        """``W_r e``, one product for each relation that occurs.

        Args:
            rows: Nodes of every triple, (B, K, D).
            relation: Of every triple, (B,) int64.

        Returns:
            (B, K, H).
        """
        size, nodes, width = rows.shape
        order = relation.argsort(stable=True)
        counts = torch.bincount(relation, minlength=len(self.weight)).tolist()
        parts = zip(rows.index_select(0, order).split(counts), self.weight.unbind(0), counts)
        found = [part.reshape(-1, width) @ weight for part, weight, count in parts if count]
        if not found:
            return rows.new_zeros(size, nodes, self.weight.shape[2])
        sorted_ = torch.cat(found).view(size, nodes, -1)
        return sorted_.index_select(0, order.argsort())

    def distance(self, head: Tensor, tail: Tensor, relation: Tensor) -> Tensor:
        """How far triples are from true.

        Args:
            head: Projected, (B, H).
            tail: Projected, (B, H).
            relation: (B,) int64.

        Returns:
            (B,).
        """
        return (head + self.translation[relation] - tail).square().sum(1)

    def attention(self, rows: Tensor, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores of edges before the softmax, without gradient; a part of them at a time.

        Args:
            rows: Of all nodes, (N, D).
            head: Of every edge, (E,) int64.
            relation: Of every edge, (E,) int64.
            tail: Of every edge, (E,) int64.

        Returns:
            (E,).
        """
        scores = rows.new_empty(len(head))
        order = relation.argsort(stable=True)
        counts = torch.bincount(relation, minlength=len(self.weight)).tolist()
        with torch.no_grad():
            weights = zip(self.weight, self.translation)
            for places, (weight, translation) in zip(order.split(counts), weights):
                for part in places.split(_EDGES_AT_ONCE):
                    around = rows.index_select(0, head[part]) @ weight + translation
                    there = rows.index_select(0, tail[part]) @ weight
                    scores[part] = (there * around.tanh()).sum(1)
        return scores
