"""Ranking metrics of some users, or of some items: where is the model worse?

Stability: caller
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.metrics.ranking import user_ranking_metrics


@dataclasses.dataclass(frozen=True, slots=True)
class RankingSlice:
    """One line of a slice table.

    Args:
        value: Training interactions of its users or items, say ``5-12``.
        users: Judged users.
        pairs: Their relevant pairs that count.
        metrics: Means over the users.
    """

    value: str
    users: int
    pairs: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Nodes by their number of training interactions.

    Args:
        names: Of the groups, few interactions first.
        codes: Group of every node.

    Shape:
        - codes: (number of nodes,) int64
    """

    names: tuple[str, ...]
    codes: np.ndarray


def degree_groups(
    degrees: np.ndarray, weights: np.ndarray, cold_below: int, num_groups: int
) -> Groups:
    """New nodes (no interaction), cold ones (few), and the others in groups of equal weight.

    Args:
        degrees: Training interactions of every node.
        weights: What a node counts when groups are made.
        cold_below: Fewer interactions than this are cold.
        num_groups: Of the others, at most (nodes of one degree stay together).

    Shape:
        - degrees, weights: (number of nodes,)

    Example:
        >>> groups = degree_groups(np.array([0, 3, 9, 7, 80, 7]), np.ones(6), 5, 2)
        >>> groups.names, groups.codes.tolist()
        (('new (0)', 'cold (1-4)', '5-7', '8 or more'), [0, 1, 3, 2, 3, 2])
    """
    warm = np.flatnonzero(degrees >= max(1, cold_below))
    order = warm[np.argsort(degrees[warm], kind="stable")]
    share = np.cumsum(weights[order], dtype=np.float64)
    if len(share) and share[-1] == 0:
        share = np.arange(1.0, len(order) + 1)
    wanted = np.arange(1, num_groups) / num_groups * (share[-1] if len(share) else 0.0)
    cuts = order[np.searchsorted(share, wanted, side="left")] if len(order) else order[:0]
    # Highest degree of every group but the last.
    bounds = [0, *([cold_below - 1] if cold_below > 1 else [])]
    tops = np.unique(degrees[cuts])
    bounds += [int(top) for top in tops if len(order) and top < degrees[order[-1]]]
    names = ["new (0)"]
    for place, (low, high) in enumerate(itertools.pairwise(bounds)):
        text = f"{low + 1}-{high}" if low + 1 < high else f"{high}"
        names.append(f"cold ({text})" if place == 0 and cold_below > 1 else text)
    names.append(f"{bounds[-1] + 1} or more")
    return Groups(tuple(names), np.searchsorted(bounds, degrees, side="left"))


def user_slices(
    groups: Groups, users: np.ndarray, relevant: np.ndarray, values: dict[str, np.ndarray]
) -> list[RankingSlice]:
    """Means over the judged users of every group; groups without one are left out.

    Args:
        groups: Of all users.
        users: Numbers of the judged users.
        relevant: How many items are relevant to each.
        values: Metrics of each.

    Shape:
        - users, relevant: (N,)
        - values: (N,) each
    """
    codes = groups.codes[users]
    table = []
    for code, name in enumerate(groups.names):
        chosen = codes == code
        if chosen.any():
            means = {metric: float(column[chosen].mean()) for metric, column in values.items()}
            table.append(RankingSlice(name, int(chosen.sum()), int(relevant[chosen].sum()), means))
    return table


def item_slices(
    groups: Groups, lists: Tensor, hits: Tensor, rows: Tensor, items: Tensor, ks: Sequence[int]
) -> list[RankingSlice]:
    """As if only the items of a group were relevant, in the lists of all items.

    A user counts where at least one relevant item is in the group.

    Args:
        groups: Of all items.
        lists: Of the judged users.
        hits: Whether each recommended item is relevant.
        rows: Row in ``lists`` of the user of every relevant pair.
        items: Item of every relevant pair.
        ks: Cut-offs.

    Shape:
        - lists, hits: (N, K)
        - rows, items: (E,)
    """
    codes = torch.from_numpy(groups.codes)
    recommended = codes[lists.clamp(min=0).long()]
    table = []
    for code, name in enumerate(groups.names):
        counts = torch.bincount(rows[codes[items] == code], minlength=len(lists))
        chosen = counts > 0
        if not bool(chosen.any()):
            continue
        found = (hits & (recommended == code))[chosen]
        values = user_ranking_metrics(found, counts[chosen], ks)
        means = {metric: float(column.mean()) for metric, column in values.items()}
        table.append(RankingSlice(name, int(chosen.sum()), int(counts.sum()), means))
    return table
