"""InfoNCE: a row's second view is nearer to it than the views of others.

Stability: caller
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    among: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Mean over rows of ``-ln (exp(f_b s_b / t) / sum_c exp(f_b c / t))``.

    The sum runs over the second views of the batch (SimCLR, SimGCL, XSimGCL), or over ``among``,
    say the second views of all users or items (SGL, LightGCL); ``second`` must be among them. A
    node that is twice in the batch is its own negative, so pass each node once.

    Official codes differ in the reduction: SGL's sums over the batch, SimGCL's takes the mean.

    Args:
        first: One view of every node of the batch.
        second: The other view.
        temperature: t.
        among: What the second view is chosen from; None takes ``second``.
        normalize: Scales all vectors to length 1, so that products are cosines.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - first, second: (B, D)
        - among: (M, D)
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
    positive = (first * second).sum(1) / temperature
    everything = first @ (second if among is None else among).T / temperature
    return (everything.logsumexp(1) - positive).mean()
