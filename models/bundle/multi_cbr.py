"""MultiCBR: three views in one vector, and vectors that spread out.

Train it: ``recsys train --config configs/bundle/multi_cbr.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.cf_bundle import Amount, LayeredBundleModel, View


class MultiCBR(LayeredBundleModel):
    """Views of users and bundles, users and items, bundles and items; their weighted sum is ranked.

    LightGCN over each kind of pairs. Over bundles and items a user is the mean of their items, over
    users and items a bundle is the mean of its items. Loss: BPR of one inner product, and
    ``contrast: uniform``, which keeps the users and the bundles of a batch apart. Training adds
    noise to the layers and the means.

    Args:
        config: Views, layers, noise, weights.
        graph: The training pairs, with the contents of the bundles.

    Source:
        Ma et al., "MultiCBR: Multi-view Contrastive Learning for Bundle Recommendation", TOIS 2024,
        and the official code with its options for Youshu (NetEase: weights of the views ub, ui and
        bi .5, .2, .3, contrast_weight 0.05, temperature 0.2; iFashion: .1, .2, .7, contrast_weight
        0.1, temperature 0.2). The code compares the fused vectors with themselves, so that its
        contrast is one of uniformity; so here. Differs: a node that is twice in a batch is not its
        own negative; start values have one standard deviation in all tables.

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> data = assemble({"train": ([0, 1], [0, 1])}, ([0, 1], [0, 1]), ([0, 1], [1, 0]))
        >>> graph = InteractionGraph.of(data.user_bundle.train, contents=data.contents)
        >>> MultiCBR(MultiCBR.Config(embedding_dim=8), graph).eval().vectors()[1].shape
        torch.Size([2, 8])
    """

    class Config(LayeredBundleModel.Config):
        """Options of MultiCBR."""

        views: tuple[View, ...] = Field(default=("ub", "ui", "bi"), min_length=1)
        """What is propagated over."""
        fusion: Literal["late", "early"] = "early"
        """Whether scores of views are added, or their vectors."""
        view_weights: dict[View, Amount] = Field(default={"ub": 0.35, "ui": 0.15, "bi": 0.5})
        """Of the vectors of every view."""
        num_layers: int = Field(default=2, ge=0)
        """K, steps of propagation of every view."""
        layer_weights: dict[View, tuple[float, ...]] = Field(
            default={"ub": (0.7, 0.2, 0.1), "ui": (0.6, 0.2, 0.2), "bi": (0.6, 0.1, 0.3)}
        )
        """w, of layers 0 to K, by view; ``{}`` for layers that count alike."""
        contrast: Literal["cross", "uniform", "none"] = "uniform"
        """Which nodes' vectors should be near or apart."""
        contrast_weight: float = Field(default=0.04, ge=0)
        """Of that loss, the mean over users and bundles."""
        temperature: float = Field(default=0.23, gt=0)
        """Of that loss."""
        augment: Literal["edges", "messages", "noise", "none"] = "noise"
        """What training changes, see `BundleModel`."""
        rates: dict[View, Amount] = Field(default={"ub": 0.2, "ui": 0.1, "bi": 0.1})
        """How much of it, by pairs."""

    config: Config
