"""AutoSrh: learned gates for groups of ids say what to prune.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.pruning import PruningScheme, share_out
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
        learned: Whether alpha is trained.
        l1: Weight of ``|alpha|`` in the loss.

    Shape:
        - input: v (L, D), indices (L,)
        - output: (L, D)
    """

    linear = False

    def __init__(self, rows: int, width: int, groups: int, learned: bool, l1: float) -> None:
        super().__init__()
        self.rows, self.groups, self.learned, self.l1 = rows, groups, learned, l1
        self.alpha: Tensor
        if learned:
            self.alpha = nn.Parameter(torch.empty(groups, width))
        else:
            self.register_buffer("alpha", torch.empty(groups, width))
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
        """Alpha, where it is trained."""
        return [self.alpha] if isinstance(self.alpha, nn.Parameter) else []


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
    L1 penalty. ``retrain`` goes on with the gates as they are. Freezing multiplies them in and
    keeps the largest values; there is no training after that.

    Memory: ``4 n D`` bytes in training, and ``4 G D`` for gates; frozen as `Pruned`.

    Source:
        Kong et al., "AutoSrh: An Embedding Dimensionality Search Framework for Tabular Data
        Prediction", TKDE 2022; details from Hetu (``layers/autosrh.py``): 6 groups, alpha from 1 in
        [0, 1], its gradient divided by the mean size in its group, L1 1e-5. Groups are of equal
        size here and by index order, which is frequency order. The dense network is trained in the
        search too. One threshold for all tables gives each its share at the end of the search.
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
        """The table, gated after the warm-up."""
        self.need(served=self.served)
        if self.stage == "warmup":
            return Part((table,), Encoder(), Decoder())
        learned = self.stage == "search"
        rows, width = table.num_embeddings, table.embedding_dim
        decoder = Gates(rows, width, self.groups, learned, self.l1)
        return Part((table,), Encoder(), decoder, _Clip(decoder) if learned else None)

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
        """Adds the gates, or fixes them and shares the budget out."""
        if phase == "warmup":
            return {
                name: Successor(one.scheme.model_copy(update={"stage": "search"}), one.probes)
                for name, one in trained.items()
            }
        shares = share_out(trained, {name: _gated(one) for name, one in trained.items()})
        found = {}
        for name, one in trained.items():
            scheme = shares[name].model_copy(update={"stage": "retrain"})
            state = {"alpha": one.part.decoder.state_dict()["alpha"].clamp(0, 1)}
            found[name] = Successor(scheme, one.probes, decoder=state)
        return found

    def frozen(self, trained: Trained) -> Successor:
        """Gated, cut and packed."""
        return self.serve(trained.table, _gated(trained))


@torch.no_grad()
def _gated(trained: Trained) -> Tensor:
    """All vectors."""
    weight, decoder = trained.probes[0], trained.part.decoder
    if not isinstance(decoder, Gates):
        return weight
    return decoder([weight], torch.arange(weight.shape[0], device=weight.device))
