"""One layer of LATTE: attention within every meta-relation, then among them.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.graph.meta_relations import MetaRelation
from recsys.graph.products import size
from recsys.graph.propagation import Adjacency

_SLOPE = 0.2


class Projected(NamedTuple):
    """What a layer makes of its input before attention."""

    left: Mapping[str, Tensor]
    """Of the nodes that take, (N, D) by type."""
    right: Mapping[str, Tensor]
    """Of the nodes that give, (N, D) by type."""


class MetaRelationAttention(nn.Module):
    """Every node takes from its neighbours in every meta-relation, and weighs the relations.

        l = W_l h,  r = W_r h                                      by type of node
        e_ij = s LeakyReLU(a_l . l_i + a_r . r_j)                   in relation f, by head
        m_i  = sum_j softmax_j(e_ij) r_j
        b_i  = softmax(W h_i + w)                                   over relations and itself
        out_i = act(sum_f b_if m_if + b_i,self l_i)

    A head is a part of the width; each has its own ``a`` and its own softmax. ``s`` sharpens the
    attention of a relation and starts at 1. A node without a neighbour in a relation takes 0 there.

    Args:
        relations: Of the layer.
        counts: Number of nodes by type, of the types whose vectors are wanted or given.
        outputs: Types whose vectors are wanted.
        in_features: Width of the input.
        out_features: D, a multiple of the heads.
        heads: H.
        dropout: Share of the attention set to zero in training.
        activation: Whether ``act`` is ReLU; else nothing.

    Shape:
        - input: (N, in_features) by type
        - output: (N, D) by type

    Raises:
        ValueError: D is no multiple of the heads.

    Source:
        Tran et al., "LATTE", arXiv 2009.08072, and its code conv.py (LATTEConv).

    Example:
        >>> from recsys.graph.meta_relations import base_relations
        >>> counts = {"paper": 2, "author": 1}
        >>> edges = {("paper", "by", "author"): np.array([[0, 1], [0, 0]])}
        >>> layer = MetaRelationAttention(base_relations(counts, edges), counts, ("author",), 3, 4)
        >>> found = layer({"paper": torch.ones(2, 3), "author": torch.ones(1, 3)})
        >>> {name: tuple(rows.shape) for name, rows in found.items()}
        {'author': (1, 4)}
    """

    def __init__(
        self,
        relations: Sequence[MetaRelation],
        counts: Mapping[str, int],
        outputs: Sequence[str],
        in_features: int,
        out_features: int,
        heads: int = 1,
        dropout: float = 0.0,
        activation: bool = True,
    ) -> None:
        super().__init__()
        if out_features % heads:
            raise ValueError(f"expected a width that {heads} heads share, got {out_features}.")
        self.outputs, self.heads, self.width = tuple(outputs), heads, out_features
        self.dropout, self.activation = dropout, activation
        self.relations = tuple(r for r in relations if r.head in outputs)
        self._operators = [_operator(relation.matrix) for relation in self.relations]
        givers = dict.fromkeys(relation.tail for relation in self.relations)
        self._types = {name: str(number) for number, name in enumerate(counts)}
        self.left = self._linear(self.outputs, in_features, out_features)
        self.right = self._linear(tuple(givers), in_features, out_features)
        of = {name: [n for n, r in enumerate(self.relations) if r.head == name] for name in outputs}
        self._of = of
        self.choice = nn.ModuleDict(
            {self._types[name]: nn.Linear(in_features, len(of[name]) + 1) for name in outputs}
        )
        shape = (len(self.relations), heads, out_features // heads)
        self.attend_left, self.attend_right = (nn.Parameter(torch.empty(shape)) for _ in range(2))
        self.sharpness = nn.Parameter(torch.empty(len(self.relations)))
        self.initialize()

    def _linear(self, types: Sequence[str], width: int, out: int) -> nn.ModuleDict:
        return nn.ModuleDict({self._types[n]: nn.Linear(width, out, bias=False) for n in types})

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Attention vectors Xavier-normal, sharpness 1; the layers inside start by themselves."""
        std = math.sqrt(2 / (self.width // self.heads + 1))
        with torch.no_grad():
            for weights in (self.attend_left, self.attend_right):
                weights.copy_(torch.randn(weights.shape, generator=generator) * std)
            self.sharpness.fill_(1)

    # ---------------------------------------------------------------------------- forward

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the class."""
        return self.combined(inputs, self.projected(inputs))

    def projected(self, inputs: Mapping[str, Tensor]) -> Projected:
        """``l`` and ``r`` of all nodes.

        Args:
            inputs: Vectors by type.
        """
        left = {name: self.left[self._types[name]](inputs[name]) for name in self.outputs}
        givers = dict.fromkeys(relation.tail for relation in self.relations)
        return Projected(left, {n: self.right[self._types[n]](inputs[n]) for n in givers})

    def combined(self, inputs: Mapping[str, Tensor], projected: Projected) -> dict[str, Tensor]:
        """The output, from what `projected` gave.

        Args:
            inputs: Vectors by type.
            projected: Of these.
        """
        found = {}
        for name in self.outputs:
            shares = self.shares(name, inputs[name])
            total = shares[:, -1:] * projected.left[name]
            for place, number in enumerate(self._of[name]):
                taken = self._taken(number, projected)
                total = total + shares[:, place : place + 1] * taken
            found[name] = functional.relu(total) if self.activation else total
        return found

    def shares(self, name: str, rows: Tensor) -> Tensor:
        """``b``: how much nodes take of each of their relations, themselves last, (N, R + 1).

        Args:
            name: Type of the nodes.
            rows: Their input.
        """
        return self.choice[self._types[name]](rows).softmax(1)

    def _taken(self, number: int, projected: Projected) -> Tensor:
        """``m``: what the heads of a relation take."""
        relation, operator = self.relations[number], self._operator(number)
        attention = operator.softmax(self._scores(number, projected))
        attention = functional.dropout(attention, self.dropout, self.training)
        parts = projected.right[relation.tail].chunk(self.heads, 1)
        found = [operator.reweight(attention[:, h].contiguous()) @ part.contiguous()
                 for h, part in enumerate(parts)]  # fmt: skip
        return found[0] if self.heads == 1 else torch.cat(found, 1)

    def _operator(self, number: int) -> Adjacency:
        self._operators[number] = self._operators[number].to(self.sharpness.device)
        return self._operators[number]

    def _scores(
        self, number: int, projected: Projected, pairs: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """``e`` of the edges of a relation or of some pairs, (E, H)."""
        relation, operator = self.relations[number], self._operator(number)
        row, col = (operator.row, operator.col) if pairs is None else pairs
        terms = []
        for rows, weights, ends in (
            (projected.left[relation.head], self.attend_left[number], row),
            (projected.right[relation.tail], self.attend_right[number], col),
        ):
            per_node = (rows.view(len(rows), self.heads, -1) * weights).sum(2)
            terms.append(per_node.index_select(0, ends))
        return self.sharpness[number] * functional.leaky_relu(terms[0] + terms[1], _SLOPE)

    # ------------------------------------------------------------------------- objectives

    def proximity(
        self, projected: Projected, most: int | None = None, negatives: int = 2
    ) -> Tensor:
        """How badly attention tells pairs from others, a scalar.

            mean over relations of 1/2 (- mean v_ij log sigmoid(e_ij) - mean log sigmoid(-e_ij'))

        with ``e`` the mean over heads. Draws come from torch's global generator.

        Args:
            projected: Of the input.
            most: Pairs of a relation that are drawn; None takes all.
            negatives: Pairs drawn at random for each, also known ones.
        """
        losses = []
        for number, relation in enumerate(self.relations):
            operator = self._operator(number)
            row, col, weight = operator.row, operator.col, operator.values
            if most is not None and most < len(row):
                chosen = torch.randint(len(row), (most,), device=row.device)
                row, col, weight = row[chosen], col[chosen], weight[chosen]
            if not len(row):
                continue
            near = self._scores(number, projected, (row, col)).mean(1)
            drawn = [torch.randint(count, (negatives * len(row),), device=row.device)
                     for count in size(relation.matrix)]  # fmt: skip
            far = self._scores(number, projected, (drawn[0], drawn[1])).mean(1)
            told = (
                -(weight * functional.logsigmoid(near)).mean() - functional.logsigmoid(-far).mean()
            )
            losses.append(told / 2)
        return torch.stack(losses).mean() if losses else self.sharpness.sum() * 0

    def edge_weights(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """``b_if`` times the attention of every edge, its mean over heads, for each relation.

        Args:
            inputs: Vectors by type.

        Returns:
            (E,) for each relation, edges by row, then column; no gradient.
        """
        with torch.no_grad():
            projected = self.projected(inputs)
            found = []
            for number, relation in enumerate(self.relations):
                operator = self._operator(number)
                place = self._of[relation.head].index(number)
                share = self.shares(relation.head, inputs[relation.head])[:, place]
                attention = operator.softmax(self._scores(number, projected)).mean(1)
                found.append(share[operator.row] * attention)
        return found


def _operator(matrix: object) -> Adjacency:
    rows, cols = size(matrix)
    pairs = matrix.tocoo()  # type: ignore[attr-defined]
    ends = (torch.from_numpy(part.astype(np.int64)) for part in (pairs.row, pairs.col))
    row, col = ends
    return Adjacency.from_edges(row, col, rows, cols, torch.from_numpy(pairs.data.copy()))
