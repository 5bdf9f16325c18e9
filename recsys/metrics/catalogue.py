"""What the lists of all users show of the catalogue: popular items only, or many?

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def recommended_counts(lists: Tensor, num_items: int) -> Tensor:
    """In how many lists every item is.

    Args:
        lists: Item numbers; negative where a list has ended.
        num_items: I.

    Shape:
        - lists: (N, K) integers
        - output: (I,) int64

    Example:
        >>> recommended_counts(torch.tensor([[0, 2], [2, -1]]), 3).tolist()
        [1, 0, 2]
    """
    items = lists.flatten()
    return torch.bincount(items[items >= 0], minlength=num_items)


def item_coverage(counts: Tensor) -> float:
    """Share of the items that are in at least one list.

    Args:
        counts: In how many lists each item is that could be recommended.

    Raises:
        ValueError: There is no item.

    Shape:
        - counts: (I,)

    Example:
        >>> item_coverage(torch.tensor([5, 0, 1, 0]))
        0.5
    """
    if not len(counts):
        raise ValueError("`counts` must have a value for at least one item.")
    return float((counts > 0).double().mean())


def gini_index(counts: Tensor) -> float:
    """How unequally items are recommended: 0 if all equally often, near 1 if few have it all.

    ``sum_j (2j - I - 1) c_j / (I sum c)`` with counts c in rising order, j = 1..I.

    Args:
        counts: In how many lists each item is that could be recommended.

    Returns:
        nan where nothing was recommended.

    Raises:
        ValueError: There is no item.

    Shape:
        - counts: (I,)

    Example:
        >>> gini_index(torch.tensor([0, 0, 0, 8])), gini_index(torch.tensor([2, 2]))
        (0.75, 0.0)
    """
    size = len(counts)
    if not size:
        raise ValueError("`counts` must have a value for at least one item.")
    ordered = counts.double().sort().values
    place = torch.arange(1, size + 1, dtype=torch.float64)
    return float(((2 * place - size - 1) * ordered).sum() / (size * ordered.sum()))


def user_popularity(lists: Tensor, degrees: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Mean number of training users of the items in every list.

    Args:
        lists: Item numbers; negative where a list has ended.
        degrees: Training users of every item.
        ks: Cut-offs.

    Returns:
        ``{"popularity@10": ...}``, a value a user; nan for an empty list.

    Shape:
        - lists: (N, K) integers
        - degrees: (I,)
        - output: (N,) float64 each

    Example:
        >>> user_popularity(torch.tensor([[0, 2]]), torch.tensor([5, 9, 1]), [1, 2])["popularity@2"]
        tensor([3.], dtype=torch.float64)
    """
    return _list_means("popularity", degrees.double(), lists, ks)


def user_novelty(
    lists: Tensor, degrees: Tensor, num_users: int, ks: Sequence[int]
) -> dict[str, Tensor]:
    """Mean of ``-log2(share of users who have the item)`` of every list: surprise in bits.

    An item that nobody has counts like one that a single user has.

    Args:
        lists: Item numbers; negative where a list has ended.
        degrees: Training users of every item.
        num_users: U.
        ks: Cut-offs.

    Returns:
        ``{"novelty@10": ...}``, a value a user; nan for an empty list.

    Shape:
        - lists: (N, K) integers
        - degrees: (I,)
        - output: (N,) float64 each

    Source:
        Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems",
        PNAS 2010 (self-information).

    Example:
        >>> lists, degrees = torch.tensor([[0, 1]]), torch.tensor([8, 2])
        >>> user_novelty(lists, degrees, num_users=8, ks=[1, 2])["novelty@2"].item()
        1.0
    """
    bits = -torch.log2(degrees.double().clamp(min=1) / num_users)
    return _list_means("novelty", bits, lists, ks)


def _list_means(name: str, values: Tensor, lists: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    there = lists >= 0
    sums = torch.where(there, values[lists.clamp(min=0).long()], 0.0).cumsum(1)
    counts = there.cumsum(1)
    return {f"{name}@{k}": sums[:, k - 1] / counts[:, k - 1] for k in ks}
