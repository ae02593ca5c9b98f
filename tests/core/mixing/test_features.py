from __future__ import annotations

import pytest
import torch

from u2pl import distributed
from u2pl.mixing.features import drop_channels


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
