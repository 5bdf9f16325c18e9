"""What inner products of few dimensions can tell apart: a probe of capacity and of precision.

Every pair of items is asked for by a query of its own. Four dimensions are enough to answer all of
them, for any number of items, if numbers are exact: what ends first is the margin, so precision,
and then what optimization can find. Filters and rerankers, not more dimensions, are the cure.

Stability: experimental
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.index import Index

Precision = Literal["float32", "float16", "int8"]


def moment_curve(num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Items in 4 dimensions, and for every pair of them a query whose best two they are.

    Items lie at (cos t, sin t, cos 2t, sin 2t); the query of i and j has the coefficients of
    ``-(1 - cos(t - t_i)) (1 - cos(t - t_j))``, which is 0 at both and below elsewhere.

    Args:
        num_items: N, at least 3.

    Returns:
        Items, queries and pairs.

    Raises:
        DataError: There are fewer than 3 items.

    Shape:
        - output: (N, 4) float64, (P, 4) float64, (P, 2) int64 with P = N (N - 1) / 2

    Source:
        Wang et al., "R^2k is Theoretically Large Enough for Embedding-based Top-k Retrieval",
        arXiv 2601.20844: cyclic polytopes, so 2k dimensions for sets of k. The trigonometric curve
        and its queries are those of the project's reference.

    Example:
        >>> items, queries, pairs = moment_curve(6)
        >>> scores = queries @ items.T
        >>> bool((scores.topk(2).indices.sort().values == pairs).all())
        True
    """
    if num_items < 3:
        raise DataError(f"`num_items` must be at least 3, got {num_items}.")
    angles = 2 * torch.pi * torch.arange(num_items, dtype=torch.float64) / num_items
    items = torch.stack([angles.cos(), angles.sin(), (2 * angles).cos(), (2 * angles).sin()], 1)
    pairs = torch.combinations(torch.arange(num_items), 2)
    one, two = angles[pairs[:, 0]], angles[pairs[:, 1]]
    # (1 - cos(t - a)) (1 - cos(t - b)) = const - cos(t - a) - cos(t - b) + cos(2t - a - b) / 2
    queries = torch.stack(
        [
            one.cos() + two.cos(),
            one.sin() + two.sin(),
            -(one + two).cos() / 2,
            -(one + two).sin() / 2,
        ],
        1,
    )
    return items, queries, pairs


def exact_pairs(num_items: int, precision: Precision = "float32") -> float:
    """Share of all pairs on the moment curve that are found when items have a precision.

    Args:
        num_items: N.
        precision: Of the items; int8 has one scale for all.

    Raises:
        DataError: The precision is not known, or there are fewer than 3 items.

    Example:
        >>> exact_pairs(20), exact_pairs(20, "int8") < 1.0
        (1.0, True)
    """
    items, queries, pairs = moment_curve(num_items)
    if precision == "float32":
        stored = items.float()
    elif precision == "float16":
        stored = items.half().float()
    elif precision == "int8":
        stored = (items * 127).round().float() / 127
    else:
        raise DataError(f"`precision` must be float32, float16 or int8, got {precision!r}.")
    return _share(queries.float() @ stored.T, pairs)


def index_pairs(index: Index, queries: Tensor, pairs: Tensor) -> float:
    """Share of pairs that an index finds, say over codes.

    Args:
        index: Of the items of `moment_curve`; ids are their numbers.
        queries: From `moment_curve`.
        pairs: From `moment_curve`.

    Example:
        >>> items, queries, pairs = moment_curve(12)
        >>> index_pairs(Index(items, range(12)), queries, pairs)
        1.0
    """
    found = index.search(queries, 2)
    right = [set(hits.ids.tolist()) == set(pair) for hits, pair in zip(found, pairs.tolist())]
    return float(np.mean(right))


def critical_size(
    dim: int,
    largest: int = 40,
    *,
    steps: int = 4000,
    learning_rate: float = 0.02,
    temperature: float = 0.1,
    seed: int = 0,
) -> int:
    """The most items of which every pair is found by vectors made for just that.

    Items and queries are free vectors of length 1, optimized against each other; the number of
    items rises until a pair is missed. An upper bound for what any encoder of this width can learn.

    Args:
        dim: Of the vectors.
        largest: Items at most.
        steps: Of Adam, for every number of items.
        learning_rate: Of Adam.
        temperature: Of the softmax over items.
        seed: Of the start.

    Raises:
        DataError: ``dim`` or ``largest`` is too small.

    Source:
        Weller et al., "On the Theoretical Limitations of Embedding-Based Retrieval",
        arXiv 2508.21038, the experiment with free embeddings. The official script has a rate of
        0.01 and up to 100,000 steps, so it may find a few items more.

    Example:
        >>> critical_size(2, largest=4, steps=300)
        3
    """
    if dim < 1 or largest < 3:
        raise DataError(f"`dim` must be at least 1 and `largest` 3, got {dim} and {largest}.")
    reached = 2
    for size in range(3, largest + 1):
        if not _separable(size, dim, steps, learning_rate, temperature, seed):
            break
        reached = size
    return reached


def _separable(
    size: int, dim: int, steps: int, learning_rate: float, temperature: float, seed: int
) -> bool:
    random = torch.Generator().manual_seed(seed)
    pairs = torch.tensor(list(itertools.combinations(range(size), 2)))
    start = torch.randn(size + len(pairs), dim, generator=random)
    vectors = torch.nn.functional.normalize(start).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=learning_rate)
    for step in range(steps):
        scores = vectors[size:] @ vectors[:size].T
        if step % 20 == 0 and _share(scores.detach(), pairs) == 1.0:
            return True
        loss = -(scores / temperature).log_softmax(1).gather(1, pairs).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            vectors.copy_(torch.nn.functional.normalize(vectors))
    return _share((vectors[size:] @ vectors[:size].T).detach(), pairs) == 1.0


def _share(scores: Tensor, pairs: Tensor) -> float:
    """Of pairs whose lower score is above all other scores."""
    lower = scores.gather(1, pairs).amin(1)
    others = scores.scatter(1, pairs, -torch.inf).amax(1)
    return float((lower > others).double().mean())
