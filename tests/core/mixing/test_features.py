from __future__ import annotations

import pytest
import torch

from u2pl import distributed
from u2pl.mixing.features import drop_channels, drop_complementary


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_whole_channels_go_and_the_mean_stays(share):
    maps = torch.rand(40, 50, 2, 3, generator=generator(1)) + 0.5
    found = drop_channels(maps, share, generator())
    gone = (found == 0).flatten(2).all(dim=2)
    assert gone.float().mean().item() == pytest.approx(share, abs=0.03)
    torch.testing.assert_close(found[~gone], maps[~gone] / (1 - share))
    # each image and each channel for itself
    if share:
        assert len({tuple(row) for row in gone.tolist()}) == 40
        assert gone.float().mean(dim=0).std() > 0


def test_the_draws_are_the_generators_and_the_dtype_the_maps():
    maps = torch.ones(2, 8, 1, 1, dtype=torch.bfloat16)
    first = drop_channels(maps, 0.5, generator(3))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, drop_channels(maps, 0.5, generator(3)))
    draw = generator(3)
    drop_channels(maps, 0.5, draw)
    assert not torch.equal(first, drop_channels(maps, 0.5, draw))


def test_two_processes_drop_like_one(twins, monkeypatch):
    maps = torch.rand(4, 16, 2, 2, generator=generator(2))
    whole = drop_channels(maps, 0.5, generator())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", twins.rank)
    halves = twins.run(lambda rank: drop_channels(maps[2 * rank : 2 * rank + 2], 0.5, generator()))
    assert torch.equal(torch.cat(halves), whole)


def test_gradients_pass_where_channels_stay():
    maps = torch.ones(2, 8, 1, 1, requires_grad=True)
    found = drop_channels(maps, 0.5, generator())
    found.sum().backward()
    assert torch.equal(maps.grad, found.detach())


def ones(images: int, *widths: int) -> list[torch.Tensor]:
    """Maps of both views, whose factors are what comes out."""
    return [torch.ones(2 * images, width, 1, 1, dtype=torch.float64) for width in widths]


def slow_complementary(maps, whole, draws):
    """The docstring's loop."""
    images, count = len(draws), len(draws) * whole
    spared = sorted(range(images), key=lambda b: draws[b][0])[: int(count)]
    found = [each.clone() for each in maps]
    for b in range(images):
        for each in found:
            for d in range(each.shape[1]):
                factor = 1.0 if b in spared else 2.0 * (draws[b][1 + d] < 0.5)
                each[b, d] *= factor
                each[images + b, d] *= 2 - factor
    return found


@pytest.mark.parametrize("whole", [0.0, 0.4, 0.5, 1.0])
def test_complementary_channels_are_those_of_the_loop(whole):
    maps = [torch.rand(10, width, 3, 2, generator=generator(1)).double() for width in (7, 12, 12)]
    draws = torch.rand(5, 13, generator=generator()).tolist()
    found = drop_complementary(maps, whole, generator())
    for mine, slow in zip(found, slow_complementary(maps, whole, draws), strict=True):
        torch.testing.assert_close(mine, slow, rtol=0, atol=0)


@pytest.mark.parametrize(("images", "whole", "spared"), [(6, 0.5, 3), (7, 0.5, 3), (1, 0.5, 0)])
def test_factors_of_the_views_add_up_to_two_and_half_of_the_images_keep_all(images, whole, spared):
    (factor,) = drop_complementary(ones(images, 64), whole, generator())
    first, second = factor.flatten(1).chunk(2)
    assert torch.equal(first + second, torch.full_like(first, 2))
    kept = (first == 1).all(dim=1)
    assert kept.sum() == spared
    assert set(first[~kept].unique().tolist()) == {0.0, 2.0}
    assert len({tuple(row) for row in first[~kept].tolist()}) == images - spared


def test_a_channel_keeps_its_mean_and_every_image_is_spared_alike():
    total, spared = torch.zeros(4, 32).double(), torch.zeros(4)
    for seed in range(400):
        (factor,) = drop_complementary(ones(4, 32), 0.5, generator(seed))
        total += factor.flatten(1)[:4]
        spared += (factor.flatten(1)[:4] == 1).all(dim=1)
    assert ((total / 400 - 1).abs() < 0.15).all()  # 4 standard deviations
    assert ((spared / 400 - 0.5).abs() < 0.1).all()


def test_maps_of_one_width_share_their_channels_and_narrower_ones_take_the_first():
    wide, again, narrow = drop_complementary(ones(4, 24, 24, 10), 0.5, generator(2))
    assert torch.equal(wide, again) and torch.equal(wide[:, :10], narrow)


def test_complementary_channels_keep_dtype_and_gradient():
    maps = [torch.ones(4, 8, 1, 1, dtype=torch.bfloat16, requires_grad=True)]
    (found,) = drop_complementary(maps, 0.5, generator())
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert torch.equal(maps[0].grad, found.detach())


def test_two_processes_drop_complementary_channels_like_one(connected):
    maps = torch.rand(8, 16, 2, 2, generator=generator(2))
    views = maps.chunk(2)

    def half(rank: int):
        own = torch.cat([view[2 * rank : 2 * rank + 2] for view in views])
        return drop_complementary([own], 0.5, generator())[0].chunk(2)

    (first, other), (second, another) = connected.run(half)
    connected_maps = torch.cat([first, second, other, another])
    whole = _alone(lambda: drop_complementary([maps], 0.5, generator())[0])
    assert torch.equal(connected_maps, whole)


def _alone(function):
    """What one process computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 1)
        patch.setattr(distributed, "rank", lambda: 0)
        return function()
