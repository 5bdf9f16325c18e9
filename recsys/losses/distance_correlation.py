"""Distance correlation: how much two vectors depend on each other, not only linearly.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 1e-8  # below roots, whose gradient at 0 is infinite


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Distance correlation of the entries of two vectors: 0 is independent, 1 is the same shape.

    With a_kl = |x_k - x_l| centered by row and column to A, and B of y alike,
    ``dCov(x, y)^2 = mean(A * B)`` and the correlation is
    ``dCov(x, y) / sqrt(dCov(x, x) dCov(y, y))``.

    Args:
        x: Any.
        y: As long as x.

    Raises:
        ValueError: They are no vectors of one length.

    Shape:
        - x, y: (N,)
        - output: scalar

    Source:
        Szekely, Rizzo and Bakirov, "Measuring and Testing Dependence by Correlation of Distances",
        2007; roots are of values plus 1e-8, as in KGIN's code.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 5.0])
        >>> round(float(distance_correlation(x, 3 - 2 * x)), 3)
        1.0
    """
    if x.dim() != 1 or x.shape != y.shape:
        raise ValueError(
            f"expected two vectors of one length, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    a, b = _centered(x), _centered(y)
    both, first, second = (
        ((one * two).mean().clamp(min=0) + _SMALL).sqrt() for one, two in ((a, b), (a, a), (b, b))
    )
    return both / (first * second + _SMALL).sqrt()


def _centered(x: Tensor) -> Tensor:
    """Distances of all entries, less the means of row and column, plus the mean of all."""
    distances = ((x[:, None] - x[None]).square() + _SMALL).sqrt()
    rows, columns = distances.mean(0, keepdim=True), distances.mean(1, keepdim=True)
    return distances - rows - columns + distances.mean()


def mutual_dependence(rows: Tensor) -> Tensor:
    """Sum of the distance correlations of all pairs of rows.

    Args:
        rows: (P, N); 0 for one row.
    """
    first, second = torch.triu_indices(len(rows), len(rows), 1).tolist()
    pairs = [distance_correlation(rows[i], rows[j]) for i, j in zip(first, second)]
    return torch.stack(pairs).sum() if pairs else rows.new_zeros(())
