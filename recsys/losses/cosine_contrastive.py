"""Cosine contrastive loss of SimpleX: near to the positive, beyond a margin from negatives.

Stability: caller
"""

from __future__ import annotations

from torch import Tensor


def cosine_contrastive(
    positive: Tensor, negatives: Tensor, margin: float, negative_weight: float
) -> Tensor:
    """Mean over rows of ``(1 - cos+) + w / N sum_n max(0, cos_n - margin)``.

    Negatives below the margin cost nothing and have no gradient.

    Args:
        positive: Cosine of user and the item that was seen.
        negatives: Cosines with those that were not.
        margin: m, between -1 and 1.
        negative_weight: w, of the mean over negatives.

    Raises:
        ValueError: Shapes do not fit, or ``margin`` is not a cosine.

    Shape:
        - positive: (B,)
        - negatives: (B, N)
        - output: scalar

    Source:
        Mao et al., "SimpleX: A Simple and Strong Baseline for Collaborative Filtering", CIKM 2021,
        with the mean over negatives (``w > 0`` in the official code).

    Example:
        >>> import torch
        >>> cosine_contrastive(torch.tensor([0.75]), torch.tensor([[0.5, 1.0]]), 0.5, 4.0)
        tensor(1.2500)
    """
    if negatives.dim() != 2 or positive.shape != negatives.shape[:1]:
        raise ValueError(
            "expected positive (B,) and negatives (B, N), got "
            f"{tuple(positive.shape)} and {tuple(negatives.shape)}."
        )
    if not -1 <= margin <= 1:
        raise ValueError(f"`margin`: expected a cosine, from -1 to 1, got {margin}.")
    far = (negatives - margin).relu().mean(1)
    return (1 - positive + negative_weight * far).mean()
