"""Cold items: vectors of content learn to lie where those of known items do.

An item without clicks has no trained id, only its content. Its content vector is pulled to the
vectors that interactions gave to items with clicks; afterwards it can stand in for them.

Stability: caller
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recsys.losses.in_batch import Guide, in_batch


def content_to_id(
    content: Tensor,
    id_vectors: Tensor,
    *,
    ids: Tensor | None = None,
    guide: Guide | None = None,
    temperature: float = 0.05,
    length_weight: float = 0.0,
) -> Tensor:
    """The contrast of an item's content vector with its id vector, and the difference of lengths.

    The recommender's id vectors are the teacher and get no gradient. Directions are compared by
    `recsys.losses.in_batch.in_batch`; with ``length_weight`` the mean of
    ``(|content| - |id|)^2 / mean |id|^2`` is added, for in an index of inner products the length of
    an item counts.

    Args:
        content: Of the items of a batch, trained.
        id_vectors: Of the same items, by the recommender.
        ids: Of the items: an item that comes twice is no negative of itself.
        guide: Tells near duplicates, say by the content of an encoder that is not trained.
        temperature: Of the contrast.
        length_weight: Of the difference of lengths.

    Raises:
        ValueError: Shapes do not fit, or a number is out of range.

    Shape:
        - content, id_vectors: (B, D)
        - ids: (B,)
        - output: scalar

    Source:
        SAIL-Embedding technical report, arXiv 2510.12709, ID-to-item distillation, read second
        hand; in-batch negatives as there, the term of lengths is ours.

    Example:
        >>> rows = torch.eye(3)
        >>> content_to_id(rows, rows, temperature=1.0)  # -ln(e / (e + 2))
        tensor(0.5514)
        >>> content_to_id(2 * rows, rows, temperature=1.0, length_weight=0.5)
        tensor(1.0514)
    """
    if not length_weight >= 0:
        raise ValueError(f"`length_weight`: expected at least 0, got {length_weight}.")
    teacher = id_vectors.detach()
    loss = in_batch(content, teacher, ids=ids, guide=guide, temperature=temperature)
    if not length_weight:
        return loss
    lengths = torch.linalg.vector_norm(teacher, dim=1)
    apart = (torch.linalg.vector_norm(content, dim=1) - lengths).square().mean()
    return loss + length_weight * apart / lengths.square().mean().clamp(min=1e-12)


def sequence_to_item(
    history: Tensor,
    offsets: Tensor,
    targets: Tensor,
    *,
    target_ids: Tensor | None = None,
    known: Tensor | None = None,
    log_q: Tensor | None = None,
    temperature: float = 0.05,
) -> Tensor:
    """The contrast of what a user has seen, by content, with the item that came next.

    A history is the mean of the directions of its items, so that one long vector does not speak for
    all. Both sides are trained: contents that are seen one after the other come near.

    Args:
        history: Content vectors of the items of all histories, one history after the other.
        offsets: Where the history of every user begins, and the end of the last.
        targets: Content vector of the next item of every user.
        target_ids: Of the next items: equal ones are no negatives of each other.
        known: Whether the user of the row has the target of the column, which is then no negative.
        log_q: Logarithm of every target's share of the targets.
        temperature: Of the contrast.

    Raises:
        ValueError: Shapes do not fit, or a history is empty.

    Shape:
        - history: (T, D)
        - offsets: (B + 1,) int64
        - targets: (B, D)
        - target_ids, log_q: (B,)
        - known: (B, B) bool
        - output: scalar

    Source:
        SAIL-Embedding technical report, arXiv 2510.12709, sequence-to-item distillation, read
        second hand. There an encoder reads the history; here it is the mean.

    Example:
        >>> items = torch.eye(2)
        >>> history = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> sequence_to_item(history, torch.tensor([0, 2, 3]), items, temperature=1.0)
        tensor(0.3133)
    """
    lengths = offsets.diff()
    if offsets.dim() != 1 or len(lengths) != len(targets):
        raise ValueError(
            f"expected offsets ({len(targets) + 1},) for {len(targets)} targets, got "
            f"{tuple(offsets.shape)}."
        )
    if not bool((lengths > 0).all()) or int(offsets[0]) or int(offsets[-1]) != len(history):
        raise ValueError(
            f"expected offsets that rise from 0 to {len(history)}, each history with an item; "
            "leave users without one out."
        )
    users = functional.embedding_bag(
        torch.arange(len(history), device=history.device),
        functional.normalize(history, dim=1),
        offsets[:-1],
        mode="mean",
    )
    return in_batch(
        users, targets, ids=target_ids, known=known, log_q=log_q, temperature=temperature
    )


class F1Threshold(NamedTuple):
    """Where to cut a similarity so that F1 is best."""

    value: float
    """A pair as similar as this or more counts as positive."""
    f1: float
    """Of that rule."""


def f1_threshold(similarities: Tensor, positive: Tensor) -> F1Threshold:
    """The similarity at which "at least this is positive" has the best F1.

    Args:
        similarities: Of pairs.
        positive: Whether each is a true one.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or no pair is positive.

    Shape:
        - similarities, positive: (P,)

    Source:
        SAIL-Embedding technical report, arXiv 2510.12709: lambda* = argmax F1(lambda), for the
        dynamic mining of hard negatives, see `below_threshold`.

    Example:
        >>> near = torch.tensor([0.9, 0.7, 0.5, 0.1])
        >>> f1_threshold(near, torch.tensor([True, False, True, False]))
        F1Threshold(value=0.5, f1=0.8)
    """
    if similarities.dim() != 1 or similarities.shape != positive.shape:
        raise ValueError(
            f"expected similarities and labels (P,), got {tuple(similarities.shape)} and "
            f"{tuple(positive.shape)}."
        )
    if not bool(similarities.isfinite().all()):
        raise ValueError("expected finite similarities.")
    values, order = similarities.detach().double().sort(descending=True)
    right = positive.bool()[order].double().cumsum(0)
    if not len(right) or not float(right[-1]):
        raise ValueError("expected at least one positive pair.")
    counts = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    f1 = 2 * right / (counts + right[-1])
    # Pairs of equal similarity fall together: only the last of them is a place to cut.
    last = torch.ones_like(values, dtype=torch.bool)
    last[:-1] = values[1:] < values[:-1]
    best = int(f1.masked_fill(~last, -1.0).argmax())
    return F1Threshold(float(similarities[order[best]]), float(f1[best]))


def below_threshold(similarities: Tensor, threshold: float, count: int) -> Tensor:
    """The columns of the highest similarities that still lie below a threshold, row by row.

    Above the threshold may lie positives that nobody labelled; far below lies what is easy.

    Args:
        similarities: Of queries and candidates, ``-inf`` where a candidate must not be taken.
        threshold: From `f1_threshold`.
        count: Columns a row.

    Returns:
        Columns, nearest first; -1 where a row has no more.

    Raises:
        ValueError: ``count`` is not from 1 to the number of candidates.

    Shape:
        - similarities: (B, C)
        - output: (B, count) int64

    Source:
        SAIL-Embedding technical report, arXiv 2510.12709, dynamic hard negatives.

    Example:
        >>> below_threshold(torch.tensor([[0.9, 0.2, 0.6], [0.8, 0.9, 0.7]]), 0.7, 2)
        tensor([[ 2,  1],
                [-1, -1]])
    """
    if similarities.dim() != 2 or not 1 <= count <= similarities.shape[1]:
        raise ValueError(
            f"expected similarities (B, C) and a count from 1 to C, got "
            f"{tuple(similarities.shape)} and {count}."
        )
    near = similarities.detach().masked_fill(similarities >= threshold, -torch.inf)
    values, columns = near.topk(count, dim=1)
    return columns.masked_fill(values == -torch.inf, -1)
