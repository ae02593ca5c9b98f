"""K-means with k-means++ (Arthur and Vassilvitskii 2007): finds the parts of a class for ESL."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(
    point_NL: Tensor, count: int, generator: torch.Generator, rounds: int = 30
) -> tuple[Tensor, Tensor]:
    """Cluster points by squared distance.

        center = [a random point]
        while len(center) < count:  # k-means++
            center += [a point, with a probability proportional to its distance^2 to the nearest]
        repeat: each point to its nearest center, each center to the mean of its points

    Args:
        point_NL: float points, at least one.
        count: K, number of clusters.
        generator: on the points' device.
        rounds: maximum repetitions; it stops when nothing moves.

    Returns:
        Centers float32 [K, L], and which of them have points, bool [K]: fewer than K if there are
        fewer distinct points.
    """
    point = point_NL.float()
    first = torch.randint(len(point), (1,), generator=generator, device=point.device)
    center = point[first].repeat(count, 1)
    near = (point - center[0]).square().sum(dim=1)
    for k in range(1, count):
        # where all points are centers already, the first one stands for the rest
        weight = near if near.sum() > 0 else torch.ones_like(near)
        center[k] = point[torch.multinomial(weight, 1, generator=generator)[0]]
        near = torch.minimum(near, (point - center[k]).square().sum(dim=1))
    own = torch.full_like(near, -1, dtype=torch.int64)
    for _ in range(rounds):
        closest = torch.cdist(point, center).argmin(dim=1)
        if torch.equal(closest, own):
            break
        own = closest
        sums = torch.zeros_like(center).index_add_(0, own, point)
        size = torch.bincount(own, minlength=count)
        center = torch.where((size > 0).unsqueeze(1), sums / size.clamp(min=1).unsqueeze(1), center)
    own = torch.cdist(point, center).argmin(dim=1)
    return center, torch.bincount(own, minlength=count) > 0
