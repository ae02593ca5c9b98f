from __future__ import annotations

import numpy as np
import pytest
import torch

from u2pl.mixing.blend import paste
from u2pl.mixing.masks import (
    box_mask,
    boxes_around,
    boxes_of_many_sizes,
    half_of_batch_classes,
    half_of_classes,
    inside_boxes,
    random_boxes,
    scaled_boxes,
)

IGNORE = 255


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 17), (16, 128), (129, 129)])
@pytest.mark.parametrize("area", [0.05, 0.25, 0.5, 1.0])
def test_boxes_lie_in_the_image_and_cover_the_share(size, area):
    boxes = random_boxes(300, size, area, torch.Generator().manual_seed(0))
    top, left, bottom, right = boxes.unbind(dim=1)
    assert boxes.dtype == torch.int64
    assert (
        (top >= 0).all()
        and (left >= 0).all()
        and (bottom <= size[0]).all()
        and (right <= size[1]).all()
    )
    height, width = bottom - top, right - left
    assert (height >= 1).all() and (width >= 1).all()
    # either side is rounded by at most half a pixel
    slack = (height + width) / 2 + 1
    assert ((height * width - area * size[0] * size[1]).abs() <= slack).all()


def test_boxes_vary_in_shape_and_reach_every_border():
    height, width = 40, 60
    top, left, bottom, right = random_boxes(
        2000, (height, width), 0.5, torch.Generator().manual_seed(1)
    ).unbind(dim=1)
    assert len((bottom - top).unique()) > 15
    assert (bottom - top).min() <= 22 and (bottom - top).max() >= 38
    for begin, end, length in ((top, bottom, height), (left, right, width)):
        free = (end - begin < length - 2).nonzero()  # those with room to lie elsewhere
        assert begin[free].min() == 0 and end[free].max() == length
    centre = (top + bottom).double().mean() / 2, (left + right).double().mean() / 2
    assert abs(centre[0] - height / 2) < 1 and abs(centre[1] - width / 2) < 1.5


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (40, 200), (120, 120)])
def test_boxes_of_many_sizes_keep_to_their_ranges(size):
    draw = torch.Generator().manual_seed(0)
    boxes = boxes_of_many_sizes(4000, size, 0.5, draw)
    top, left, bottom, right = boxes.unbind(dim=1)
    there = bottom > 0
    assert abs(there.float().mean() - 0.5) < 0.04
    assert not boxes[~there].any()
    assert (top >= 0).all() and (left >= 0).all()
    assert (bottom <= size[0]).all() and (right <= size[1]).all()
    height, width = (bottom - top)[there], (right - left)[there]
    assert (height >= 1).all() and (width >= 1).all()
    if size == (120, 120):
        area, aspect = (height * width) / 120**2, height / width
        assert 0.018 < area.min() < 0.025 and 0.38 < area.max() < 0.41
        assert 0.28 < aspect.min() < 0.35 and 3.1 < aspect.max() < 3.6
        assert area.mean() == pytest.approx(0.21, abs=0.01)
        for begin, end in ((top[there], bottom[there]), (left[there], right[there])):
            assert begin.min() == 0 and end.max() == 120


def test_boxes_depend_on_the_generator_alone():
    draws = [
        random_boxes(4, (32, 32), 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_box_mask_is_true_inside_only():
    boxes = torch.tensor([[1, 2, 3, 5], [0, 0, 4, 6], [2, 1, 2, 4]])
    mask = box_mask(boxes, (4, 6))
    for b, i, j in np.ndindex(3, 4, 6):
        top, left, bottom, right = boxes[b].tolist()
        assert mask[b, i, j].item() == (top <= i < bottom and left <= j < right)


def random_label(seed: int, classes: list[int], size=(3, 9, 7)):
    draw = torch.Generator().manual_seed(seed)
    return torch.tensor(classes)[torch.randint(0, len(classes), size, generator=draw)]


@pytest.mark.parametrize(
    "classes", [[3], [0, 4], [0, 2, 4], [0, 1, 2, 3, 4, 5], [0, 2, 4, IGNORE], [1, IGNORE]]
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_half_of_the_classes_rounded_up_and_never_255(classes, dtype):
    label = random_label(len(classes), classes).to(dtype)
    score = torch.rand(3, 6, generator=torch.Generator().manual_seed(5))
    mask = half_of_classes(label, score)
    assert mask.dtype == torch.bool and mask.shape == label.shape
    known = [c for c in classes if c != IGNORE]
    for b in range(3):
        lowest = sorted(known, key=lambda c, b=b: float(score[b, c]))[: -(-len(known) // 2)]
        assert torch.equal(mask[b], torch.isin(label[b].long(), torch.tensor(lowest)))


def test_an_image_without_labels_gives_nothing():
    label = random_label(0, [1, 2, 3])
    label[1] = IGNORE
    mask = half_of_classes(label, torch.rand(3, 4))
    assert mask[0].any() and not mask[1].any() and mask[2].any()


def test_images_draw_for_themselves():
    label = torch.stack([random_label(0, [0, 1])[0], random_label(1, [4, 5, 6, 7])[0]])
    mask = half_of_classes(label, torch.rand(2, 8))
    assert len(label[0][mask[0]].unique()) == 1 and len(label[1][mask[1]].unique()) == 2


def test_class_mask_matches_the_fixture(shared):
    """The released code draws from the classes of the batch, 255 among them.

    Of the classes that it drew, without 255, the mask is the same.
    """
    z = np.load(shared("fixtures/classmix.npz"))
    label, chosen = torch.tensor(z["in_cm_label"]).squeeze(1), z["out_cm_chosen_classes"]
    classes = int(label[label != IGNORE].max()) + 1
    for b in range(len(label)):
        present = [c for c in label[b].unique().tolist() if c != IGNORE]
        drawn = [c for c in chosen[b].tolist() if c in present]
        score = torch.full((1, classes), 0.9)
        score[0, drawn] = 0.1
        mask = half_of_classes(label[b : b + 1], score)[0]
        wanted = -(-len(present) // 2)
        released = torch.tensor(z["out_cm_mask"][b, 0] == 1) & (label[b] != IGNORE)
        if len(drawn) == wanted:
            assert torch.equal(mask, released)
        elif len(drawn) < wanted:
            assert (mask | ~released).all()
        else:
            assert (released | ~mask).all()
        assert len(label[b][mask].unique()) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_every_class_is_drawn_equally_often(seed):
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(4).view(1, 2, 2).expand(2000, 2, 2)
    taken = (
        half_of_classes(label, torch.rand(2000, 4, generator=draw)).flatten(1).float().mean(dim=0)
    )
    assert (taken - 0.5).abs().max() < 0.05


def slow_batch_mask(label, score):
    """For each image the (n + n mod 2) / 2 lowest-scored of the n values in the batch, with 255."""
    values = sorted(set(label.flatten().tolist()))
    mask, size = torch.zeros(label.shape, dtype=torch.bool), (len(values) + len(values) % 2) // 2
    for b in range(len(label)):
        lowest = sorted(
            values, key=lambda value: float(score[b, -1 if value == IGNORE else value])
        )[:size]
        for i, j in np.ndindex(*label.shape[1:]):
            mask[b, i, j] = label[b, i, j].item() in lowest
    return mask


@pytest.mark.parametrize(
    "classes",
    [[3], [0, 4], [0, 2, 4], [0, 1, 2, 3, 4, 5], [0, 2, 4, IGNORE], [1, IGNORE], [IGNORE]],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_half_of_the_batchs_classes_equals_the_loop(classes, dtype):
    label = random_label(len(classes), classes).to(dtype)
    label[0] = label[0, 0, 0]  # an image that shows one class draws from all of them as well
    score = torch.rand(3, 7, generator=torch.Generator().manual_seed(6))
    mask = half_of_batch_classes(label, score)
    assert mask.dtype == torch.bool and torch.equal(mask, slow_batch_mask(label, score))


def test_a_permutation_of_the_classes_permutes_the_draw():
    label, order = random_label(2, [0, 2, 3, 5, IGNORE]), torch.tensor([3, 1, 5, 0, 2, 4])
    table = torch.full((256,), IGNORE)
    table[:6] = order
    score = torch.rand(3, 7, generator=torch.Generator().manual_seed(7))
    renamed = score.clone()
    renamed[:, order] = score[:, :6]
    assert torch.equal(
        half_of_batch_classes(table[label], renamed), half_of_batch_classes(label, score)
    )


@pytest.mark.parametrize("first", [[0, 1], [IGNORE], [2, 3, IGNORE]])
def test_two_processes_draw_from_the_classes_of_both(twins, first):
    label = torch.cat([random_label(3, first, (2, 9, 7)), random_label(4, [2, 3, 4], (2, 9, 7))])
    score = torch.rand(4, 6, generator=torch.Generator().manual_seed(8))
    part = [slice(0, 2), slice(2, 4)]
    halves = twins.run(
        lambda rank: half_of_batch_classes(label[part[rank]], score[part[rank]], twins.gather)
    )
    assert torch.equal(torch.cat(halves), half_of_batch_classes(label, score))


def test_the_released_mix_matches_the_fixture(shared):
    z = np.load(shared("fixtures/classmix.npz"))
    label = torch.tensor(z["in_cm_label"]).squeeze(1)
    values = label.unique().tolist()
    assert values == z["out_cm_classes_in_batch"].tolist()
    classes = int(label[label != IGNORE].max()) + 1
    score = torch.full((len(label), classes + 1), 0.9)
    for b, drawn in enumerate(z["in_cm_choice_idx"].tolist()):
        assert [values[place] for place in drawn] == z["out_cm_chosen_classes"][b].tolist()
        score[b, [min(values[place], classes) for place in drawn]] = 0.1
    mask = half_of_batch_classes(label, score)
    assert np.array_equal(mask.unsqueeze(1).numpy(), z["out_cm_mask"] == 1)
    maps = {
        "image": (z["in_source_image"], z["in_target_image"]),
        "label": (label.numpy(), z["out_pseudo_label"]),
        "weight": (np.ones_like(z["out_pseudo_weight"]), z["out_pseudo_weight"]),
    }
    for name, (source, target) in maps.items():
        assert np.array_equal(
            paste(mask, torch.tensor(source), torch.tensor(target)).numpy(), z[f"out_mixed_{name}"]
        ), name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_inside_boxes_equals_the_loop(dtype):
    draw = torch.Generator().manual_seed(0)
    label = random_label(1, [0, 1, 2, IGNORE], (3, 9, 7)).to(dtype)
    boxes = torch.zeros(3, 5, 5, dtype=torch.int64)
    boxes[..., 0] = torch.randint(-1, 3, (3, 5), generator=draw)
    boxes[..., 1:3] = torch.randint(0, 5, (3, 5, 2), generator=draw)
    boxes[..., 3:] = boxes[..., 1:3] + torch.randint(0, 8, (3, 5, 2), generator=draw)
    found = inside_boxes(boxes, label)
    for b, i, j in np.ndindex(*label.shape):
        expected = any(
            c == int(label[b, i, j]) and top <= i < bottom and left <= j < right
            for c, top, left, bottom, right in boxes[b].tolist()
        )
        assert found[b, i, j] == expected
    assert 0.1 < found.float().mean() < 0.5


def test_without_boxes_nothing_is_inside():
    label = random_label(1, [0, 1, 2])
    none = torch.full((3, 2, 5), 9)
    none[..., 0], none[..., 1:3] = -1, 0
    for boxes in (none, none[:, :0]):
        assert not inside_boxes(boxes, label).any()


def test_boxes_of_another_class_hold_nothing():
    label = torch.zeros(1, 4, 6, dtype=torch.int64)
    boxes = torch.tensor([[[1, 0, 0, 4, 6], [0, 1, 2, 3, 4]]])
    assert torch.equal(inside_boxes(boxes, label), box_mask(boxes[:, 1, 1:], (4, 6)))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 60), (129, 129)])
def test_scaled_boxes_have_the_image_s_shape_and_the_given_area(size):
    draw = torch.Generator().manual_seed(0)
    area = torch.cat([torch.rand(500, generator=draw), torch.tensor([0.0, 1.0])])
    boxes = scaled_boxes(area, torch.rand(502, 2, generator=draw), size)
    top, left, bottom, right = boxes.unbind(dim=1)
    assert boxes.dtype == torch.int64
    assert (top >= 0).all() and (left >= 0).all()
    assert (bottom <= size[0]).all() and (right <= size[1]).all()
    for share, height, width in zip(
        area.tolist(), (bottom - top).tolist(), (right - left).tolist(), strict=True
    ):
        assert abs(height - share**0.5 * size[0]) <= 0.501
        assert abs(width - share**0.5 * size[1]) <= 0.501
    assert bottom[-2] == top[-2] and right[-2] == left[-2]
    assert boxes[-1].tolist() == [0, 0, *size]


def test_scaled_boxes_lie_anywhere_alike():
    draw = torch.Generator().manual_seed(1)
    boxes = scaled_boxes(torch.full((4000,), 0.25), torch.rand(4000, 2, generator=draw), (8, 12))
    for side, places in ((0, 5), (1, 7)):
        counts = boxes[:, side].bincount(minlength=places)
        assert len(counts) == places
        assert (counts - 4000 / places).abs().max() < 130  # 5 deviations


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9), (33, 17), (40, 60)])
@pytest.mark.parametrize("area", [0.02, 0.25, 0.5, 1.0])
def test_boxes_around_a_pixel_hold_it_lie_in_the_image_and_cover_the_share(size, area):
    draw = torch.Generator().manual_seed(0)
    pixel = torch.randint(size[0] * size[1], (600,), generator=draw)
    pixel[:2] = torch.tensor([0, size[0] * size[1] - 1])
    boxes = boxes_around(pixel, torch.rand(600, 3, generator=draw), size, area)
    assert boxes.dtype == torch.int64
    for place, (top, left, bottom, right) in zip(pixel.tolist(), boxes.tolist(), strict=True):
        row, column = divmod(place, size[1])
        assert 0 <= top <= row < bottom <= size[0]
        assert 0 <= left <= column < right <= size[1]
        # either side is rounded by at most half a pixel, but up to a whole one if it is thinner
        height, width = bottom - top, right - left
        slack = (height + width) / (2 if min(height, width) > 1 else 1) + 1
        assert abs(height * width - area * size[0] * size[1]) <= slack


def test_boxes_around_a_pixel_are_of_any_shape_and_hold_it_at_any_place():
    draw, size, area = torch.Generator().manual_seed(1), (200, 300), 0.04
    pixel = torch.full((4000,), 100 * 300 + 150)  # so far inside that few boxes are clamped
    boxes = boxes_around(pixel, torch.rand(4000, 3, generator=draw), size, area)
    top, left, bottom, right = boxes.double().unbind(dim=1)
    height, width = bottom - top, right - left
    assert (height * width).mean() / (200 * 300) == pytest.approx(area, rel=0.02)
    # log-uniform from area x H to H
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = 200 * area ** (1 - share)
        assert height.quantile(share).item() == pytest.approx(expected, rel=0.12)
    free = (height < 100) & (width < 150)
    for begin, side, place in ((top, height, 100), (left, width, 150)):
        offset = ((place - begin + 0.5) / side)[free]
        assert offset.mean().item() == pytest.approx(0.5, abs=0.02)
        assert offset.var().item() == pytest.approx(1 / 12, abs=0.01)
