"""How well classes are told: accuracy and F1, from the table of true and predicted classes.

Stability: caller
"""

from __future__ import annotations

import numpy as np

from recsys.errors import DataError
from recsys.metrics.bootstrap import Interval


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often every class was taken for every other.

    Args:
        labels: True classes, (N,).
        predicted: (N,).
        num_classes: C.

    Returns:
        (C, C) int64, true classes in rows.

    Raises:
        DataError: Lengths differ, there is nothing, or a class is out of range.

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            f"expected as many predicted classes as true ones, one or more, got {predicted.shape} "
            f"and {labels.shape}."
        )
    both = np.concatenate([labels, predicted])
    if both.min() < 0 or both.max() >= num_classes:
        raise DataError(
            f"expected classes from 0 to {num_classes - 1}, got {both.min()} to {both.max()}."
        )
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_scores(table: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of every class.

    A class that nothing was taken for has precision 0, one that no node has recall 0; F1 of a class
    that is in neither is nan.

    Args:
        table: Of `confusion`, (C, C); tables may be stacked in front, (..., C, C).

    Returns:
        ``precision``, ``recall`` and ``f1``, (..., C) each.
    """
    right = np.diagonal(table, axis1=-2, axis2=-1).astype(np.float64)
    told, true = table.sum(-2), table.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(told > 0, right / told, 0.0)
        recall = np.where(true > 0, right / true, 0.0)
        f1 = np.where(told + true > 0, 2 * right / (told + true), np.nan)
    return {"precision": precision, "recall": recall, "f1": f1}


def classification_metrics(table: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 over classes alike (macro) and over nodes alike (micro).

    Micro F1 equals accuracy here, because every node has one class; papers print either. Macro F1
    leaves out classes that neither labels nor predictions have.

    Args:
        table: Of `confusion`.

    Example:
        >>> classification_metrics(np.array([[1, 1], [0, 2]]))
        {'accuracy': 0.75, 'macro_f1': 0.7333333333333334, 'micro_f1': 0.75}
    """
    found = _metrics(table[None])
    return {name: float(values[0]) for name, values in found.items()}


def _metrics(tables: np.ndarray) -> dict[str, np.ndarray]:
    """The same for several tables, (S, C, C)."""
    accuracy = np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))
    macro = np.nanmean(class_scores(tables)["f1"], axis=1)
    return {"accuracy": accuracy, "macro_f1": macro, "micro_f1": accuracy}


def classification_intervals(
    table: np.ndarray, num_samples: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of the metrics by a bootstrap over nodes.

    Args:
        table: Of `confusion`.
        num_samples: Samples drawn.
        level: Share of the samples within the interval.
        seed: Of the draws.
    """
    shares = table.ravel() / table.sum()
    drawn = np.random.default_rng(seed).multinomial(table.sum(), shares, num_samples)
    found = _metrics(drawn.reshape(num_samples, *table.shape))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Interval(*map(float, np.quantile(values, ends))) for name, values in found.items()
    }
