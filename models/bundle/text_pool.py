"""Completes bundles with items of texts like theirs, without training.

Train it: ``recsys train --config configs/bundle/text_pool.yaml``.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_fitted import FittedModel
from recsys.errors import ConfigError
from recsys.graph.fitted_buffers import check_history
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.products import dense, size
from recsys.graph.text_features import TextFeatures, TextOptions


class TextPool(FittedModel):
    """The mean cosine of an item's text with those of the given items.

    Texts are weighted grams, see `recsys.graph.text_features.TextFeatures`. What a model of
    bundles has to beat to have learned more than what texts say.

    Args:
        config: How texts are read.
        graph: Bundles as users, with ``features`` that have texts.

    Raises:
        ConfigError: The items have no texts.

    Example:
        >>> from recsys.graph.item_features import ItemFeatures
        >>> graph = InteractionGraph(1, 3, torch.tensor([0]), torch.tensor([0]),
        ...                          features=ItemFeatures(3, ("red pen", "red", "car")))
        >>> model = TextPool(TextPool.Config(), graph)
        >>> model.fit(print)
        >>> model.scores(torch.tensor([0])).argsort(descending=True).tolist()
        [[0, 1, 2]]
    """

    needs_features = True

    class Config(FittedModel.Config):
        """Options of `TextPool`."""

        text: TextOptions = Field(default_factory=TextOptions)
        """How texts are read; ``trained`` and ``axes`` do not matter."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        if graph.features is None or graph.features.texts is None:
            raise ConfigError(
                "TextPool reads texts of items, and the data has none. Use a data set of bundles "
                "with texts and `task: complete`."
            )
        self.text = TextFeatures(graph.features.texts, config.text, np.arange(graph.num_items))

    def fit(self, say: Callable[[str], None]) -> None:
        """Weighs grams."""
        self.text.initialize()

    def scores_of(self, history: csr_array) -> Tensor:
        """See `recsys.cf.FittedModel`."""
        check_history(history, self.graph.num_items)
        rows = self.text.rows(np.arange(self.graph.num_items))
        counts = np.maximum(np.diff(history.indptr), 1).astype(np.float32)
        ones = np.ones(history.nnz, np.float32)
        given = csr_array((ones, history.indices, history.indptr), shape=size(history))
        return torch.from_numpy(dense(given @ rows @ rows.T) / counts[:, None])
