"""AugSeg's adaptive CutMix by a loop over pixels whose value tells where they are from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from u2pl.mixing import adaptive
from u2pl.mixing.adaptive import AdaptiveCutMix, beta_quantiles
from u2pl.mixing.mixers import Mixed

SIZE = (12, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(first: int, images: int = 4) -> Mixed:
    """Each pixel has a number of its own: the image's colour, the label, and half of it a score."""
    label = torch.arange(first, first + images * SIZE[0] * SIZE[1]).view(images, *SIZE)
    return Mixed(
        label.unsqueeze(1).expand(-1, 3, -1, -1).clone(), label % 7 != 0, (label, None, label / 2)
    )


def pair(images: int = 4) -> tuple[Mixed, Mixed]:
    """Labelled images, whose numbers begin at 10000, and unlabelled ones."""
    return painted(10_000, images), painted(0, images)


def same(one: Mixed, two: Mixed) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(
            (one.image_B3HW, one.valid_BHW, one.maps[0], one.maps[2]),
            (two.image_B3HW, two.valid_BHW, two.maps[0], two.maps[2]),
            strict=True,
        )
    )


@pytest.mark.parametrize(("first", "second"), [(8, 2), (4, 4), (1, 1), (1, 5)])
def test_draws_have_mean_and_variance_of_the_beta_distribution(first: int, second: int) -> None:
    draw = beta_quantiles(first, second, 20_000, generator()).double()
    both = first + second
    assert draw.shape == (20_000,) and (draw >= 0).all() and (draw < 1).all()
    variance = first * second / (both**2 * (both + 1))
    assert draw.mean().item() == pytest.approx(first / both, abs=4 * (variance / 20_000) ** 0.5)
    assert draw.var().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_box_of_a_labelled_image_then_one_of_the_next_image_equal_the_loop(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Tensor] = []
    box_mask = adaptive.box_mask

    def keeping(*args: Any) -> Tensor:
        masks.append(box_mask(*args))
        return masks[-1]

    monkeypatch.setattr(adaptive, "box_mask", keeping)
    labeled, unlabeled = pair()
    sure = torch.tensor([0.0, 1.0, 0.0, 1.0])
    mixed = AdaptiveCutMix()(generator(seed), sure, labeled, unlabeled)
    of_labeled, of_next = (mask.clone() for mask in masks)
    assert of_next.flatten(1).any(dim=1).all() and not of_next.flatten(1).all(dim=1).any()
    for b, i, j in np.ndindex(4, *SIZE):
        source, place = unlabeled, b
        if of_next[b, i, j]:
            place = (b + 1) % 4
        elif of_labeled[b, i, j] and sure[b] == 0:
            source = labeled
        assert (mixed.image_B3HW[b, :, i, j] == source.image_B3HW[place, :, i, j]).all()
        assert mixed.valid_BHW[b, i, j] == source.valid_BHW[place, i, j]
        for number in (0, 2):
            assert mixed.maps[number][b, i, j] == source.maps[number][place, i, j]
    assert mixed.maps[1] is None and len(mixed.maps) == 3


def injected(confidence: float, seeds: int = 100) -> Tensor:
    """Share of pixels of labelled images in each of 4 images, for several steps."""
    shares = []
    for seed in range(seeds):
        mixed = AdaptiveCutMix()(generator(seed), torch.full((4,), confidence), *pair())
        shares.append((mixed.maps[0] >= 10_000).flatten(1).float().mean(dim=1))
    return torch.stack(shares)


def test_the_surer_the_teacher_the_fewer_images_receive_labelled_pixels() -> None:
    never, half, always = (injected(confidence) for confidence in (1.0, 0.5, 0.0))
    assert not never.any()
    # a third of the boxes is hidden by those of the next image
    shown, received = (always > 0).float().mean(), half > 0
    assert shown > 0.6
    assert abs(received.float().mean() - shown / 2) < 0.08
    assert (received.any(dim=1) & ~received.all(dim=1)).sum() > 50  # each by a coin of its own


def test_boxes_cover_on_average_what_the_beta_distributions_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fifth for labelled images, Beta(8, 2); half for others, Beta(4, 4)."""
    areas: list[Tensor] = []
    monkeypatch.setattr(
        adaptive,
        "scaled_boxes",
        lambda area, place, size: areas.append(area) or torch.zeros(len(area), 4),
    )
    labeled, unlabeled = pair(400)
    AdaptiveCutMix()(generator(), torch.zeros(400), labeled, unlabeled)
    assert [len(area) for area in areas] == [400, 400]
    assert areas[0].mean().item() == pytest.approx(0.2, abs=0.03)
    assert areas[1].mean().item() == pytest.approx(0.5, abs=0.04)


def test_what_is_given_is_not_changed_in_place() -> None:
    (labeled, unlabeled), (same_l, same_u) = pair(), pair()
    AdaptiveCutMix()(generator(), torch.zeros(4), labeled, unlabeled)
    assert same(labeled, same_l) and same(unlabeled, same_u)


@pytest.mark.parametrize("seed", range(6))
def test_two_processes_mix_like_one(seed: int, request: pytest.FixtureRequest) -> None:
    labeled, unlabeled = pair()
    sure = torch.tensor([0.4, 0.6, 0.4, 0.6])
    whole = AdaptiveCutMix()(generator(seed), sure, labeled, unlabeled)
    twins = request.getfixturevalue("connected")

    def part(mixed: Mixed, mine: slice) -> Mixed:
        maps = tuple(None if m is None else m[mine] for m in mixed.maps)
        return Mixed(mixed.image_B3HW[mine], mixed.valid_BHW[mine], maps)

    def half(rank: int) -> Mixed:
        mine = slice(2 * rank, 2 * rank + 2)
        own = part(labeled, mine), part(unlabeled, mine)
        return AdaptiveCutMix()(generator(seed), sure[mine], *own)

    halves = twins.run(half)
    for rank, found in enumerate(halves):
        assert same(found, part(whole, slice(2 * rank, 2 * rank + 2)))
