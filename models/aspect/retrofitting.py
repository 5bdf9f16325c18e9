"""Explicit retrofitting: a map of fixed vectors that brings alike items together.

Train it: ``recsys train --config configs/aspect/retrofitting.yaml``.

Stability: caller
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.aspect_model import AspectModel
from recsys.errors import ConfigError
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.aspects import AspectTable
from recsys.graph.text_features import TextOptions
from recsys.layers.mlp import MLP, MLPConfig
from recsys.types import Batch


class Retrofitting(AspectModel):
    """A map of the fixed vectors for every aspect, learned from alike pairs and applied to all.

        f_a(x) = x + s_a MLP_a(x),    g(x, y) = 1 - cos(x, y)
        loss   = mean over pairs of g(f(x_i), f(x_j))^2
                 + mean over other pairs of the batch of (g(f(x_i), f(x_k)) - g(x_i, x_k))^2
                 + stay * mean of g(x, f(x))

    So alike items come together, the others keep their distance, and vectors stay near where they
    were. The map starts as the identity: untrained it is the generic vector.

    Args:
        config: Width and regularization.
        table: Items, texts, labels and splits.

    Raises:
        ConfigError: The items have no fixed vectors.

    Source:
        A baseline of Ostendorff et al., JCDL 2022, after Glavas and Vulic, "Explicit Retrofitting
        of Distributional Word Vectors", ACL 2018, with positive constraints alone. The form of the
        loss is ours.
    """

    class Config(AspectModel.Config):
        """Options of retrofitting."""

        text: TextOptions | None = TextOptions(trained=False, axes=64)
        """How texts are read: along principal axes."""
        hidden_units: tuple[int, ...] = (128,)
        """Widths of the layers of the map; none makes it linear."""
        stay: float = Field(default=1.0, ge=0)
        """Weight of staying near the vector that was given."""

    projects = False
    config: Config

    def __init__(self, config: Config, table: AspectTable) -> None:
        super().__init__(config, table)
        if self.schema.keys or not self.fixed_width:
            raise ConfigError(
                "retrofitting moves vectors that are given: set text to {trained: false, axes: 64} "
                "or null, and use_ids to false; the data may bring vectors."
            )
        hidden = MLPConfig(hidden_units=config.hidden_units, activation="tanh")
        self.maps = nn.ModuleList(
            MLP(self.fixed_width, hidden, self.fixed_width) for _ in self.aspects
        )
        self.scales = nn.Parameter(torch.zeros(len(self.aspects)))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Maps start as the identity."""
        del generator
        nn.init.zeros_(self.scales)

    def encode(self, batch: Batch, aspect: int) -> Tensor:
        """See `AspectModel`."""
        fixed = self.fixed(batch)
        return fixed + self.scales[aspect] * self.maps[aspect](fixed)

    def loss(self, batch: AspectBatch) -> Tensor:
        """See `AspectModel`."""
        items, place = torch.cat([batch.anchor, batch.positive]).unique(return_inverse=True)
        features = self.features(items)
        before, after = self.fixed(features), self.encode(features, batch.aspect)
        stayed = 1 - functional.cosine_similarity(before, after).mean()
        was, now = (_distances(found[place]) for found in (before, after))
        near = now.diagonal().square().mean()
        others = ~batch.alike
        changed = (now - was)[others].square().sum() / others.sum().clamp(min=1)
        return near + changed + self.config.stay * stayed


def _distances(rows: Tensor) -> Tensor:
    """``1 - cos`` of every anchor and every positive, (B, B)."""
    anchors, positives = functional.normalize(rows, dim=1).chunk(2)
    return 1 - anchors @ positives.T
