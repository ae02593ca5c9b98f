from __future__ import annotations

import pytest
import torch

from u2pl.memory.kmeans import kmeans


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(count: int, size: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Far apart, so that there is one right answer."""
    draw = generator(seed)
    middle = 100 * torch.randn(count, 3, generator=draw)
    points = middle.repeat_interleave(size, 0) + torch.randn(count * size, 3, generator=draw)
    return points, middle


def slow_lloyd(points: torch.Tensor, center: torch.Tensor) -> list[int]:
    return [
        min(range(len(center)), key=lambda k: float((point - center[k]).square().sum()))
        for point in points
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_far_apart_are_found(count: int, seed: int) -> None:
    points, _ = clusters(count, seed=seed)
    center, used = kmeans(points, count, generator(seed))
    assert used.all() and center.shape == (count, 3)
    means = points.unflatten(0, (count, 40)).mean(dim=1)
    matched = torch.cdist(center, means).argmin(dim=1)
    assert sorted(matched.tolist()) == list(range(count))
    torch.testing.assert_close(center, means[matched], rtol=1e-4, atol=1e-3)


def test_at_the_end_nothing_moves() -> None:
    points = torch.randn(200, 4, generator=generator(5))
    center, used = kmeans(points, 6, generator(), rounds=200)
    own = torch.tensor(slow_lloyd(points.double(), center.double()))
    for k in range(6):
        assert used[k] == bool((own == k).any())
        torch.testing.assert_close(center[k], points[own == k].mean(0), rtol=1e-4, atol=1e-4)


def test_the_first_centers_are_far_from_each_other() -> None:
    """k-means++ hardly ever takes two of the same of four distant clusters; chance would mostly."""
    points, middle = clusters(4, seed=1)
    hits = 0
    for seed in range(50):
        center, _ = kmeans(points, 4, generator(seed), rounds=0)
        hits += len(set(torch.cdist(center, middle).argmin(dim=1).tolist())) == 4
    assert hits >= 48  # one in eleven by chance


@pytest.mark.parametrize("points", [torch.ones(1, 3), torch.ones(7, 3), torch.eye(3)[[0, 1, 0]]])
def test_fewer_distinct_points_than_clusters(points: torch.Tensor) -> None:
    center, used = kmeans(points, 5, generator())
    distinct = points.unique(dim=0)
    assert used.sum() == len(distinct) and center.isfinite().all()
    assert torch.equal(center[used].unique(dim=0), distinct)


def test_the_result_is_the_generators() -> None:
    points = torch.randn(100, 4, generator=generator(2))
    first, _ = kmeans(points, 5, generator(3))
    assert torch.equal(first, kmeans(points, 5, generator(3))[0])
