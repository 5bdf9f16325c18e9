"""The weighted cross entropies of UltraGCN, which stand for endless propagation.

Stability: caller
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def ultragcn_beta(user_degrees: Tensor, item_degrees: Tensor) -> Tensor:
    """``beta_ui = 1 / d_u sqrt((d_u + 1) / (d_i + 1))`` of pairs.

    Args:
        user_degrees: Training items of each user; 0 counts as 1.
        item_degrees: Training users of each item.

    Shape:
        - inputs: shapes that broadcast, say (B, 1) and (B, N), or (B, 1) and (N,)
        - output: float32 of the common shape

    Source:
        Mao et al., "UltraGCN: Ultra Simplification of Graph Convolutional Networks for
        Recommendation", CIKM 2021, section 3.1.

    Example:
        >>> import torch
        >>> ultragcn_beta(torch.tensor([3]), torch.tensor([0]))
        tensor([0.6667])
    """
    users = user_degrees.clamp(min=1).float()
    return (users + 1).sqrt() / users / (item_degrees.float() + 1).sqrt()


def ultragcn_constraint(
    positive: Tensor,
    negatives: Tensor,
    positive_weights: Tensor,
    negative_weights: Tensor,
    negative_scale: float,
) -> Tensor:
    """Mean over rows of ``-v+ ln sigmoid(s+) - scale / N sum_n v_n ln sigmoid(-s_n)``.

    With ``v+ = w1 + w2 beta`` and ``v_n = w3 + w4 beta``. The official code sums over the batch
    where this takes the mean; there the regularization is summed too.

    Args:
        positive: Scores of the items that were seen.
        negatives: Of others.
        positive_weights: v+.
        negative_weights: v of negatives.
        negative_scale: Weight of the mean over negatives (``negative_weight`` in their code).

    Raises:
        ValueError: Shapes do not fit.

    Shape:
        - positive, positive_weights: (B,)
        - negatives, negative_weights: (B, N)
        - output: scalar

    Source:
        UltraGCN, CIKM 2021, section 3.1: L_C and L_O in one, as the official code has it.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> ultragcn_constraint(0 * one, torch.zeros(1, 2), one, torch.ones(1, 2), 3.0)
        tensor(2.7726)
    """
    tensors = (positive, negatives, positive_weights, negative_weights)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if negatives.dim() != 2 or shapes != [shapes[1][:1], shapes[1]] * 2:
        raise ValueError(
            "expected positive (B,), negatives (B, N) and weights of the same shapes, got "
            f"{shapes}."
        )
    seen = positive_weights * functional.softplus(-positive)
    others = (negative_weights * functional.softplus(negatives)).mean(1)
    return (seen + negative_scale * others).mean()


def ultragcn_item_items(scores: Tensor, similarities: Tensor) -> Tensor:
    """Mean over rows of ``-sum_j omega_ij ln sigmoid(s_uj)`` over the neighbours j of item i.

    The official code sums over the batch where this takes the mean.

    Args:
        scores: Of the user and the neighbours of the item that was seen.
        similarities: omega of the item and its neighbours.

    Raises:
        ValueError: The shapes differ.

    Shape:
        - scores, similarities: (B, K)
        - output: scalar

    Source:
        UltraGCN, CIKM 2021, section 3.2.

    Example:
        >>> import torch
        >>> ultragcn_item_items(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
        tensor(2.0794)
    """
    if scores.dim() != 2 or scores.shape != similarities.shape:
        raise ValueError(
            "expected scores and similarities (B, K), got "
            f"{tuple(scores.shape)} and {tuple(similarities.shape)}."
        )
    return (similarities * functional.softplus(-scores)).sum(1).mean()
