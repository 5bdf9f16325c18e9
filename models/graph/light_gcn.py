"""LightGCN: nothing but propagation and a mean over layers.

Train it: ``recsys train --config configs/graph/light_gcn.yaml``.

Stability: caller
"""

from __future__ import annotations

from recsys.cf_graph import LinearModel


class LightGCN(LinearModel):
    """Vectors are the mean of the table's rows and what neighbours pass on, layer by layer.

        E_k = A E_{k-1},  z = (E_0 + ... + E_K) / (K + 1),  A = D^-1/2 (adjacency) D^-1/2

    Trained by BPR, with L2 of the rows of layer 0 in the batch.

    Args:
        config: Layers, width, regularization.
        graph: The training pairs.

    Source:
        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
        Recommendation", SIGIR 2020. Differs: all layers are one operation, whose
        gradient is the same polynomial.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = LightGCN(LightGCN.Config(num_layers=1), graph).eval()
        >>> users, items = model.vectors()
        >>> torch.allclose(users[0], items[0])  # each is the mean of both
        True
    """

    class Config(LinearModel.Config):
        """Options of LightGCN."""

    config: Config
