"""AutoSrh: learned gates for groups of ids say what to prune.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.masked import Masked, pack_mask
from recsys.embeddings.compression.pruning import PruningScheme, cut, share_out, threshold
from recsys.embeddings.scheme import (
    Decoder,
    Encoder,
    Part,
    Phase,
    Rows,
    SearchContext,
    Successor,
    Trained,
)
from recsys.schema import TableSpec


class Gates(Decoder):
    """``alpha[g(x)] * v``: ids in groups of equal size by frequency, a gate a dimension each.

    Args:
        rows: n.
        width: D.
        groups: G.
        l1: Weight of ``|alpha|`` in the loss.

    Shape:
        - input: v (L, D), indices (L,)
        - output: (L, D)
    """

    linear = False

    def __init__(self, rows: int, width: int, groups: int, l1: float) -> None:
        super().__init__()
        self.rows, self.groups, self.l1 = rows, groups, l1
        self.alpha = nn.Parameter(torch.empty(groups, width))
        self._recorded: tuple[int, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_recorded": None}

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Every gate open."""
        del generator
        with torch.no_grad():
            self.alpha.fill_(1.0)

    def group(self, indices: Tensor) -> Tensor:
        """The group of each index, 0 the most frequent."""
        place = (indices.long() - 1).clamp(min=0)
        return place * self.groups // max(self.rows - 1, 1)

    def _gates(self) -> Tensor:
        """Alpha, its gradient divided by the mean size in each group.

        All calls of a step share one tensor, so that the whole gradient is divided at once.
        """
        if not (self.alpha.requires_grad and torch.is_grad_enabled()):
            return self.alpha
        if torch.compiler.is_compiling():
            return self.alpha
        if self._recorded is None or self._recorded[0] != self.alpha._version:
            gates = self.alpha.clone()
            gates.register_hook(_by_row)
            self._recorded = (self.alpha._version, gates)
        return self._recorded[1]

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Gated vectors."""
        assert indices is not None
        return probes[0] * self._gates()[self.group(indices)]

    def aux_loss(self) -> Tensor | None:
        """L1 of the gates, after a forward that records gradients."""
        if self._recorded is None or not self.training:
            return None
        gates, self._recorded = self._recorded[1], None
        return self.l1 * gates.abs().sum()

    def architecture(self) -> list[nn.Parameter]:
        """Alpha."""
        return [self.alpha]


def _by_row(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().mean(dim=1, keepdim=True).clamp(min=1e-12)


class _Clip:
    """Keeps gates between closed and open."""

    def __init__(self, decoder: Gates) -> None:
        self.decoder = decoder

    def after_step(self, rows: Rows) -> None:
        """Clips alpha to [0, 1]."""
        del rows
        with torch.no_grad():
            self.decoder.alpha.clamp_(0, 1)


class AutoSrh(PruningScheme):
    """Pruning by ``|alpha w|``: a gate alpha a frequency group and dimension is searched for.

    ``warmup`` trains the full table. ``search`` adds gates, trained by steps of their own with an
    L1 penalty. Then gates are multiplied in, all but the largest values become zero, and
    ``retrain`` trains those that are left.

    Memory: ``4 n D`` bytes in training, and ``4 G D`` for gates or ``n ceil(D / 8)`` for the mask;
    frozen as `Pruned`.

    Source:
        Kong et al., "AutoSrh: An Embedding Dimensionality Search Framework for Tabular Data
        Prediction", TKDE 2022; details from Hetu (``layers/autosrh.py``): 6 groups, alpha from 1 in
        [0, 1], its gradient divided by the mean size in its group, L1 1e-5. Groups are of equal
        size here and by index order, which is frequency order. The dense network is trained in the
        search too. One threshold for all tables gives each its share at the end of the search.
        (Pruning after the last training, as older versions of Hetu do, was tried: at a tenth of
        Frappe's bytes it left an AUC of .83.)
    """

    kind: Literal["auto_srh"] = "auto_srh"
    """Name in configurations."""
    groups: int = Field(default=6, ge=1)
    """Frequency groups, G."""
    l1: float = Field(default=1e-5, ge=0)
    """Weight of the sum of all |alpha| in the loss of a batch."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of SGD on alpha. Gradients are 1 on average, so this is what a gate moves a step."""
    every: int = Field(default=5, ge=1)
    """Every so manieth batch of the search trains alpha."""
    stage: Literal["warmup", "search", "retrain"] = "warmup"
    """Written by recsys."""

    def part(self, table: TableSpec) -> Part:
        """The table, then with gates, then with a mask."""
        self.need(served=self.served)
        if self.stage == "warmup":
            return Part((table,), Encoder(), Decoder())
        rows, width = table.num_embeddings, table.embedding_dim
        if self.stage == "retrain":
            return Part((table,), Encoder(), Masked(rows, width))
        decoder = Gates(rows, width, self.groups, self.l1)
        return Part((table,), Encoder(), decoder, _Clip(decoder))

    def phases(self) -> tuple[Phase, ...]:
        """Train, search, train."""
        search = Phase(
            "search",
            trains_architecture=True,
            architecture_every=self.every,
            architecture_learning_rate=self.learning_rate,
            keeps="last",
        )
        return (Phase("warmup"), search, Phase("retrain"))

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """Adds the gates, or multiplies them in and prunes."""
        if phase == "warmup":
            return {
                name: Successor(one.scheme.model_copy(update={"stage": "search"}), one.probes)
                for name, one in trained.items()
            }
        weights = {name: _vectors(one).clone() for name, one in trained.items()}
        shares = share_out(trained, weights)
        found = {}
        for name, one in trained.items():
            scheme = shares[name].model_copy(update={"stage": "retrain"})
            left = cut(weights[name], threshold(weights[name], scheme.limit(one.table)))
            found[name] = Successor(scheme, (left,), decoder={"mask": pack_mask(left != 0)})
        return found

    def frozen(self, trained: Trained) -> Successor:
        """What is left, packed."""
        return self.serve(trained.table, _vectors(trained))


@torch.no_grad()
def _vectors(trained: Trained) -> Tensor:
    """All vectors."""
    weight, decoder = trained.probes[0], trained.part.decoder
    if type(decoder) is Decoder:
        return weight
    return decoder([weight], torch.arange(weight.shape[0], device=weight.device))
