"""AutoDim: the width of every table is learned, between tables of several widths.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, distributed, nn

from recsys.embeddings.compression.budget import (
    check_fixed,
    infeasible,
    planned_bytes,
    search_first,
    smaller_of,
)
from recsys.embeddings.compression.knapsack import choose
from recsys.embeddings.compression.mixed_dimension import Projection
from recsys.embeddings.scheme import (
    Decoder,
    Encoder,
    Full,
    Part,
    Phase,
    Rows,
    Scheme,
    SearchContext,
    Successor,
    Trained,
    successor_as_is,
)
from recsys.errors import ConfigError
from recsys.schema import PAD_INDEX, TableSpec

_EPS = 1e-5
_MOMENTUM = 0.1
_LEAST_TEMPERATURE = 0.01


class WidthMixture(Decoder):
    """``sum_c p_c BN(e_c W_c)`` over candidate tables of widths c.

    BN has no parameters: it subtracts the batch's mean and divides by its standard deviation, PAD
    left out (in evaluation, running ones). In training p is a sample of the Gumbel-softmax, one a
    call::

        p = softmax((log softmax(alpha) + G) / tau),  tau = max(0.01, 1 - decay steps)

    with ``G = 0`` in evaluation.

    Args:
        widths: Of the candidates.
        wide: D.
        decay: Of the temperature, a step.

    Shape:
        - as `Decoder`, one probe a candidate
    """

    linear = False

    def __init__(self, widths: Sequence[int], wide: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.matrices = nn.ModuleList(Projection(width, wide) for width in widths)
        self.alpha = nn.Parameter(torch.empty(len(widths)))
        self.steps: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("steps", torch.empty((), dtype=torch.int64))
        self.register_buffer("mean", torch.empty(len(widths), wide))
        self.register_buffer("variance", torch.empty(len(widths), wide))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Equal chances, nothing seen."""
        del generator
        if not self.alpha.is_meta:
            with torch.no_grad():
                self.alpha.zero_()
            self.steps.zero_()
            self.mean.zero_()
            self.variance.fill_(1.0)

    def chances(self, noise: Tensor | None = None) -> Tensor:
        """The weight of every candidate.

        Args:
            noise: Gumbel, one a candidate; None for none.
        """
        logits = self.alpha.log_softmax(0)
        if noise is not None:
            logits = logits + noise
        temperature = (1.0 - self.decay * self.steps.double()).clamp(min=_LEAST_TEMPERATURE)
        return (logits / temperature.float()).softmax(0)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One vector an index."""
        assert indices is not None
        noise = None
        if self.training:
            drawn = torch.rand_like(self.alpha).clamp(min=torch.finfo(torch.float32).tiny)
            noise = -(-drawn.log()).clamp(min=torch.finfo(torch.float32).tiny).log()
        chances, real = self.chances(noise), (indices != PAD_INDEX).unsqueeze(1)
        # fp32: under autocast a matrix gives bf16, whose statistics are worth little.
        wide = [matrix([probe], None).float() for matrix, probe in zip(self.matrices, probes)]
        return sum(
            (
                chances[i] * self._normal(i, value, real, probes[i].requires_grad)
                for i, value in enumerate(wide)
            ),
            torch.zeros_like(wide[0]),
        )

    def _normal(self, candidate: int, value: Tensor, real: Tensor, learns: bool) -> Tensor:
        """Batch normalisation over real indices; running statistics where there are too few."""
        mean, variance = self.mean[candidate], self.variance[candidate]
        if self.training:
            count = real.sum()
            if int(count) > 1:
                mean = torch.where(real, value, 0.0).sum(0) / count
                variance = torch.where(real, value - mean, 0.0).square().sum(0) / count
                if learns:  # not on batches that train the architecture alone
                    with torch.no_grad():
                        self.mean[candidate].lerp_(mean, _MOMENTUM)
                        unbiased = variance * (count / (count - 1))
                        self.variance[candidate].lerp_(unbiased, _MOMENTUM)
        return (value - mean) / (variance + _EPS).sqrt()

    def architecture(self) -> list[nn.Parameter]:
        """The logits of the candidates."""
        return [self.alpha]

    def after_step(self, rows: Rows) -> None:
        """Counts the step, for the temperature; running statistics are averaged over ranks."""
        del rows
        self.steps += 1
        if distributed.is_available() and distributed.is_initialized():
            both = torch.stack([self.mean, self.variance])
            distributed.all_reduce(both)
            both /= distributed.get_world_size()
            self.mean.copy_(both[0])
            self.variance.copy_(both[1])

    def final(self, candidate: int, probe: Tensor) -> tuple[Tensor, Tensor]:
        """A table and a matrix that give what the candidate gives in evaluation, if it can.

        The standard deviation goes into the matrix and the mean into the rows, as far as the
        matrix reaches it: what remains is one constant vector for all indices.

        Args:
            candidate: Which.
            probe: Its table (n, c).

        Returns:
            Rows (n, c), matrix (c, D).
        """
        with torch.no_grad():
            matrix = self.matrices[candidate].get_parameter("weight")
            scale = (self.variance[candidate] + _EPS).rsqrt()
            matrix, shift = matrix * scale, -self.mean[candidate] * scale
            rows = probe + shift @ torch.linalg.pinv(matrix)
            rows[PAD_INDEX] = 0
        return rows, matrix


class AutoDim(Scheme):
    """Searches the width of every table, then trains tables of these widths.

    Phase ``search`` trains a table of every candidate width at once and mixes their vectors
    (`WidthMixture`); every ``architecture_every``-th batch trains the mixture's logits instead,
    on rows that nothing else sees in that epoch. Phase ``retrain`` keeps the most likely width of
    each table, ``e(x) = E[x] W``, and goes on from the weights of the search. With a budget the
    widths are those of the largest joint probability that fit it.

    Memory: ``4 (n c + c D)`` bytes a table, ``4 n D`` where the width c is D. The search holds
    all candidates, about twice the full table.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> scheme = AutoDim().plan([table], budget=10_000)["user"]
        >>> scheme.expected, [phase.name for phase in scheme.phases()]
        (2, ['search', 'retrain'])

    Source:
        Zhao et al., "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems",
        WWW 2021, equations 3 to 9, with first-order gradients of the architecture. Different: the
        budget; alpha learns from held-out training batches, not from the validation split; the
        matrices have no bias (the normalisation cancels it), and the retrained ones take over the
        normalisation, so that they start where the search ended (the reference drops it).
    """

    kind: Literal["auto_dim"] = "auto_dim"
    """Name in configurations."""
    candidates: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Widths to choose from; None: the powers of two from 2 to D, and D."""
    width: int | None = Field(default=None, ge=1)
    """Width of the rows; None is searched."""
    temperature_decay: float = Field(default=5e-5, ge=0)
    """How much the temperature of the Gumbel-softmax falls a step, from 1 to 0.01."""
    architecture_every: int = Field(default=5, ge=2)
    """Every so many batches one trains the logits of the widths."""
    architecture_learning_rate: float = Field(default=1e-3, gt=0)
    """Of SGD on the logits."""
    search_epochs: float = Field(default=1.0, gt=0)
    """Length of the search, as a share of ``train.num_epochs``."""
    expected: int | None = Field(default=None, ge=1)
    """Width for which bytes are counted before the search. Written by recsys."""
    budget: int | None = Field(default=None, ge=0)
    """Most bytes of all searched tables together. Written by recsys."""

    def widths(self, table: TableSpec) -> tuple[int, ...]:
        """The candidates of a table, rising.

        Args:
            table: Its D is always one.
        """
        wide = table.embedding_dim
        powers = (2**power for power in range(1, max(2, math.ceil(math.log2(wide)) + 1)))
        named = powers if self.candidates is None else self.candidates
        return tuple(sorted({width for width in named if width < wide} | {wide}))

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Tables that can be searched, and the widths they will have at best."""
        if self.width is not None:
            fixed = {table.name: smaller_of(table, self) for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        sizes = {table.name: self._sizes(table) for table in tables}
        chosen = {table.name: 0 if budget is not None else -1 for table in tables}
        if budget is not None:
            least = sum(size[0] for size in sizes.values())
            if least > budget:
                raise infeasible(self.kind, tables, budget, least)
            _fill(list(sizes.values()), chosen, budget - least)
        plan: dict[str, Scheme] = {}
        for table in tables:
            widths = self.widths(table)
            update = {"expected": widths[chosen[table.name]], "budget": budget}
            plan[table.name] = self.model_copy(update=update) if len(widths) > 1 else Full()
        return self._without_full(tables, plan, budget)

    def _without_full(
        self, tables: Sequence[TableSpec], plan: dict[str, Scheme], budget: int | None
    ) -> dict[str, Scheme]:
        """The budget of the searched tables is what tables in full leave of it."""
        if budget is None:
            return plan
        full = [table for table in tables if isinstance(plan[table.name], Full)]
        budget -= planned_bytes(full, {})
        return {
            name: scheme
            if isinstance(scheme, Full)
            else scheme.model_copy(update={"budget": budget})
            for name, scheme in plan.items()
        }

    def _final(self, table: TableSpec, width: int) -> Scheme:
        """The scheme of a chosen width."""
        if width == table.embedding_dim:
            return Full()
        return self.model_copy(update={"width": width, "expected": None, "budget": None})

    def _sizes(self, table: TableSpec) -> list[int]:
        """Bytes of every candidate."""
        finals = [self._final(table, width) for width in self.widths(table)]
        return [planned_bytes([table], {table.name: final}) for final in finals]

    def part(self, table: TableSpec) -> Part:
        """A probe a candidate, or one of the chosen width."""
        wide = table.embedding_dim
        if self.width is None:
            probes = tuple(self._probe(table, width) for width in self.widths(table))
            decoder = WidthMixture(self.widths(table), wide, self.temperature_decay)
            return Part(probes, Encoder(), decoder, decoder)
        if self.width > wide:
            raise ConfigError(
                f"scheme `{self.kind}`, table `{table.name}`: expected a `width` of at most the "
                f"table's {wide}, got {self.width}. Lower `width`."
            )
        decoder = Projection(self.width, wide) if self.width < wide else Decoder()
        return Part((self._probe(table, self.width),), Encoder(), decoder)

    def _probe(self, table: TableSpec, width: int) -> TableSpec:
        return table.model_copy(
            update={"name": f"{table.name}@width{width}", "embedding_dim": width}
        )

    def frozen(self, trained: Trained) -> Successor:
        """The table of the chosen width, as it is."""
        if self.width is None:
            raise search_first(self.kind, trained.table)
        return successor_as_is(trained)

    def frozen_scheme(self) -> Scheme:
        """That of the expected width."""
        if self.width is not None or self.expected is None:
            return self
        return self.model_copy(update={"width": self.expected, "expected": None, "budget": None})

    def phases(self) -> tuple[Phase, ...]:
        """Search and retrain; only one where the width is stated."""
        if self.width is not None:
            return (Phase("train"),)
        search = Phase(
            "search",
            trains_architecture=True,
            architecture_every=self.architecture_every,
            architecture_learning_rate=self.architecture_learning_rate,
            epochs=self.search_epochs,
        )
        return (search, Phase("retrain"))

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """The chosen width of every table, with its trained rows and matrix."""
        del phase
        found = {n: successor_as_is(t) for n, t in trained.items() if _mixture(t) is None}
        searched = {name: table for name, table in trained.items() if name not in found}
        budgets: dict[tuple[str, int | None], list[str]] = {}
        for name, table in searched.items():
            assert isinstance(table.scheme, AutoDim)
            budgets.setdefault((name.partition(".")[0], table.scheme.budget), []).append(name)
        for (_, budget), names in budgets.items():
            mixtures = [_mixture(searched[name]) for name in names]
            scores = [m.alpha.detach().log_softmax(0).tolist() for m in mixtures if m is not None]
            sizes = [self._sizes(searched[name].table) for name in names]
            for name, choice in zip(names, choose(scores, sizes, budget)):
                found[name] = _successor(searched[name], choice)
                width = self.widths(searched[name].table)[choice]
                context.say(f"{name}: width {width} of {searched[name].table.embedding_dim}")
        return found


def _mixture(trained: Trained) -> WidthMixture | None:
    decoder = trained.part.decoder
    return decoder if isinstance(decoder, WidthMixture) else None


def _successor(trained: Trained, choice: int) -> Successor:
    """The table of a candidate; the widest takes its matrix into the rows and becomes `Full`."""
    mixture, scheme = _mixture(trained), trained.scheme
    assert mixture is not None and isinstance(scheme, AutoDim)
    rows, matrix = mixture.final(choice, trained.probes[choice])
    final = scheme._final(trained.table, scheme.widths(trained.table)[choice])
    if isinstance(final, Full):
        return Successor(final, (rows @ matrix,))
    return Successor(final, (rows,), None, {"weight": matrix})


def _fill(sizes: Sequence[Sequence[int]], chosen: dict[str, int], left: int) -> None:
    """Widens tables in turn, the narrowest first, as long as bytes are left."""
    grown = True
    while grown:
        grown = False
        for name, mine in sorted(zip(chosen, sizes), key=lambda pair: chosen[pair[0]]):
            at = chosen[name]
            if at + 1 < len(mine) and mine[at + 1] - mine[at] <= left:
                left -= mine[at + 1] - mine[at]
                chosen[name], grown = at + 1, True
                break
