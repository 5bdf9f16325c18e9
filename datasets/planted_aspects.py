"""Items with planted, independent aspects: the embedded default of aspect models.

Licence: none needed, all is made by this file and `recsys.graph.planted_aspects`, which says what
the truth is made of. Aspects are called ``aspect 0`` and so on; words of a text are like
``a0l3w5``: a word of label 3 of aspect 0. Split: by item, at random by seed.

Traps:
    - The oracle knows which words are of which label. Its vectors are no feature.
    - Words spell their label: character n-grams find more here than they would in a real text.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import AspectTable, aspect_table
from recsys.graph.planted_aspects import PlantedAspects as Truth
from recsys.graph.planted_aspects import PlantedAspectsConfig


class PlantedAspects(AspectDataset):
    """Made items whose best vector in every aspect is known.

    Args:
        config: Sizes, seed and strengths, and how to split.

    Example:
        >>> data = PlantedAspects(PlantedAspects.Config(num_items=50))
        >>> table = data.table(Path("anywhere"))
        >>> table.aspects, data.oracle(0).shape
        (('aspect 0', 'aspect 1', 'aspect 2'), (50, 12))
    """

    licence = "none needed: made by recsys"

    class Config(AspectDataset.Config, PlantedAspectsConfig):
        """Sizes, seed and strengths, and how to split."""

    config: Config

    def table(self, cache_dir: Path) -> AspectTable:
        """Made at every call; nothing is written."""
        del cache_dir
        truth = Truth.of(self.config)
        items, aspects = truth.labels.shape
        names = [f"aspect {aspect}" for aspect in range(aspects)]
        return aspect_table(
            dict(enumerate(truth.texts)), np.repeat(np.arange(items), aspects).tolist(),
            names * items, [f"label {label}" for label in truth.labels.ravel()], self.config.rule,
            names,
        )  # fmt: skip

    def oracle(self, aspect: int) -> np.ndarray:
        """Vectors of items in one aspect: products of rows are chances to share the label.

        Args:
            aspect: Its number.

        Returns:
            (items, labels) float64.
        """
        return Truth.of(self.config).posterior(aspect)
