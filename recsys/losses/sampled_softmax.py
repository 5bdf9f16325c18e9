"""Softmax over a sample of the items, corrected for how the sample was drawn.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_softmax(
    positive: Tensor,
    negatives: Tensor,
    *,
    log_q: Tensor | None = None,
    positive_log_q: Tensor | None = None,
    hidden: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Mean of ``-ln (exp s+ / (exp s+ + sum_n exp s_n))``, s = score / temperature - log q.

    Without a correction the optimum is off by ``log q``: items that are often drawn as negatives
    score too low. Which logarithms to pass:

    - *Negatives drawn apart* from the positives, N of them with probability q each:
      ``log_q = log(N q)``, the logarithm of how often an item is expected in the sample, and no
      ``positive_log_q``. Then the sum estimates that of all items without bias, and the loss tends
      to the full softmax. For a uniform draw of N out of I that is ``log(N / I)``.
    - *Negatives are the positives of others*: see `in_batch_softmax`.

    Args:
        positive: Score of the item that was seen.
        negatives: Scores of the drawn items.
        log_q: Subtracted from the scores of negatives, or None.
        positive_log_q: Subtracted from the scores of positives, or None.
        hidden: Negatives that do not count, say those that are the positive itself or that the
            user has seen ("accidental hits"), or None.
        temperature: Scores are divided by it before the correction.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - positive, positive_log_q: (B,)
        - negatives: (B, N)
        - log_q: (N,) where the negatives are shared, or (B, N)
        - hidden: (B, N) bool
        - output: scalar

    Source:
        Bengio and Senecal, "Adaptive importance sampling to accelerate training of a neural
        probabilistic language model", IEEE TNN 2008.

    Example:
        >>> sampled_softmax(torch.tensor([1.0]), torch.tensor([[1.0, 1.0, 9.0]]),
        ...                 hidden=torch.tensor([[False, False, True]])).exp()
        tensor(3.)
    """
    if negatives.dim() != 2 or positive.shape != negatives.shape[:1]:
        raise ValueError(
            "expected positive (B,) and negatives (B, N), got "
            f"{tuple(positive.shape)} and {tuple(negatives.shape)}."
        )
    _check_temperature(temperature)
    positive, negatives = positive / temperature, negatives / temperature
    if log_q is not None:
        _check_shape("log_q", log_q, negatives.shape[1:], negatives.shape)
        negatives = negatives - log_q
    if positive_log_q is not None:
        _check_shape("positive_log_q", positive_log_q, positive.shape)
        positive = positive - positive_log_q
    if hidden is not None:
        _check_shape("hidden", hidden, negatives.shape)
        negatives = negatives.masked_fill(hidden, -torch.inf)
    everything = torch.cat([positive[:, None], negatives], dim=1)
    return (everything.logsumexp(1) - positive).mean()


def in_batch_softmax(
    scores: Tensor,
    items: Tensor,
    *,
    log_q: Tensor | None = None,
    known: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Softmax of every row over the items of its batch: the positives of others are negatives.

    An item is in the batch about as often as it is seen, so without ``log_q`` popular items are
    pushed down for being popular. Here the correction belongs to the positive as well, since it
    comes from the same draw. A column with the row's own item is not a negative of it.

    Args:
        scores: Of the user of every row and the item of every column; positives on the diagonal.
        items: Number of the item of every column.
        log_q: Logarithm of the probability that a drawn row has the column's item (its share of
            the training pairs), or None for no correction.
        known: Whether the user of the row has seen the item of the column: it does not count.
        temperature: Scores are divided by it before the correction.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - scores, known: (B, B)
        - items, log_q: (B,)
        - output: scalar

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations",
        RecSys 2019, section 3.

    Example:
        >>> scores = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
        >>> in_batch_softmax(scores, torch.tensor([7, 8, 7])).exp()  # item 7 twice: 2, 3, 2 choices
        tensor(2.2894)
    """
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or items.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores (B, B) and items (B,), got {tuple(scores.shape)} and "
            f"{tuple(items.shape)}."
        )
    _check_temperature(temperature)
    scores = scores / temperature
    if log_q is not None:
        _check_shape("log_q", log_q, items.shape)
        scores = scores - log_q
    hidden = items[:, None] == items
    if known is not None:
        _check_shape("known", known, scores.shape)
        hidden = hidden | known
    own = torch.eye(len(items), dtype=torch.bool, device=scores.device)
    everything = scores.masked_fill(hidden & ~own, -torch.inf)
    return (everything.logsumexp(1) - scores.diagonal()).mean()


def _check_shape(name: str, value: Tensor, *allowed: torch.Size) -> None:
    if value.shape not in allowed:
        expected = " or ".join(str(tuple(shape)) for shape in allowed)
        raise ValueError(f"`{name}`: expected {expected}, got {tuple(value.shape)}.")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature`: expected a number above 0, got {temperature}.")
