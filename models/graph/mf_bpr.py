"""Matrix factorization, trained by Bayesian personalized ranking.

Train it: ``recsys train --config configs/graph/mf_bpr.yaml``.

Stability: caller
"""

from __future__ import annotations

from torch import Tensor

from recsys.cf_graph import RankedPairModel
from recsys.types import PairBatch


class MFBPR(RankedPairModel):
    """The vectors are the rows of the tables: ``s_ui = e_u . e_i``.

    Trained by BPR, with L2 of the rows of a batch. A step looks up the rows of its batch alone, so
    tables may be trained by row gradients (``embedding.mode: sparse``).

    Args:
        config: Width, regularization.
        graph: The training pairs.

    Source:
        Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
        Differs: no item bias; batches and Adam instead of single steps of SGD.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = MFBPR(MFBPR.Config(l2=0.0, init_std=0.0), graph)
        >>> model.loss(PairBatch(graph.user, graph.item, 1 - graph.item[:, None]))  # ln 2
        tensor(0.6931, grad_fn=<MeanBackward0>)
    """

    class Config(RankedPairModel.Config):
        """Options of matrix factorization."""

    config: Config

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.look_up_batch(batch)
        return self.pair_loss(rows, rows, batch)
