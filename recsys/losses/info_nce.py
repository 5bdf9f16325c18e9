"""InfoNCE: a row's second view is nearer to it than the views of others.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys.losses.weighted_logsumexp import weighted_logsumexp


def info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    among: Tensor | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    limit: float | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean over rows of ``-ln (exp(f_b s_b / t) / sum_c exp(f_b c / t))``.

    The sum runs over the second views of the batch (SimCLR, SimGCL, XSimGCL), or over ``among``,
    say the second views of all users or items (SGL, LightGCL); ``second`` must be among them. A
    node that is twice in the batch is its own negative, so pass each node once.

    Official codes differ in the reduction: SGL's sums over the batch, SimGCL's takes the mean.
    The products are never held as a whole, see `recsys.losses.weighted_logsumexp`.

    Args:
        first: One view of every node of the batch.
        second: The other view.
        temperature: t.
        among: What the second view is chosen from; None takes ``second``.
        normalize: Scales all vectors to length 1, so that products are cosines.
        weights: Of the rows in the mean, say how often each node occurs; None for all 1.
        limit: Bounds ``f_b s_b / t`` in the numerator to [-limit, limit], beyond which it has no
            gradient, as LightGCL does; None leaves it as it is.
        dtype: Of the products, see `recsys.losses.weighted_logsumexp`.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - first, second: (B, D)
        - among: (M, D)
        - weights: (B,)
        - output: scalar

    Source:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
        equation 4; for graphs Wu et al., "Self-supervised Graph Learning for Recommendation",
        SIGIR 2021, equation 10.

    Example:
        >>> import torch
        >>> views = torch.eye(2)
        >>> info_nce(views, 3 * views, 1.0)  # -ln(e / (e + 1))
        tensor(0.3133)
    """
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            "expected two views (B, D) of one shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if among is not None and among.shape[1:] != first.shape[1:]:
        raise ValueError(
            f"`among`: expected vectors of width {first.shape[1]}, got {tuple(among.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature`: expected a number above 0, got {temperature}.")
    if normalize:
        first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
        among = None if among is None else functional.normalize(among, dim=1)
    if weights is None:
        weights = torch.ones(len(first), device=first.device)
    if weights.shape != first.shape[:1]:
        raise ValueError(f"expected {len(first)} weights of rows, got {tuple(weights.shape)}.")
    weights = weights.to(first.dtype) / weights.sum()
    first = first / temperature
    positive = (first * second).sum(1)
    if limit is not None:
        positive = positive.clamp(-limit, limit)
    everything = weighted_logsumexp(first, second if among is None else among, weights, dtype)
    return everything - (weights * positive).sum()
