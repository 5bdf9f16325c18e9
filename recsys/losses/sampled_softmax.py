"""Softmax over a sample of the items, corrected for how the sample was drawn.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.losses.weighted_logsumexp import weighted_logsumexp


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
    - *Negatives are the positives of others*, each in the batch about as often as it is seen:
      ``log_q``, the logarithm of its share of the training pairs, belongs to the positives too,
      since they come from the same draw (Yi et al., RecSys 2019, section 3).

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


def shared_softmax(
    queries: Tensor,
    own: Tensor,
    keys: Tensor,
    *,
    bias: Tensor | None = None,
    own_bias: Tensor | None = None,
    weights: Tensor | None = None,
    hidden: Tensor | None = None,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`sampled_softmax` of dot products where all rows share their negatives, without B x N scores.

    Mean of ``-ln (exp s_b / (exp s_b + sum_n exp s_bn))`` with ``s_b = q_b . o_b / t + own_bias_b``
    and ``s_bn = q_b . k_n / t + bias_n``.

    Args:
        queries: Of every row.
        own: The key that belongs to it.
        keys: What it is to be told from.
        bias: Added to scores of the keys, say ``-log q``, or the logarithm of how often a key
            counts.
        own_bias: Added to scores of the own keys.
        weights: Of the rows in the mean, or None for all alike.
        hidden: Pairs ``(row, key)`` that do not count, as positions.
        temperature: t.
        dtype: Of the products, see `recsys.losses.weighted_logsumexp`.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - queries, own: (B, D)
        - keys: (N, D)
        - bias: (N,)
        - own_bias, weights: (B,)
        - hidden: (2, number of them) int64
        - output: scalar

    Example:
        >>> rows = torch.eye(2)
        >>> loss = shared_softmax(rows, rows, torch.zeros(3, 2), temperature=0.5)
        >>> loss, -torch.log(torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 3))
        (tensor(0.3408), tensor(0.3408))
    """
    if queries.shape != own.shape or queries.dim() != 2 or keys.shape[1:] != queries.shape[1:]:
        raise ValueError(
            f"expected queries and own keys (B, D) and keys (N, D), got {tuple(queries.shape)}, "
            f"{tuple(own.shape)} and {tuple(keys.shape)}."
        )
    _check_temperature(temperature)
    queries = queries / temperature
    positive = (queries * own).sum(1)
    if own_bias is not None:
        _check_shape("own_bias", own_bias, positive.shape)
        positive = positive + own_bias
    if bias is not None:  # as one more column, which costs less than another pass over B x N
        _check_shape("bias", bias, keys.shape[:1])
        queries = torch.cat([queries, torch.ones_like(queries[:, :1])], 1)
        keys = torch.cat([keys, bias[:, None].to(keys.dtype)], 1)
    if weights is None:
        shares = torch.full_like(positive, 1 / len(positive))
    else:
        _check_shape("weights", weights, positive.shape)
        shares = (weights / weights.sum()).to(positive.dtype)
    sums = weighted_logsumexp(queries, keys, shares, dtype, own=positive, hidden=hidden)
    return sums - (shares * positive).sum()


def _check_shape(name: str, value: Tensor, *allowed: torch.Size) -> None:
    if value.shape not in allowed:
        expected = " or ".join(str(tuple(shape)) for shape in allowed)
        raise ValueError(f"`{name}`: expected {expected}, got {tuple(value.shape)}.")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature`: expected a number above 0, got {temperature}.")
