"""Encode -> Store -> Decode: how a logical table is made of physical ones.

A logical table (what a model asks for) is looked up through an `Encoder` (indices to indices of
physical tables), a store (ordinary tables, the only part that is sharded) and a `Decoder`
(physical vectors to the wanted vector)::

    indices (L,) --encode--> indices of probe 0, 1, ... --store--> vectors --decode--> (_, D)

A `Scheme` says how. It is plain configuration (JSON round trip). With every size stated it is
*resolved* and can take a table apart; `Scheme.plan` resolves it under a budget. Index order is
frequency order: recsys vocabularies give small indices to frequent ids, and schemes that treat
frequent ids better rely on it.

Stability: experimental
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.schema import Frozen, TableSpec

Dtype = Literal["fp32", "fp16", "int8", "int4", "int2"]
"""How rows of a frozen table are stored."""


class Encoder(nn.Module):
    """Indices of a logical table to indices of its physical tables, one tensor a probe.

    PAD must stay PAD. Only integer buffers, no trained parameters. Buffers are part of the state
    dict; those that cannot be computed from the configuration (codes, remaps) are allocated in
    the constructor and filled later.

    Shape:
        - input: (L,) int32
        - output: one (L,) int32 a probe
    """

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The same indices."""
        return (indices,)


class Decoder(nn.Module):
    """Vectors of the probes to the vector of the logical table: here the only probe's own.

    A decoder with parameters has ``initialize(generator)`` (see `recsys.layers.initialization`).

    Shape:
        - input: one (_, D of the probe) a probe; _ is B where ``linear``, else L
        - output: (_, D)
    """

    linear: bool = True
    """Whether decoding commutes with pooling: decode(pool(x)) == pool(decode(x)). A linear decoder
    gets pooled vectors; the others get one vector an index, and pooling comes after."""
    side_by_side: bool = True
    """Whether the output is the probes' vectors one after the other, so that nothing has to be
    computed. Stated by `Decoder` and `Concat` only."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__ and "side_by_side" not in cls.__dict__:
            cls.side_by_side = False

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Puts the probes' vectors together.

        Args:
            probes: Vectors, pooled where ``linear``.
            indices: The logical indices (L,), None where ``linear``. What is returned for PAD
                does not matter, it is replaced by zeros.
        """
        return probes[0]

    watches: bool = False
    """Whether `watch` is called before every forward that records gradients."""

    def watch(self, indices: Tensor, lengths: Tensor | None, weights: Tensor | None) -> None:
        """Tells which indices the next forward is about, for adapters that score ids.

        Args:
            indices: Logical ones.
            lengths: Of the bags whose pooled vectors come; None where one comes for each index.
            weights: Of the indices; None means all 1.

        Shape:
            - indices, weights: (L,)
            - lengths: (B,)
        """

    def aux_loss(self) -> Tensor | None:
        """What is added to the loss of the batch just seen; None for nothing."""
        return None

    def settled(self) -> bool:
        """Whether what makes the table smaller step by step has reached its end.

        Weights from before are no candidates for the best of a phase that keeps ``settled`` ones.
        """
        return True

    def architecture(self) -> list[nn.Parameter]:
        """Parameters that choose the structure.

        They get a step of their own, on batches that train nothing else, in phases that say
        ``trains_architecture``.
        """
        return []

    def table_tensors(self) -> list[Tensor]:
        """Parameters or buffers that hold rows, so that they count as tables."""
        return []


class Concat(Decoder):
    """The probes' vectors side by side."""

    side_by_side = True

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Concatenates: called where another table of the group has to be decoded."""
        return torch.cat(list(probes), dim=1)


class Rows(Protocol):
    """The physical tables of one part, for adapters. Positions are those of ``Part.probes``."""

    def read(self, probe: int, rows: Tensor | None = None) -> Tensor:
        """A copy of some rows (R, D), or of all. Collective on sharded tables."""
        ...

    def write(self, probe: int, rows: Tensor, values: Tensor, reset: bool = True) -> None:
        """Replaces rows on every rank.

        Args:
            probe: Which.
            rows: (R,) int64, distinct.
            values: (R, D).
            reset: Whether their optimizer state starts anew.
        """
        ...


class Adapter(Protocol):
    """What a scheme does between steps: prune, move hot rows, cluster.

    Its state lives in buffers of the part's encoder or decoder, so that a resumed run goes on
    exactly. On several ranks it must do the same on each.
    """

    def after_step(self, rows: Rows) -> None:
        """Called after every training step, when the tables are updated."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """One logical table, taken apart.

    Args:
        probes: The physical table of every probe; none for a scheme without tables. Their
            ``feature_names`` are the logical ones; probes of one part may name one table twice,
            and parts of one group may share a table by its name. Names are ``<table>`` or
            ``<table>@<role>``.
        encoder: Makes the probes' indices.
        decoder: Puts the probes' vectors together.
        adapter: What happens between steps.
        dtypes: How each probe is stored where it is frozen; None leaves it to the freezing call.
    """

    probes: tuple[TableSpec, ...]
    encoder: Encoder
    decoder: Decoder
    adapter: Adapter | None = None
    dtypes: tuple[Dtype, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training of a method that needs several.

    Args:
        name: Of its folder and in the progress, say ``warmup`` or ``search``.
        start: Where weights come from on entering: ``inherit`` from the phase before, or
            ``initial`` (the start values of the seed, again). The first phase has no choice.
        trains_architecture: Every ``architecture_every``-th batch trains the decoders'
            `Decoder.architecture` alone.
        architecture_every: See there.
        architecture_learning_rate: Of plain SGD on the architecture.
        epochs: Share of ``train.num_epochs`` (rounded up to whole epochs).
        keeps: Which weights it ends with: those of the ``best`` validation, or the ``last`` ones,
            or the best of those since every decoder is ``settled`` (the last ones if none ever
            is). The latter two are for phases that make the model worse on purpose, step by step.
    """

    name: str
    start: Literal["inherit", "initial"] = "inherit"
    trains_architecture: bool = False
    architecture_every: int = 5
    architecture_learning_rate: float = 1e-3
    epochs: float = 1.0
    keeps: Literal["best", "last", "settled"] = "best"


@dataclasses.dataclass(frozen=True)
class Trained:
    """One logical table after a phase.

    Args:
        table: What the model asks for.
        scheme: Resolved.
        part: The trained modules themselves: changing a decoder's buffer changes the model.
        probes: Weights of every probe's whole physical table, PAD included. Do not change them.
    """

    table: TableSpec
    scheme: Scheme
    part: Part
    probes: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that rows take which were trained in low precision: ``scale * code + bias``.

    Frozen rows keep scale and bias in fp16: a scale that fp16 cannot hold moves the values with it.

    Args:
        scale: Distance of two values: one (), or one a row (R,).
        bias: Value of code 0, likewise. None: ``-scale * 2 ** (bits - 1)``: values are the scale
            times a signed integer.
    """

    scale: Tensor
    bias: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Successor:
    """How a table goes on: in the next phase, or frozen.

    Args:
        scheme: Resolved, with every size that the state needs.
        probes: Weights of the new part's probes; None takes start values.
        encoder: State of the new encoder; None leaves it as constructed.
        decoder: State of the new decoder; None leaves it as initialised.
        grids: Of every probe that was trained on one; for freezing in int8, int4 and int2.
            Without, every row gets a scale and bias of its own.
    """

    scheme: Scheme
    probes: tuple[Tensor, ...] | None = None
    encoder: Mapping[str, Tensor] | None = None
    decoder: Mapping[str, Tensor] | None = None
    grids: tuple[Grid | None, ...] | None = None


@dataclasses.dataclass(frozen=True)
class SearchContext:
    """What a search between phases may use.

    Args:
        validate: The validation metric of the model as it is now (AUC, higher is better). Some
            seconds a call; change a decoder's buffer, then call it.
        say: Shows a line of progress.
        seed: Of the run.
    """

    validate: Callable[[], float]
    say: Callable[[str], None]
    seed: int


class Scheme(Frozen, abc.ABC):
    """A way to hold logical tables. Subclasses state ``kind: Literal["..."] = "..."``."""

    narrow: ClassVar[bool] = False
    """Whether it can hold tables of width 1 (first-order weights)."""
    by_frequency: ClassVar[bool] = False
    """Whether it favours frequent ids and takes low indices for them."""
    served_only: ClassVar[bool] = False
    """Whether it is the frozen form of another scheme and cannot be trained."""

    @abc.abstractmethod
    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The scheme of every table with all sizes stated.

        A table that would not get smaller is kept in `Full`.

        Args:
            tables: Of one group.
            budget: Most bytes of all of them together, frozen in fp32, indices and decoders
                included. None: the scheme's own size (what its fields say).

        Returns:
            By table name.

        Raises:
            BudgetInfeasible: The smallest size is above the budget.
        """

    @abc.abstractmethod
    def part(self, table: TableSpec) -> Part:
        """Takes a logical table apart.

        Cheap, and allocates nothing under ``torch.device("meta")``.

        Args:
            table: What the model asks for.

        Raises:
            ConfigError: A size is not stated.
        """

    def frozen(self, trained: Trained) -> Successor:
        """The table as it is served. By default the same, without an optimizer.

        Args:
            trained: At the end of the last phase.
        """
        return successor_as_is(trained)

    def frozen_scheme(self) -> Scheme:
        """The scheme that `frozen` will name, as far as it is known before training: for bytes."""
        return self

    def check_dtype(self, dtype: Dtype) -> None:
        """Refuses a dtype that makes no sense for frozen tables of this scheme.

        Args:
            dtype: Asked for.

        Raises:
            ConfigError: With the reason.
        """

    def check_names(self, tables: Collection[str]) -> None:
        """Refuses fields that name a table which is not held in this way.

        Args:
            tables: Names of all that are, in every group.

        Raises:
            SchemaError: One does.
        """

    def stored(self, dtype: Dtype) -> Scheme:
        """The scheme as a frozen collection of a dtype holds it: for rows that decoders hold.

        Args:
            dtype: Of the collection. Probes have it already.
        """
        return self

    def phases(self) -> tuple[Phase, ...]:
        """What to train, in order."""
        return (Phase("train"),)

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """What follows a phase (never called after the last).

        Args:
            phase: Name of the phase that ended.
            trained: All tables of this scheme, by ``<group>.<table>``, those in `Full` left out.
            context: Validation, progress.

        Returns:
            By ``<group>.<table>``.
        """
        raise NotImplementedError(f"{type(self).__name__} has one phase only")

    def need(self, **sizes: object) -> None:
        """Refuses to go on without sizes.

        Args:
            sizes: By field name.

        Raises:
            ConfigError: One is None.
        """
        missing = [name for name, value in sizes.items() if value is None]
        if missing:
            raise ConfigError(
                f"scheme `{getattr(self, 'kind', '?')}`: {missing} not stated. State them, or give "
                "a budget (`ratio` or `bytes`), which sets them."
            )


def successor_as_is(trained: Trained) -> Successor:
    """The same table again, weights and all.

    Args:
        trained: It.
    """
    return Successor(
        trained.scheme,
        trained.probes,
        trained.part.encoder.state_dict(),
        trained.part.decoder.state_dict(),
    )


class Full(Scheme):
    """Every index has a row of its own: no compression."""

    narrow: ClassVar[bool] = True
    kind: Literal["full"] = "full"
    """Name in configurations."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """All as they are."""
        return {table.name: self for table in tables}

    def part(self, table: TableSpec) -> Part:
        """The table itself between two identities."""
        return Part((table,), Encoder(), Decoder())
