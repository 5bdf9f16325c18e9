"""Which blocks of a table are alike: greedy merging with locality-sensitive hashing.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor

_EXACT = 512  # up to so many blocks all pairs are compared
_PROJECTIONS = 8
_PAIRS = 1 << 13  # compared at a time


@torch.no_grad()
def merge(
    blocks: Tensor, keep: int, generator: torch.Generator, most: float | None = None
) -> Tensor:
    """Merges blocks into earlier ones, the most similar first, until so many are kept.

    In every round pairs are compared: all of them where there are few blocks, else neighbours
    along random directions (L2-LSH with sorted order for buckets, so there is no bucket width to
    tune). A pair costs its squared distance times the blocks that move. A block moves in its
    cheapest pair unless it is taken as the target of a cheaper one; at most a quarter moves in a
    round. Blocks keep their values.

    Args:
        blocks: What to compare.
        keep: At least so many stay.
        generator: On the CPU; the same gives the same blocks.
        most: Largest squared distance of a merged pair.

    Returns:
        Of every block the one that stands for it, at most its own position.

    Shape:
        - blocks: (N, W)
        - output: (N,) int64
    """
    owner = torch.arange(blocks.shape[0], device=blocks.device)
    size, alive = torch.ones_like(owner), owner
    while alive.shape[0] > keep:
        first, second, distance = _pairs(blocks[alive], generator)
        if most is not None:
            near = distance <= most
            first, second, distance = first[near], second[near], distance[near]
        if not first.shape[0]:
            break
        order = torch.argsort(distance * size[alive[second]], stable=True)
        first, second = _moves(first[order], second[order], alive.shape[0])
        count = min(alive.shape[0] - keep, max(1, alive.shape[0] // 4))
        to, moved = alive[first[:count]], second[:count]
        owner[alive[moved]] = to
        size.index_add_(0, to, size[alive[moved]])
        stays = torch.ones_like(alive, dtype=torch.bool)
        stays[moved] = False
        alive = alive[stays]
    while not torch.equal(owner, owner[owner]):
        owner = owner[owner]
    return owner


def _moves(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pairs that go together in one round, of pairs in ascending order of cost.

    Targets stay and every block moves once at most. The cheapest pair is always among them.
    """
    rank = torch.arange(first.shape[0], device=first.device)
    none = rank.new_full((count,), first.shape[0])
    moves = none.scatter_reduce(0, second, rank, "amin")
    wanted = none.scatter_reduce(0, first, rank, "amin")
    is_mover = moves < wanted
    taken = (moves[second] == rank) & is_mover[second] & ~is_mover[first]
    return first[taken], second[taken]


def _pairs(blocks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of positions (earlier, later) with their squared distance."""
    count, width = blocks.shape
    if count <= _EXACT:
        first, second = torch.triu_indices(count, count, 1, device=blocks.device)
    else:
        directions = torch.randn(width, _PROJECTIONS, generator=generator).to(blocks.device)
        order = torch.argsort(blocks @ directions, dim=0, stable=True)
        one, other = order[:-1].flatten(), order[1:].flatten()
        first, second = torch.minimum(one, other), torch.maximum(one, other)
    distances = [
        (blocks.index_select(0, a) - blocks.index_select(0, b)).square().sum(1)
        for a, b in zip(first.split(_PAIRS), second.split(_PAIRS))
    ]
    return first, second, torch.cat(distances) if distances else blocks.new_empty(0)
