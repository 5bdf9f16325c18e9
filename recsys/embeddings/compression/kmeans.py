"""k-means of rows, for many clusters too.

Stability: internal
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLAT = 512  # most clusters found at once; more are found inside coarser ones
_SAMPLE = 128  # most points a cluster that centroids are fitted on
_BLOCK = 1 << 18  # distances held at a time: they stay in the cache


def kmeans(
    points: Tensor, clusters: int, generator: torch.Generator, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm, started from random points and fitted on a sample.

    Up to 512 clusters are found at once. More are found in two levels: about sqrt(clusters)
    coarse ones, each then divided into its share, which costs sqrt(clusters) distances a point.

    Args:
        points: What to cluster, on any device.
        clusters: How many, at least 1.
        generator: On the CPU; the same gives the same clusters.
        iterations: Of Lloyd.

    Returns:
        Centroids, each the mean of its points (a cluster without points has zeros), and the
        cluster of every point, int64.

    Shape:
        - points: (n, d)
        - output: (clusters, d) and (n,)
    """
    owner = _owners(points, clusters, generator, iterations)
    return cluster_means(points, owner, clusters), owner


def cluster_means(points: Tensor, owner: Tensor, clusters: int) -> Tensor:
    """The mean of every cluster, zeros where it has no point.

    Args:
        points: (n, d).
        owner: (n,) int64.
        clusters: How many.
    """
    sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, owner, points)
    counts = torch.bincount(owner, minlength=clusters).clamp(min=1)
    return sums / counts.unsqueeze(1)


def _owners(points: Tensor, clusters: int, generator: torch.Generator, iterations: int) -> Tensor:
    count = points.shape[0]
    if clusters >= count:
        return torch.arange(count, device=points.device)
    if clusters <= _FLAT:
        return nearest(points, _lloyd(points, clusters, generator, iterations))
    coarse = _owners(points, math.isqrt(clusters), generator, iterations)
    owner, first = torch.empty_like(coarse), 0
    sizes = torch.bincount(coarse).tolist()
    if max(sizes) == count:  # points are equal, or as good as
        return nearest(points, _lloyd(points, _FLAT, generator, iterations))
    groups = torch.argsort(coarse, stable=True).split(sizes)
    for mine, share in zip(groups, _shares(sizes, clusters)):
        if share:
            owner[mine] = first + _owners(points[mine], share, generator, iterations)
            first += share
    return owner


def _shares(sizes: list[int], clusters: int) -> list[int]:
    """Clusters of every group in proportion to its points; at least one where it has any."""
    total, shares = sum(sizes), []
    for size in sizes:
        share = 0 if size == 0 else max(1, min(size, clusters * size // total))
        shares.append(share)
    # What rounding left over goes to the groups with the most points a cluster, and comes from
    # those with the fewest.
    spare = clusters - sum(shares)
    while spare:
        step = 1 if spare > 0 else -1
        open_groups = [
            g for g, share in enumerate(shares) if (share < sizes[g] if step > 0 else share > 1)
        ]
        open_groups.sort(key=lambda g: -step * sizes[g] / shares[g])
        for g in open_groups[: abs(spare)]:
            shares[g] += step
            spare -= step
    return shares


def _lloyd(points: Tensor, clusters: int, generator: torch.Generator, iterations: int) -> Tensor:
    """Centroids of a sample."""
    order = torch.randperm(points.shape[0], generator=generator)[: _SAMPLE * clusters]
    sample = points.index_select(0, order.to(points.device))
    centers = sample[:clusters].clone()
    for _ in range(iterations):
        owner = nearest(sample, centers)
        used = torch.bincount(owner, minlength=clusters) > 0
        means = cluster_means(sample, owner, clusters)
        again = torch.randint(sample.shape[0], (clusters,), generator=generator)
        centers = torch.where(used.unsqueeze(1), means, sample[again.to(points.device)])
    return centers


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """The nearest center of every point, (n,) int64.

    Args:
        points: (n, d).
        centers: (k, d).
    """
    found = torch.empty(points.shape[0], dtype=torch.int64, device=points.device)
    half = centers.square().sum(1) / 2
    block = max(1, min(points.shape[0], _BLOCK // centers.shape[0]))
    distances = points.new_empty(block, centers.shape[0])
    for start in range(0, points.shape[0], block):
        some = points[start : start + block]
        mine = distances[: some.shape[0]]
        torch.addmm(half, some, centers.T, alpha=-1, out=mine)
        found[start : start + block] = mine.min(1).indices
    return found
