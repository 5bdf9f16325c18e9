"""The layers of LATTE over a graph of several types of nodes, stacked.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.graph.meta_relation_attention import MetaRelationAttention
from recsys.graph.meta_relations import MetaRelation, decompose


class LATTELayers(nn.Module):
    """Layer t attends over paths of t steps; the output is the layers side by side.

    Args:
        base: Relations of one step.
        counts: Number of nodes by type.
        wanted: Types whose vectors are wanted.
        in_features: Width of the input.
        out_features: D of every layer.
        num_layers: T.
        heads: See `MetaRelationAttention`.
        dropout: See `MetaRelationAttention`.
        activation: See `MetaRelationAttention`.
        top: Pairs of every node that relations of two steps or more keep.

    Shape:
        - input: (N, in_features) by type
        - output: (N, T * D) by wanted type

    Source:
        Tran et al., "LATTE: Layer-Stacked Attention for Heterogeneous Network Embedding", 2020.
    """

    def __init__(
        self,
        base: Sequence[MetaRelation],
        counts: Mapping[str, int],
        wanted: Sequence[str],
        in_features: int,
        out_features: int,
        num_layers: int,
        heads: int = 1,
        dropout: float = 0.0,
        activation: bool = True,
        top: int = 20,
    ) -> None:
        super().__init__()
        self.wanted, layers = tuple(wanted), []
        for number, relations in enumerate(decompose(base, num_layers, wanted, top)):
            last = number == num_layers - 1
            width = in_features if number == 0 else out_features
            outputs = self.wanted if last else tuple(counts)
            layers.append(
                MetaRelationAttention(
                    relations, counts, outputs, width, out_features, heads, dropout, activation
                )
            )
        self.layers = nn.ModuleList(layers)

    @property
    def first(self) -> MetaRelationAttention:
        """The layer over relations of one step."""
        return self._layer(0)

    def _layer(self, number: int) -> MetaRelationAttention:
        found = self.layers[number]
        assert isinstance(found, MetaRelationAttention)
        return found

    def start_as_identity(self) -> None:
        """Makes every node start by passing its vector on unchanged: ``W_l`` and ``W_r`` are 1.

        Raises:
            ValueError: Input and output have different widths.
        """
        for number in range(len(self.layers)):
            layer = self._layer(number)
            for linear in (*layer.left.values(), *layer.right.values()):
                assert isinstance(linear, nn.Linear)
                if linear.in_features != linear.out_features:
                    raise ValueError(
                        f"expected one width, got {linear.in_features} and {linear.out_features}."
                    )
                nn.init.eye_(linear.weight)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the class."""
        return self.with_proximity(inputs, None, 0)[0]

    def with_proximity(
        self, inputs: Mapping[str, Tensor], most: int | None, negatives: int = 2
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The output and the sum of the layers' `MetaRelationAttention.proximity`.

        Args:
            inputs: Vectors by type.
            most: Pairs of a relation that are drawn.
            negatives: For each; 0 leaves proximity out.
        """
        stacked: dict[str, list[Tensor]] = {name: [] for name in self.wanted}
        rows, total = dict(inputs), torch.zeros((), device=next(iter(inputs.values())).device)
        for number in range(len(self.layers)):
            layer = self._layer(number)
            projected = layer.projected(rows)
            if negatives:
                total = total + layer.proximity(projected, most, negatives)
            rows = layer.combined(rows, projected)
            for name, parts in stacked.items():
                parts.append(rows[name])
        return {name: torch.cat(parts, 1) for name, parts in stacked.items()}, total

    def relation_shares(self, inputs: Mapping[str, Tensor], name: str) -> list[dict[str, Tensor]]:
        """For every layer how much each node takes of each relation, ``self`` the last.

        Args:
            inputs: Vectors by type.
            name: A wanted type.

        Returns:
            (N,) by relation; no gradient.
        """
        found, rows = [], dict(inputs)
        with torch.no_grad():
            for number in range(len(self.layers)):
                layer = self._layer(number)
                names = [f"{r.name} ({r.tail})" for r in layer.relations if r.head == name]
                shares = layer.shares(name, rows[name]).unbind(1)
                found.append(dict(zip([*names, "self"], shares)))
                rows = layer(rows)
        return found
