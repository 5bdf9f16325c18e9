"""LightGCN over users and bundles: the baseline that does not look into bundles.

Train it: ``recsys train --config configs/bundle/light_gcn_ub.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from recsys.cf_bundle import LayeredBundleModel, View
from recsys.graph.fold_in import mean_messages


class LightGCNUB(LayeredBundleModel):
    """The mean of the layers over users and bundles, trained by BPR.

    It is `recsys.models.graph.light_gcn.LightGCN` on the same pairs. With more ``views`` it is the
    same over those, their scores added, without any contrast.

    Args:
        config: Layers, width, regularization.
        graph: The training pairs, with the contents of the bundles.

    Source:
        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
        Recommendation", SIGIR 2020, as the comparisons of bundle recommenders use it.

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> data = assemble({"train": ([0, 1], [0, 1])}, ([0, 1], [0, 1]))
        >>> graph = InteractionGraph.of(data.user_bundle.train, contents=data.contents)
        >>> model = LightGCNUB(LightGCNUB.Config(num_layers=1), graph).eval()
        >>> users, bundles = model.vectors()
        >>> bool((users[0] - bundles[0]).abs().max() < 1e-6)  # each is the mean of both
        True
    """

    class Config(LayeredBundleModel.Config):
        """Options of LightGCN-UB."""

        views: tuple[View, ...] = Field(default=("ub",), min_length=1)
        """What is propagated over."""
        num_layers: int = Field(default=2, ge=0)
        """K, steps of propagation of every view."""
        combine: Literal["sum", "mean"] = "mean"
        """Whether layers without weights count 1 each, or one by their number."""
        normalize_layers: bool = False
        """Whether layers from 1 on are scaled to length 1 before they are summed."""

    config: Config

    def messages(self) -> Tensor:
        """See `EmbeddingModel`; where layers over users and bundles have one mean."""
        config = self.config
        plain = config.combine == "mean" and not config.layer_weights
        if config.views != ("ub",) or config.normalize_layers or not plain:
            return super().messages()
        rows = self.rows().detach()
        return mean_messages(self.operators(rows.device)["ub"], rows, config.num_layers, 0)
