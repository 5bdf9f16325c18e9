"""The contrast of a batch of clicks: of the items that were clicked in it, which one was this?

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from recsys.losses.in_batch import Guide, in_batch


def clicked_softmax(
    users: Tensor,
    items: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    weights: Tensor | None = None,
    log_q: Tensor | None = None,
    guide: Guide | None = None,
    prefixes: Sequence[int] | None = None,
    normalize: bool = False,
    temperature: float = 0.05,
) -> Tensor:
    """Mean of ``-ln (exp s_i / (exp s_i + sum_j w_j exp (s_ij - log(N q_j))))`` over the clicks.

    ``s_ij = u_i . v_j / temperature`` and ``s_i = s_ii``; i and j run over the rows with label 1, j
    over those with another item than i; N is the sum of their weights. A row of weight 3 gives what
    three equal rows give, one of weight 0 what no row gives. Rows with label 0 are shown items, not
    drawn ones: they would teach which items get shown, so they do not count.

    Items are in the batch as often as they are clicked. With ``log_q`` the sum over j estimates
    that over all other items, so the loss tends to the softmax over the whole catalogue. The own
    item is there for certain and not by a draw, so nothing is subtracted from it, which makes this
    right for large batches. It is `recsys.losses.in_batch.in_batch` of the clicks, without
    ``correct_own``.

    Args:
        users: Of every row.
        items: Of every row.
        labels: 1 for a click.
        ids: Number of every row's item: equal ones are no negatives of each other.
        weights: Of every row, or None for all 1.
        log_q: Logarithm of the share of clicks that the row's item has, or None.
        guide: Of every row, see `recsys.losses.in_batch.Guide`.
        prefixes: See `recsys.losses.in_batch.in_batch`.
        normalize: Whether ``u_i . v_j`` is a cosine.
        temperature: Inner products are divided by it.

    Raises:
        ValueError: Shapes do not fit, ``temperature`` is not above 0, or ``prefixes`` do not rise
            to the full width.

    Shape:
        - users, items: (B, D)
        - labels, ids, weights, log_q: (B,)
        - output: scalar; 0 where no row has label 1

    Source:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
        RecSys 2019, equations 3 to 5, with the positive as in sampled softmax (Bengio and Senecal,
        IEEE TNN 2008; see `recsys.losses.sampled_softmax.sampled_softmax`, "drawn apart"). There a
        reward weighs rows outside of the logarithm only.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> labels, ids = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([7, 8, 9])
        >>> clicked_softmax(rows, rows, labels, ids, temperature=1.0)  # -ln(e / (e + 1))
        tensor(0.3133)
    """
    if users.dim() != 2 or users.shape != items.shape:
        raise ValueError(
            f"expected users and items (B, D) of one shape, got {tuple(users.shape)} and "
            f"{tuple(items.shape)}."
        )
    given = {"labels": labels, "ids": ids, "weights": weights, "log_q": log_q}
    for name, value in given.items():
        if value is not None and value.shape != users.shape[:1]:
            raise ValueError(
                f"`{name}`: expected {tuple(users.shape[:1])}, got {tuple(value.shape)}."
            )
    clicked = labels > 0.5
    if weights is not None:
        clicked = clicked & (weights > 0)
    if not bool(clicked.any()):
        return (users.sum() + items.sum()) * 0.0  # with a graph: every rank has a gradient
    if guide is not None:
        guide = dataclasses.replace(guide, queries=guide.queries[clicked], keys=guide.keys[clicked])
    return in_batch(
        users[clicked],
        items[clicked],
        ids=ids[clicked],
        log_q=None if log_q is None else log_q[clicked].to(users.dtype),
        correct_own=False,
        weights=None if weights is None else weights[clicked].to(users.dtype),
        guide=guide,
        prefixes=prefixes,
        normalize=normalize,
        temperature=temperature,
    )
