"""How good the lists of users are: recall, NDCG and others, one value a user.

Relevance is binary. A list has K items, best first; ``hit_r`` is 1 where the item at rank r = 1, 2,
... is relevant to the user, and ``n`` is the number of items that are, found or not:

    recall@k     sum_{r <= k} hit_r / n
    precision@k  sum_{r <= k} hit_r / k
    hr@k         1 if there is a hit within k, else 0 (hit rate)
    mrr@k        1 / rank of the first hit within k, else 0 (reciprocal rank)
    map@k        sum_{r <= k} hit_r precision@r / min(k, n) (average precision)
    ndcg@k       sum_{r <= k} hit_r / log2(r + 1) / sum_{r <= min(k, n)} 1 / log2(r + 1)

NDCG is measured against the best list that exists, not against the best order of what was
retrieved. Lists shorter than k count as if filled up with items that are not relevant. Users
without a relevant item have no value: leave them out, and say how many there were.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.errors import DataError

RANKING_METRICS = ("recall", "ndcg", "hr", "mrr", "map", "precision")
"""Names of the metrics of a user's list, without ``@k``."""
_USERS_AT_A_TIME = 1 << 17


def find_hits(lists: Tensor, users: Tensor, relevant: Tensor, num_items: int) -> Tensor:
    """Whether each recommended item is relevant to its user.

    Args:
        lists: Item numbers; negative where a list has ended.
        users: Of every list.
        relevant: ``user * num_items + item`` of all relevant pairs, rising.
        num_items: I.

    Shape:
        - lists: (N, K) integers
        - users: (N,) int64
        - relevant: (E,) int64
        - output: (N, K) bool

    Example:
        >>> lists, users = torch.tensor([[2, 0], [1, -1]]), torch.tensor([0, 3])
        >>> find_hits(lists, users, torch.tensor([0, 10]), num_items=3).tolist()
        [[False, True], [True, False]]
    """
    if not len(relevant):
        return torch.zeros_like(lists, dtype=torch.bool)
    keys = users[:, None] * num_items + lists
    position = torch.searchsorted(relevant, keys).clamp_(max=len(relevant) - 1)
    return (relevant[position] == keys) & (lists >= 0)


def user_ranking_metrics(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """All metrics of `RANKING_METRICS` at every k.

    Args:
        hits: Whether the item at each rank is relevant, best rank first.
        relevant: Number of relevant items of every user.
        ks: Cut-offs.

    Returns:
        ``{"recall@10": ...}``, a value a user.

    Raises:
        ValueError: The shapes do not fit, or a k is not within the lists.
        DataError: A user has no relevant item.

    Shape:
        - hits: (N, K) bool
        - relevant: (N,) int64
        - output: (N,) float64 each

    Source:
        Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002
        (NDCG, with binary gains). The denominator of MAP is that of trec_eval's ``map_cut`` with
        n replaced by min(k, n), so that a perfect list scores 1.

    Example:
        >>> hits = torch.tensor([[False, True, True]])
        >>> found = user_ranking_metrics(hits, torch.tensor([4]), [3])
        >>> {name: round(float(value), 3) for name, value in found.items()}  # doctest: +ELLIPSIS
        {'recall@3': 0.5, 'ndcg@3': 0.531, 'hr@3': 1.0, 'mrr@3': 0.5, 'map@3': 0.389, ...}
    """
    if hits.dim() != 2 or relevant.shape != hits.shape[:1]:
        raise ValueError(
            "expected hits (users, ranks) and one count a user, got "
            f"{tuple(hits.shape)} and {tuple(relevant.shape)}."
        )
    if not ks or min(ks) < 1 or max(ks) > hits.shape[1]:
        raise ValueError(f"`ks` must be from 1 to the {hits.shape[1]} ranks, got {list(ks)}.")
    if bool((relevant < 1).any()):
        raise DataError(
            f"{int((relevant < 1).sum()):,} users have no relevant item, so their lists cannot be "
            "judged. Leave them out."
        )
    parts = [
        _metrics(hits[start : start + _USERS_AT_A_TIME], relevant[start : start + _USERS_AT_A_TIME],
                 ks)
        for start in range(0, max(1, len(hits)), _USERS_AT_A_TIME)
    ]  # fmt: skip
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _metrics(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    longest = max(ks)
    hits = hits[:, :longest].double()
    relevant = relevant.double()
    rank = torch.arange(1, longest + 1, dtype=torch.float64)
    discount = 1.0 / torch.log2(rank + 1)
    found = hits.cumsum(1)
    gain = (hits * discount).cumsum(1)
    average = (hits * found / rank).cumsum(1)
    # Before the first hit 0, after it its 1 / rank: the largest so far.
    first = (hits / rank).cummax(1).values
    ideal = discount.cumsum(0)
    values: dict[str, Tensor] = {}
    for k in ks:
        possible = relevant.clamp(max=k)
        values[f"recall@{k}"] = found[:, k - 1] / relevant
        values[f"ndcg@{k}"] = gain[:, k - 1] / ideal[possible.long() - 1]
        values[f"hr@{k}"] = (found[:, k - 1] > 0).double()
        values[f"mrr@{k}"] = first[:, k - 1]
        values[f"map@{k}"] = average[:, k - 1] / possible
        values[f"precision@{k}"] = found[:, k - 1] / k
    return values
