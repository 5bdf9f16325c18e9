"""Bayesian personalized ranking: what was seen scores above what was not.

Stability: caller
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def bpr(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean over pairs of ``-ln sigmoid(positive - negative)``.

    Computed as ``softplus(negative - positive)``, which is the same number and does not overflow.
    With several negatives a row, every pair of the positive and a negative counts alike.

    Args:
        positive: Score of the item that was seen.
        negatives: Scores of one or more that were not.

    Raises:
        ValueError: The shapes do not fit.

    Shape:
        - positive: (B,)
        - negatives: (B,) or (B, N)
        - output: scalar

    Source:
        Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
        section 4.1, without its regularization (see `recsys.losses.regularization`).

    Example:
        >>> import torch
        >>> bpr(torch.tensor([2.0, 0.0]), torch.tensor([2.0, 100.0]))
        tensor(50.3466)
    """
    if positive.dim() != 1 or negatives.shape[:1] != positive.shape or negatives.dim() > 2:
        raise ValueError(
            "expected positive (B,) and negatives (B,) or (B, N), got "
            f"{tuple(positive.shape)} and {tuple(negatives.shape)}."
        )
    if negatives.dim() == 2:
        positive = positive[:, None]
    return functional.softplus(negatives - positive).mean()
