"""What recommenders of bundles share: views of three graphs, fused, and told from each other.

The items of the graph are bundles here, and its ``contents`` say what is in them. Its tables are
``user``, ``item`` (the bundles) and ``content`` (the items in them).

Stability: caller
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recsys.cf import CFModel
from recsys.cf_graph import RankedPairModel
from recsys.errors import ConfigError
from recsys.graph.bundle_graphs import BundleGraphs, checked_contents
from recsys.graph.epoch_loader import generator_of
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.graph.perturbation import drop_messages, perturb
from recsys.graph.propagation import Adjacency
from recsys.losses.in_batch import in_batch
from recsys.losses.ranking import Triple
from recsys.schema import Categorical, Schema
from recsys.types import PairBatch

View = Literal["ub", "ui", "bi"]
"""Pairs to propagate over: of users and bundles, users and items, or bundles and items."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A weight, a probability or a length."""

_ENDS = {"ub": ("user", "bundle"), "ui": ("user", "item"), "bi": ("bundle", "item")}


class BundleModel(RankedPairModel, abc.ABC):
    """Vectors of users and bundles from up to three views, trained by a loss of pairs.

    A view propagates over one kind of pairs. ``ub`` gives users and bundles; ``ui`` gives users and
    items, and a bundle is the mean of its items; ``bi`` gives bundles and items, and a user is the
    mean of their items. A subclass says how a view propagates, see `propagated`.

    Views are put together late (vectors side by side: scores of views add up) or early (a weighted
    sum of vectors). Either way a score is one inner product of the `vectors`.

    Contrast adds a loss over the users and the bundles of a batch: ``cross`` wants a node's vectors
    in two views to be nearest to each other; ``uniform`` wants the vectors of different nodes to be
    apart. A node is never its own negative.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs, with the contents of the bundles.

    Raises:
        ConfigError: The items are no bundles, or a view needs pairs of users and items and there
            are none.
    """

    needs_contents = True

    class Config(RankedPairModel.Config):
        """Options that recommenders of bundles share."""

        init_std: float = Field(default=0.02, ge=0)
        """Standard deviation of start values."""
        l2: float = Field(default=0.0, ge=0)
        """Weight of the L2 of the batch's rows of users and bundles; ``embedding.l2`` is that of
        whole tables."""
        views: tuple[View, ...] = Field(default=("ub", "ui"), min_length=1)
        """What is propagated over."""
        fusion: Literal["late", "early"] = "late"
        """Whether scores of views are added, or their vectors."""
        view_weights: dict[View, Amount] = Field(default_factory=dict)
        """Of the score of a view (``late``) or of its vectors (``early``); others have 1."""
        unseen: Literal["row", "nothing"] = "row"
        """What a user or bundle without a pair has in a view of such pairs: its row, as in the
        papers, or nothing. Bundles that nobody took are only ever negatives, so their rows say that
        nobody wants them; with ``nothing`` the views that know their items say who does."""
        num_layers: int = Field(default=1, ge=0)
        """K, steps of propagation of every view."""
        contrast: Literal["cross", "uniform", "none"] = "none"
        """Which nodes' vectors should be near or apart."""
        contrast_weight: float = Field(default=0.1, ge=0)
        """Of that loss, the mean over users, bundles and pairs of views."""
        temperature: float = Field(default=0.25, gt=0)
        """Of that loss."""
        augment: Literal["edges", "messages", "noise", "none"] = "none"
        """What training changes: edges are left out, drawn for every epoch and normalized anew;
        entries of propagated vectors are left out; noise is added to them."""
        rates: dict[View, Amount] = Field(default_factory=dict)
        """With which probability edges or entries are left out, or the length of the noise, by the
        pairs that are propagated over or averaged over; others have 0."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            if len(set(self.views)) < len(self.views):
                raise ConfigError(f"views: expected every one once, got {list(self.views)}.")
            if self.contrast == "cross" and len(self.views) < 2:
                raise ConfigError(
                    f"contrast: cross compares two views, and views={list(self.views)}. Set "
                    "contrast to uniform or none."
                )
            for pairs, rate in self.rates.items():
                if self.augment in ("edges", "messages") and rate >= 1:
                    raise ConfigError(
                        f"rates.{pairs}: expected a probability below 1 of leaving {self.augment} "
                        f"out, got {rate:g}."
                    )
            return self

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.switches = config
        self.graphs = BundleGraphs.of_graph(graph)
        """The pairs of users, bundles and items."""
        if config.views != ("ub",) and not self.graphs.user_item.shape[1]:
            raise ConfigError(
                f"views: {list(config.views)} need pairs of users and items, and the data has "
                "none. Set views to [ub]."
            )
        self._rates = {str(pairs): rate for pairs, rate in config.rates.items()}
        self._whole = self._operators()
        self._seen = self._with_pairs() if config.unseen == "nothing" else {}
        self._epoch = 0, 0
        self._drawn: dict[str, Adjacency] | None = None

    @classmethod
    def schema_of(cls, config: CFModel.Config, graph: InteractionGraph) -> Schema:
        """See `CFModel`: a table of the items in bundles, where a view has any."""
        schema, contents = super().schema_of(config, graph), checked_contents(graph)
        assert isinstance(config, BundleModel.Config)
        if config.views == ("ub",):
            return schema
        rows = contents.bundles.num_items + FIRST_INDEX
        table = Categorical(name="content", num_embeddings=rows)
        return schema.model_copy(update={"features": (*schema.features, table)})

    @property
    def knows_unseen_items(self) -> bool:
        """See `CFModel`: bundles that nobody took are known by their items."""
        return self.switches.views != ("ub",)

    # ----------------------------------------------------------------------------- operators

    def square(self, view: View) -> Adjacency:
        """The operator over both kinds of nodes of a view.

        Args:
            view: Which.
        """
        return self.graphs.square(*_ENDS[view])

    def _operators(self) -> dict[str, Adjacency]:
        """Those of views, and means over items: ``mean bi`` of bundles, ``mean ui`` of users."""
        found = {str(view): self.square(view) for view in self.switches.views}
        if "ui" in found:
            found["mean bi"] = self.graphs.to_bundles()
        if "bi" in found:
            found["mean ui"] = self.graphs.to_users()
        return found

    def _with_pairs(self) -> dict[str, Tensor]:
        """1 for users and bundles with pairs, else 0, by view, (U + B, 1) each."""
        graphs, ones = self.graphs, torch.ones(self.graph.num_items)
        users = graphs.user_item[0].bincount(minlength=graphs.num_users)
        by_items = torch.cat([(users > 0).float(), ones])[:, None]
        degrees = torch.cat([self.graph.user_degrees(), self.graph.item_degrees()])
        return {"ub": (degrees > 0).float()[:, None], "ui": by_items, "bi": by_items}

    def operators(self, device: torch.device) -> dict[str, Adjacency]:
        """The operators of a step: whole ones, or those of the epoch with edges left out.

        Args:
            device: Where they should be.
        """
        self._whole = {name: whole.to(device) for name, whole in self._whole.items()}
        if not self.training or self.switches.augment != "edges":
            return self._whole
        if self._drawn is None:
            generator = generator_of(self._epoch[1], self._epoch[0])
            self._drawn = {
                name: whole.drop_edges(self._rates.get(name[-2:], 0.0), generator)
                for name, whole in self._whole.items()
            }
        return self._drawn

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """See `EmbeddingModel`: the edges that are left out are those of this epoch."""
        self._epoch, self._drawn = (epoch, seed), None

    def augmented(self, rows: Tensor, pairs: View) -> Tensor:
        """Propagated rows, in training with entries left out or with noise.

        Args:
            rows: Of a layer, or means.
            pairs: Over which they were propagated.
        """
        rate = self._rates.get(pairs, 0.0)
        if not self.training or not rate:
            return rows
        if self.switches.augment == "messages":
            return drop_messages(rows, rate)
        return perturb(rows, rate) if self.switches.augment == "noise" else rows

    # ------------------------------------------------------------------------------- vectors

    @abc.abstractmethod
    def propagated(self, view: View, adjacency: Adjacency, rows: Tensor) -> Tensor:
        """Vectors of both kinds of nodes of a view.

        Args:
            view: Which.
            adjacency: Its operator.
            rows: Of layer 0.

        Returns:
            As many rows, of the same width in every view.
        """

    def averaged(self, pairs: View, adjacency: Adjacency, vectors: Tensor) -> Tensor:
        """Vectors of bundles (or users) from those of their items.

        Args:
            pairs: ``bi`` for bundles, ``ui`` for users.
            adjacency: Takes the mean.
            vectors: Of items.
        """
        return self.augmented(adjacency @ vectors, pairs)

    def of_views(self) -> list[Tensor]:
        """Vectors of users and bundles in every view, (U + B, width) each, users first."""
        rows = self.rows_of(*self.schema.keys)
        operators = self.operators(rows.device)
        users, bundles = self.graph.num_users, self.graph.num_items
        found = []
        for view in self.switches.views:
            if view == "ub":
                found.append(self.propagated(view, operators[view], rows[: users + bundles]))
            elif view == "ui":
                ends = torch.cat([rows[:users], rows[users + bundles :]])
                made = self.propagated(view, operators[view], ends)
                means = self.averaged("bi", operators["mean bi"], made[users:])
                found.append(torch.cat([made[:users], means]))
            else:
                made = self.propagated(view, operators[view], rows[users:])
                means = self.averaged("ui", operators["mean ui"], made[bundles:])
                found.append(torch.cat([means, made[:bundles]]))
        if self._seen:
            self._seen = {view: seen.to(rows.device) for view, seen in self._seen.items()}
            found = [part * self._seen[view] for view, part in zip(self.switches.views, found)]
        return found

    def fused(self, views: Sequence[Tensor]) -> Tensor:
        """One vector of every user and bundle.

        Args:
            views: From `of_views`.

        Returns:
            (U + B, width of a view), or for late fusion that times the number of views.
        """
        weights = [self.switches.view_weights.get(view, 1.0) for view in self.switches.views]
        if self.switches.fusion == "early":
            return sum((w * view for w, view in zip(weights[1:], views[1:])), weights[0] * views[0])
        return torch.cat([w**0.5 * view for w, view in zip(weights, views)], dim=1)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return self.fused(self.of_views())

    # --------------------------------------------------------------------------------- loss

    def regularized(self, vectors: Triple, batch: PairBatch) -> Triple:
        """What ``l2`` is of.

        Args:
            vectors: Of the batch.
            batch: Whose.
        """
        del vectors
        return self.gather(self.rows(), batch)

    def contrastive(self, views: Sequence[Tensor], fused: Tensor, batch: PairBatch) -> Tensor:
        """The contrastive loss, not yet weighted.

        Args:
            views: From `of_views`.
            fused: From `fused`.
            batch: Whose users and bundles are looked at.
        """
        pairs = [(fused, fused)]
        if self.switches.contrast == "cross":
            pairs = list(itertools.combinations(views, 2))
        parts = []
        for nodes in (batch.user, batch.item + self.graph.num_users):
            for first, second in pairs:
                queries, keys = (functional.embedding(nodes, part) for part in (first, second))
                parts.append(
                    in_batch(queries, keys, ids=nodes, temperature=self.switches.temperature)
                )
        return torch.stack(parts).mean()

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        views = self.of_views()
        fused = self.fused(views)
        vectors = self.gather(fused, batch)
        regularized = self.regularized(vectors, batch) if self.l2 else vectors
        loss = self.pair_loss(vectors, regularized, batch)
        if self.switches.contrast != "none" and self.switches.contrast_weight:
            loss = loss + self.switches.contrast_weight * self.contrastive(views, fused, batch)
        return loss


class LayeredBundleModel(BundleModel):
    """A `BundleModel` whose views are weighted sums of layers, as in LightGCN.

        h_k = A h_{k-1},  z = w_0 h_0 + sum_k w_k h_k / |h_k|,  A = D^-1/2 (adjacency) D^-1/2

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs, with the contents of the bundles.
    """

    class Config(BundleModel.Config):
        """Options that models of layers share."""

        layer_weights: dict[View, tuple[float, ...]] = Field(default_factory=dict)
        """w, of layers 0 to K, by view; for others ``combine`` says."""
        combine: Literal["sum", "mean"] = "sum"
        """Whether layers without weights count 1 each, or one by their number."""
        normalize_layers: bool = True
        """Whether layers from 1 on are scaled to length 1 before they are summed."""

        @model_validator(mode="after")
        def _check_layers(self) -> Self:
            for view, weights in self.layer_weights.items():
                if len(weights) != self.num_layers + 1:
                    raise ConfigError(
                        f"layer_weights.{view}: expected {self.num_layers + 1}, for layers 0 to "
                        f"num_layers={self.num_layers}, got {len(weights)}."
                    )
            return self

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.layering = config

    def layer_weights(self, view: View) -> Sequence[float]:
        """w, of layers 0 to K.

        Args:
            view: Of which.
        """
        count = self.layering.num_layers + 1
        alike = 1.0 if self.layering.combine == "sum" else 1 / count
        return self.layering.layer_weights.get(view, (alike,) * count)

    def propagated(self, view: View, adjacency: Adjacency, rows: Tensor) -> Tensor:
        """See `BundleModel`."""
        weights = self.layer_weights(view)
        layer, total = rows, weights[0] * rows
        for weight in weights[1:]:
            layer = self.augmented(adjacency @ layer, view)
            counted = (
                functional.normalize(layer, dim=1) if self.layering.normalize_layers else layer
            )
            total = total + weight * counted
        return total
