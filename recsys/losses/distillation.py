"""Distillation: two towers learn to score like a ranker that sees both sides at once.

The ranker (a CTR model) is slow and good, the towers are quick; what the ranker says of pairs is a
richer target than a click. The teacher's logits are constants here.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor


def logit_distillation(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over pairs of ``sum_t (student_t - teacher_t)^2``.

    Logits, not probabilities: near 0 and 1 those hide how sure the teacher is. DSE mixes it with
    the loss of the labels: ``(1 - c) label_loss + c logit_distillation``.

    Args:
        student: Logits of the towers.
        teacher: Logits of the ranker for the same pairs.
        weights: Of the pairs, say 1 over how often they were sampled; None for all alike.

    Raises:
        ValueError: Shapes do not fit, or weights are not above 0 in sum.

    Shape:
        - student, teacher: (B,), or (B, T) for T targets
        - weights: (B,)
        - output: scalar

    Source:
        Barkan et al., "Scalable Attentive Sentence Pair Modeling via Distilled Sentence Embedding",
        AAAI 2020, as its official code has it (sum over outputs, mean over pairs). Weights are
        ours.

    Example:
        >>> logit_distillation(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]))
        tensor(2.)
    """
    if student.shape != teacher.shape or student.dim() not in (1, 2):
        raise ValueError(
            "expected student and teacher of one shape, (B,) or (B, T), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    squares = (student - teacher.detach()).square()
    if squares.dim() == 2:
        squares = squares.sum(1)
    return _mean(squares, weights)


def list_distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    known: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over lists of ``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    Compares the order within a list and not the level of its scores, so inner products of towers,
    which are no logits, may serve as they are. The factor keeps gradients of one size for all T.

    Args:
        student: Scores of the towers for the candidates of every query.
        teacher: Logits of the ranker for the same candidates.
        temperature: T; a high one weighs the whole list, a low one its head.
        known: Which candidates count; None for all. Lists with none count nothing.
        weights: Of the lists.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` is not above 0.

    Shape:
        - student, teacher, known: (B, C)
        - weights: (B,)
        - output: scalar

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, over the candidates of
        a query in place of classes. DSE itself has only `logit_distillation`.

    Example:
        >>> teacher = torch.tensor([[0.0, 2.0]])
        >>> list_distillation(teacher + 5.0, teacher)
        tensor(0.)
        >>> list_distillation(torch.zeros(1, 2), teacher) > 0.3
        tensor(True)
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"expected student and teacher of one shape (B, C), got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature`: expected a number above 0, got {temperature}.")
    if known is not None and known.shape != student.shape:
        raise ValueError(f"expected known (B, C), got {tuple(known.shape)}.")
    there = torch.ones_like(student, dtype=torch.bool) if known is None else known
    # A list with nothing in it is softened over everything and then left out.
    shown = there | ~there.any(1, keepdim=True)
    lowest = torch.finfo(student.dtype).min
    wanted = (teacher.detach() / temperature).masked_fill(~shown, lowest).log_softmax(1)
    found = (student / temperature).masked_fill(~shown, lowest).log_softmax(1)
    terms = torch.where(there, wanted.exp() * (wanted - found), torch.zeros_like(found))
    some = there.any(1)
    weights = some.to(student.dtype) if weights is None else weights * some
    if not bool(some.any()):
        return terms.sum()
    return temperature**2 * _mean(terms.sum(1), weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    if weights.shape != values.shape:
        raise ValueError(
            f"expected a weight for each of {len(values)} rows, got {tuple(weights.shape)}."
        )
    total = weights.sum()
    if not bool(total > 0):
        raise ValueError("expected weights above 0 in sum.")
    return (weights * values).sum() / total
