"""AEL's copy-paste and CutMix by loops, on pixels whose value tells where they are from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from u2pl.mixing.weak_classes import Source, draw_sources, paste_box, paste_class

IGNORE = 255
SIZE = (9, 11)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels of a few classes per image, images, validity and a map; each pixel has its number.

    Class 4 is in no image, class 3 in the last one only.
    """
    draw = generator(5)
    label = torch.randint(0, 3, (4, *SIZE), generator=draw)
    label[0][label[0] == 2] = 0
    label[1][label[1] == 0] = 1
    label[-1, :4, :5] = 3
    label[torch.rand(label.shape, generator=draw) < 0.15] = IGNORE
    number = torch.arange(label.numel()).view(label.shape)
    return label, number.unsqueeze(1).expand(-1, 3, -1, -1), number % 7 != 0, number / 2


CHANCES = torch.tensor([0.3, 0.1, 0.3, 0.2, 0.1])


def test_sources_show_the_class_and_are_other_images() -> None:
    label, *_ = case()
    missed = 0
    for seed in range(150):
        source = draw_sources(label, CHANCES, 1.0, generator(seed))
        for b in range(4):
            c = int(source.class_B[b])
            shown = [o for o in range(4) if o != b and (label[o] == c).any()]
            assert source.found_B[b] == bool(shown)
            assert not shown or int(source.image_B[b]) in shown
            missed += not shown
    assert missed > 20


def test_classes_follow_their_chances_and_sources_are_drawn_alike() -> None:
    label = torch.tensor([0, 1, 2, 3, 4]).view(1, 1, 5).expand(5, 1, 5)
    classes, images = torch.zeros(5), torch.zeros(5, 5)
    for seed in range(1000):
        source = draw_sources(label, CHANCES, 1.0, generator(seed))
        classes += source.class_B.bincount(minlength=5)
        images[torch.arange(5), source.image_B] += 1
    assert (classes / 5000 - CHANCES).abs().max() < 0.03  # 4 deviations
    assert not images.diagonal().any()
    others = images[~torch.eye(5, dtype=torch.bool)]
    assert (others - 250).abs().max() < 65  # 250 +- 14


def test_a_class_without_a_chance_is_not_drawn() -> None:
    label, *_ = case()
    for seed in range(50):
        drawn = draw_sources(label, torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]), 1.0, generator(seed))
        assert set(drawn.class_B.tolist()) <= {1, 3}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_an_image_receives_something_as_often_as_asked(probability: float) -> None:
    label = torch.zeros(500, 1, 2, dtype=torch.uint8)
    found = draw_sources(label, torch.ones(1), probability, generator()).found_B
    assert abs(found.float().mean() - probability) < (0.08 if probability == 0.3 else 1e-9)


def test_a_single_image_has_no_other_to_receive_from() -> None:
    label, *_ = case()
    assert not draw_sources(label[:1], CHANCES, 1.0, generator()).found_B.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_all_pixels_of_the_class_are_pasted_and_no_other(dtype: torch.dtype) -> None:
    label, image, *_ = case()
    source = Source(
        torch.tensor([2, 0, 3, 1]),
        torch.tensor([1, 0, 3, 2]),
        torch.tensor([True, True, True, False]),
    )
    before = label.clone()
    found_l, found_i = paste_class(source, label.to(dtype), image)
    assert found_l.dtype == dtype
    for b, i, j in np.ndindex(*label.shape):
        other, c = int(source.image_B[b]), int(source.class_B[b])
        pasted = bool(source.found_B[b]) and label[other, i, j] == c
        assert found_l[b, i, j] == (c if pasted else label[b, i, j])
        assert (found_i[b, :, i, j] == image[other if pasted else b, 0, i, j]).all()
    assert torch.equal(label, before)
    assert not torch.equal(found_l[0], label[0].to(dtype))


@pytest.mark.parametrize("area", [0.1, 0.5])
def test_a_box_with_a_pixel_of_the_class_is_pasted_into_everything_alike(area: float) -> None:
    label, image, valid, extra = case()
    received = 0
    for seed in range(30):
        draw = generator(seed)
        source = draw_sources(label, CHANCES, 0.7, draw)
        mixed = paste_box(source, draw, area, image, valid, label, extra, None)
        for b in range(4):
            other = int(source.image_B[b])
            taken = mixed.image_B3HW[b, 0] != image[b, 0]
            assert taken.any() == source.found_B[b]
            for now, own in zip(
                (mixed.image_B3HW[:, 0], mixed.valid_BHW, *mixed.maps[:2]),
                (image[:, 0], valid, label, extra),
                strict=True,
            ):
                assert torch.equal(now[b], torch.where(taken, own[other], own[b]))
            if not source.found_B[b]:
                continue
            received += 1
            rows, columns = taken.nonzero().unbind(dim=1)
            height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert len(rows) == height * width
            slack = (height + width) / (2 if min(height, width) > 1 else 1) + 1
            assert abs(len(rows) - area * SIZE[0] * SIZE[1]) <= slack
            assert (label[other][taken] == source.class_B[b]).any()
        assert mixed.maps[2] is None
    assert 30 < received < 110


def test_the_pixel_in_the_box_is_any_of_its_class() -> None:
    """A box of one pixel, in images of one row."""
    members = torch.tensor([0, 3, 4, 10, 11])
    label = torch.zeros(2, 1, 12, dtype=torch.int64)
    label[:, 0, members] = 1
    label[0, 0, 6] = IGNORE
    number = torch.arange(24).view(2, 1, 12)
    count = torch.zeros(12)
    for seed in range(500):
        source = Source(torch.ones(2).long(), torch.tensor([1, 0]), torch.tensor([True, True]))
        valid = torch.ones(2, 1, 12, dtype=torch.bool)
        mixed = paste_box(
            source, generator(seed), 1 / 12, number.unsqueeze(1), valid, label, number
        )
        taken = mixed.maps[1] != number
        assert taken.sum() == 2
        count += taken.sum(dim=(0, 1))
    assert torch.equal(count.nonzero().flatten(), members)
    assert (count[members] - 200).abs().max() < 60  # 200 +- 13


def test_without_a_source_nothing_changes() -> None:
    label, image, valid, extra = case()
    draw = generator()
    source = draw_sources(torch.full_like(label, IGNORE), CHANCES, 1.0, draw)
    assert not source.found_B.any()
    mixed = paste_box(source, draw, 0.5, image, valid, label, extra)
    for now, before in zip((*mixed[:2], *mixed.maps), (image, valid, label, extra), strict=True):
        assert torch.equal(now, before)
    for now, before in zip(paste_class(source, label, image), (label, image), strict=True):
        assert torch.equal(now, before)


@pytest.mark.parametrize("seed", range(3))
def test_two_processes_draw_and_paste_like_one(seed: int, request: pytest.FixtureRequest) -> None:
    everything = case()

    def step(mine: slice) -> list[Tensor]:
        draw = generator(seed)
        label, image, valid, extra = (each[mine] for each in everything)
        source = draw_sources(label, CHANCES, 0.8, draw)
        mixed: Any = paste_box(source, draw, 0.3, image, valid, label, extra)
        return [*source, *paste_class(source, label, image), *mixed[:2], *mixed.maps]

    whole = step(slice(0, 4))
    assert whole[2].any()
    twins = request.getfixturevalue("connected")
    halves = twins.run(lambda rank: step(slice(2 * rank, 2 * rank + 2)))
    for first, second, both in zip(*halves, whole, strict=True):
        assert torch.equal(torch.cat([first, second]), both)
