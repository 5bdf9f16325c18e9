"""CrossCBR: what users want of bundles and what they want of items should agree.

Train it: ``recsys train --config configs/bundle/cross_cbr.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.cf_bundle import Amount, LayeredBundleModel, View


class CrossCBR(LayeredBundleModel):
    """Two views, of bundles and of items, whose scores add up and whose vectors should agree.

    LightGCN over users and bundles, and over users and items, where a bundle is the mean of its
    items. Loss: BPR of the sum of both scores, and a contrast between the two views of a user and
    of a bundle. Edges of all three graphs are left out in training, drawn anew for every epoch.

    Args:
        config: Views, layers, dropout, weights.
        graph: The training pairs, with the contents of the bundles.

    Source:
        Ma et al., "CrossCBR: Cross-view Contrastive Learning for Bundle Recommendation", KDD 2022,
        and the official code with its options for Youshu (NetEase: contrast_weight 0.1, rates of
        0.3 for ``ub`` and 0.1; iFashion: contrast_weight 0.25, temperature 0.2, rate 0 for ``bi``).
        Differs: an edge is left out in both directions; a node that is twice in a batch is not its
        own negative; start values have one standard deviation in all tables. The code divides
        layers by ``k + 1`` before it scales them to length 1, which changes nothing.

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> data = assemble({"train": ([0, 1], [0, 1])}, ([0, 1], [0, 1]), ([0, 1], [1, 0]))
        >>> graph = InteractionGraph.of(data.user_bundle.train, contents=data.contents)
        >>> CrossCBR(CrossCBR.Config(embedding_dim=8), graph).eval().vectors()[1].shape
        torch.Size([2, 16])
    """

    class Config(LayeredBundleModel.Config):
        """Options of CrossCBR."""

        views: tuple[View, ...] = Field(default=("ui", "ub"), min_length=1)
        """What is propagated over."""
        contrast: Literal["cross", "uniform", "none"] = "cross"
        """Which nodes' vectors should be near or apart."""
        contrast_weight: float = Field(default=0.04, ge=0)
        """Of that loss, the mean over users, bundles and pairs of views."""
        augment: Literal["edges", "messages", "noise", "none"] = "edges"
        """What training changes, see `BundleModel`."""
        rates: dict[View, Amount] = Field(default={"ub": 0.2, "ui": 0.2, "bi": 0.2})
        """How much of it, by pairs."""

    config: Config
