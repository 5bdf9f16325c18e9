"""PEP: learned soft thresholds, and a second training of what they leave.

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
from recsys.schema import Init, TableSpec


class SoftThreshold(Decoder):
    """``sign(v) relu(|v| - sigmoid(s))`` with ``s = start + drift t + u``.

    t counts steps until the target is reached, and u is learned: here where one number or one a
    dimension is shared by all rows, else in a probe of its own.

    Args:
        start: Of s.
        drift: Of s, a step.
        learned: How many u are here; 0: they come as a probe.

    Shape:
        - input: v (L, D), and u (L, 1) or (L, D) where it is a probe
        - output: (L, D)
    """

    linear = False

    def __init__(self, start: float, drift: float, learned: int) -> None:
        super().__init__()
        self.start, self.drift = start, drift
        self.steps: Tensor
        self.done: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.threshold = nn.Parameter(torch.empty(learned)) if learned else None

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Step 0, u = 0."""
        del generator
        self.steps.zero_()
        self.done.zero_()
        if self.threshold is not None:
            nn.init.zeros_(self.threshold)

    def settled(self) -> bool:
        """Whether the table fits."""
        return bool(self.done)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Nothing below the threshold, and what is above it less the threshold."""
        del indices
        value = probes[0]
        learned = probes[1] if self.threshold is None else self.threshold
        learned = torch.where(self.done > 0, learned.detach(), learned)
        least = torch.sigmoid(self.start + self.drift * self.steps + learned)
        return value.sign() * torch.relu(value.abs() - least)


class _Search:
    """Raises the thresholds until the table fits."""

    def __init__(self, scheme: PEP, table: TableSpec, decoder: SoftThreshold) -> None:
        self.decoder, self.every = decoder, scheme.check_every
        self.probes, self.fits = (2 if scheme.has_probe else 1), scheme.limit(table)

    def after_step(self, rows: Rows) -> None:
        """One step on; looks every now and then."""
        if int(self.decoder.done):
            return
        self.decoder.steps += 1
        if int(self.decoder.steps) % self.every == 0:
            with torch.no_grad():
                found = self.decoder([rows.read(k) for k in range(self.probes)], None)[1:] != 0
            if bool(self.fits(found.any(dim=1).sum(), found.sum())):
                self.decoder.done.fill_(1)


class PEP(PruningScheme):
    """Pruning by learned thresholds: ``e = sign(v) relu(|v| - sigmoid(s))``.

    ``search`` trains v and s until the table fits, then s stands still; what is still too much at
    the end of the phase is cut by magnitude. ``retrain`` starts from the initial values of v and
    trains what was left (the lottery ticket).

    Memory: in the search ``4 n D`` and the thresholds (4 a table, 4 D, 4 n or 4 n D) and 16 bytes;
    in the second training ``4 n D + n ceil(D / 8)``; frozen as `Pruned`.

    Source:
        Liu et al., "Learnable Embedding Sizes for Recommender Systems", ICLR 2021, equations
        4-6 and section 3.3. s starts at -15, not -150, where sigmoid and its derivative are 0 in
        fp32. What raises s in the authors' code is the weight decay of Adam, which moves it by
        about the learning rate a step; here that is the stated `drift`, the same for all of s, and
        training moves u = s - start - drift t alone. With a threshold a row or an element, u is
        part of the tables and has their optimizer.
    """

    kind: Literal["pep"] = "pep"
    """Name in configurations."""
    per: Literal["table", "dimension", "row", "element"] = "row"
    """What has a threshold of its own (paper: global, dimension, feature, feature-dimension)."""
    start: float = Field(default=-15.0, ge=-30, le=0)
    """First s."""
    drift: float = Field(default=0.01, ge=0)
    """How much s rises a step until the target is reached. -15 to -4 (a threshold of 0.018) takes
    1100 steps."""
    check_every: int = Field(default=100, ge=1)
    """Steps between looks at the whole table."""
    stage: Literal["search", "retrain"] = "search"
    """Written by recsys."""

    @property
    def has_probe(self) -> bool:
        """Whether thresholds are a table."""
        return self.per in ("row", "element")

    def part(self, table: TableSpec) -> Part:
        """The table with thresholds, or with a mask."""
        self.need(served=self.served)
        rows, width = table.num_embeddings, table.embedding_dim
        if self.stage == "retrain":
            return Part((table,), Encoder(), Masked(rows, width))
        learned = {"table": 1, "dimension": width}.get(self.per, 0)
        decoder = SoftThreshold(self.start, self.drift, learned)
        probes = [table]
        if self.has_probe:
            own = {"name": f"{table.name}@threshold", "init": Init(kind="zeros")}
            own["embedding_dim"] = 1 if self.per == "row" else width
            probes.append(table.model_copy(update=own))
        return Part(tuple(probes), Encoder(), decoder, _Search(self, table, decoder))

    def phases(self) -> tuple[Phase, ...]:
        """Search, then train what is left from the start."""
        return (Phase("search", keeps="settled"), Phase("retrain", start="initial"))

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """The masks."""
        weights = {name: self._dense(one) for name, one in trained.items()}
        shares = share_out(trained, weights)
        found = {}
        for name, one in trained.items():
            scheme, weight = shares[name], weights[name]
            keep = cut(weight, threshold(weight, scheme.limit(one.table))) != 0
            scheme = scheme.model_copy(update={"stage": "retrain"})
            found[name] = Successor(scheme, decoder={"mask": pack_mask(keep)})
        return found

    @torch.no_grad()
    def _dense(self, trained: Trained) -> Tensor:
        """All vectors."""
        probe = trained.probes[0]
        indices = torch.arange(probe.shape[0], device=probe.device)
        found = trained.part.decoder(trained.probes, indices)
        found[0] = 0
        return found

    def frozen(self, trained: Trained) -> Successor:
        """What is not zero, packed."""
        return self.serve(trained.table, self._dense(trained))
