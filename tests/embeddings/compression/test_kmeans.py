"""k-means on points whose clusters are known."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.kmeans import _shares, cluster_means, kmeans, nearest


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, each: int, dim: int = 4) -> torch.Tensor:
    """Points of ``count`` clusters far apart, one cluster after the other."""
    centers = 100 * torch.randn(count, 1, dim, generator=seeded(1))
    return (centers + torch.randn(count, each, dim, generator=seeded(2))).flatten(0, 1)


def spread(points: torch.Tensor, owner: torch.Tensor, clusters: int) -> float:
    """Squared error left, over that of one cluster."""
    left = (points - cluster_means(points, owner, clusters)[owner]).square().sum()
    return (left / (points - points.mean(0)).square().sum()).item()


def test_two_clusters_by_hand():
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
    centers, owner = kmeans(points, 2, seeded())
    assert sorted(centers.flatten().tolist()) == [0.5, 11.0]
    assert owner.tolist() in ([0, 0, 1, 1, 1], [1, 1, 0, 0, 0])


def test_nearest_is_the_nearest():
    points, centers = torch.randn(500, 3, generator=seeded()), torch.randn(7, 3, generator=seeded())
    assert torch.equal(nearest(points, centers), torch.cdist(points, centers).argmin(1))


@pytest.mark.parametrize("clusters", [40, 900])
def test_error_is_small(clusters):
    points = blobs(20, 200)
    centers, owner = kmeans(points, clusters, seeded())
    assert spread(points, owner, clusters) < (0.02 if clusters == 40 else 1e-3)
    torch.testing.assert_close(centers, cluster_means(points, owner, clusters))
    assert owner.min() >= 0 and owner.max() < clusters


def test_many_clusters_are_nearly_as_good_as_flat(monkeypatch):
    points = torch.randn(6000, 4, generator=seeded(3))
    two_levels = spread(points, kmeans(points, 600, seeded())[1], 600)
    monkeypatch.setattr("recsys.embeddings.compression.kmeans._FLAT", 1 << 20)
    flat = spread(points, kmeans(points, 600, seeded())[1], 600)
    assert two_levels < 1.25 * flat


def test_same_generator_same_clusters():
    points = torch.randn(3000, 4, generator=seeded(3))
    assert torch.equal(kmeans(points, 700, seeded(5))[1], kmeans(points, 700, seeded(5))[1])


def test_more_clusters_than_points_and_equal_points():
    points = torch.randn(5, 2, generator=seeded())
    centers, owner = kmeans(points, 9, seeded())
    torch.testing.assert_close(centers[owner], points)
    centers, owner = kmeans(torch.ones(2000, 2), 600, seeded())
    torch.testing.assert_close(centers[owner], torch.ones(2000, 2))
    assert not torch.isnan(centers).any()


def test_shares():
    assert _shares([10, 0, 30, 60], 10) == [1, 0, 3, 6]
    assert sum(_shares([1, 1, 98], 50)) == 50 and _shares([1, 1, 98], 50)[:2] == [1, 1]
    for sizes, clusters in (([5, 5, 5], 14), ([1, 2, 3, 500], 300), ([7] * 20, 33)):
        shares = _shares(sizes, clusters)
        assert sum(shares) == clusters
        assert all(1 <= share <= size for share, size in zip(shares, sizes))
