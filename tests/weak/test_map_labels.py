from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.fixtures import cases
from u2pl_ws.activation_maps import only_tagged
from u2pl_ws.map_labels import (
    Levels,
    agreed_label,
    class_probability,
    random_walk,
    refined_label,
    tagged_maps,
    walked_label,
)
from u2pl_ws.pixel_refinement import affinity_kernel, half_size, refine

IGNORE = 255
GRID = (4, 5)


def random_case(seed: int, batch: int = 3, classes: int = 5, size=(32, 40)):
    """Images, their maps and tags, affinity of 4 x 5 tokens, its radius mask, and valid pixels.

    The last image has no tag.
    """
    draw = torch.Generator().manual_seed(seed)
    image = (torch.rand(batch, 3, *size, generator=draw) * 255).to(torch.uint8)
    cam = F.interpolate(torch.rand(batch, classes, 5, 6, generator=draw), size, mode="bilinear")
    tags = torch.rand(batch, classes, generator=draw) < 0.5
    tags[0, 0], tags[-1] = True, False
    tokens = GRID[0] * GRID[1]
    affinity = torch.rand(batch, tokens, tokens, generator=draw)
    near = torch.rand(tokens, tokens, generator=draw) < 0.6
    valid = torch.ones(batch, *size, dtype=torch.bool)
    valid[:, -6:], valid[:, :, -3:] = False, False
    return image, cam, tags, affinity, near, valid


def both_labels(case, most=None, levels=None):
    image, cam, tags, affinity, near, valid = case
    maps, kernel = tagged_maps(cam, tags, most), affinity_kernel(half_size(image))
    return refined_label(maps, kernel, valid, levels), walked_label(
        maps, affinity, near, GRID, kernel, valid, levels
    )


def slow_probability(cam, tags, background):
    """One image, in float64."""
    scores = [background, *cam.double().tolist()]
    present = [0, *(k + 1 for k, tagged in enumerate(tags.tolist()) if tagged)]
    total = sum(math.exp(scores[c]) for c in present)
    return [math.exp(scores[c]) / total if c in present else 0.0 for c in range(len(scores))]


def slow_walk(maps, affinity, near, smoothing):
    """One image's maps [C, N] of lists."""
    size = affinity.shape[0]
    value = [
        [(affinity[i, j].item() * float(near[i, j])) ** 2 for j in range(size)] for i in range(size)
    ]
    column = [sum(value[i][j] for i in range(size)) + smoothing for j in range(size)]
    return [
        [sum(row[i] * value[i][j] / column[j] for i in range(size)) for j in range(size)]
        for row in maps
    ]


def slow_refined(image, cam, tags, valid, levels):
    """One image: only the present classes, one after the other."""
    size = [side // 2 for side in valid.shape]
    present = [0, *(k + 1 for k, tagged in enumerate(tags.tolist()) if tagged)]
    kernel = affinity_kernel(half_size(image[None]))
    decided = []
    for level in levels:
        maps = [torch.full(valid.shape, level), *(cam[c - 1] for c in present[1:])]
        small = F.interpolate(
            torch.stack(maps)[None], size, mode="bilinear", align_corners=False
        ).softmax(dim=1)
        large = F.interpolate(
            refine(small, kernel), valid.shape, mode="bilinear", align_corners=False
        )
        decided.append(large[0].argmax(dim=0))
    return merge(*(torch.tensor(present)[found] for found in decided), valid)


def merge(high, low, valid):
    out = torch.empty_like(high)
    for place in np.ndindex(*out.shape):
        out[place] = high[place] if high[place] else IGNORE if low[place] else 0
        out[place] = out[place] if valid[place] else IGNORE
    return out


@pytest.mark.parametrize("classes", [1, 2, 6])
def test_probabilities_equal_the_loop(classes):
    _, cam, tags, *_ = random_case(classes, classes=classes, size=(4, 5))
    found = class_probability(cam, tags, 0.4)
    for b, y, x in np.ndindex(3, 4, 5):
        assert found[b, :, y, x].tolist() == pytest.approx(
            slow_probability(cam[b, :, y, x], tags[b], 0.4), abs=1e-6
        )


@pytest.mark.parametrize("smoothing", [0.1, 1e-4])
@pytest.mark.parametrize("masked", [True, False])
def test_the_walk_equals_the_loop(smoothing, masked):
    _, cam, _, affinity, near, _ = random_case(1, size=GRID)
    found = random_walk(cam, affinity, near if masked else None, smoothing)
    for b in range(3):
        expected = slow_walk(
            cam[b].flatten(1).tolist(),
            affinity[b],
            near if masked else torch.ones_like(near),
            smoothing,
        )
        torch.testing.assert_close(
            found[b].flatten(1).double(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=0,
            atol=2e-6,
        )


def test_a_lonely_token_takes_nothing():
    affinity = torch.rand(1, 20, 20)
    near = torch.ones(20, 20, dtype=torch.bool)
    near[:, 7] = False
    found = random_walk(torch.rand(1, 3, *GRID), affinity, near).flatten(2)
    assert not found[:, :, 7].any() and found.isfinite().all() and found[:, :, 8].all()


def test_the_walk_is_computed_in_float32_without_gradient():
    _, cam, _, affinity, near, _ = random_case(2, size=GRID)
    affinity.requires_grad_()
    expected = random_walk(cam, affinity, near)
    with torch.autocast("cpu", torch.bfloat16):
        found = random_walk(cam, affinity, near)
    assert found.dtype == torch.float32 and torch.equal(found, expected) and not found.requires_grad


@pytest.mark.parametrize("classes", [1, 5])
def test_refined_labels_equal_the_loop(classes):
    image, cam, tags, _, _, valid = random_case(classes, classes=classes)
    levels = Levels(0.7, 0.4)
    found = refined_label(tagged_maps(cam, tags), affinity_kernel(half_size(image)), valid, levels)
    assert found.dtype == torch.int64
    for b in range(3):
        expected = slow_refined(image[b], cam[b], tags[b], valid[b], levels)
        assert (found[b] != expected).float().mean() <= 0.001
    assert len(found.unique()) > 2  # the case says something


def test_probabilities_and_walks_match_the_fixture(shared):
    z = {
        key: torch.tensor(value)
        for key, value in np.load(shared("fixtures/random_walk.npz")).items()
    }
    tags, near = z["in_cls_labels"], z["in_radius_mask"]
    for affinity, level, masked in cases(z, "out_rw_([^_]+)_([^_]+)(_nomask)?"):
        prob = class_probability(z["in_cam"], tags, z[f"cfg_{level}"].item())
        found = random_walk(prob, z[f"in_aff_{affinity}"], None if masked else near)
        expected = z[f"out_rw_{affinity}_{level}{masked or ''}"]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    found = random_walk(only_tagged(z["in_cam"], tags), z["in_aff_asym"], near, smoothing=1e-4)
    torch.testing.assert_close(found, only_tagged(z["out_rw_fgonly"], tags), rtol=0, atol=2e-5)
    torch.testing.assert_close(
        random_walk(z["in_cam"], z["in_aff_asym"], near, 1e-4),
        z["out_rw_fgonly"],
        rtol=0,
        atol=2e-5,
    )


@pytest.mark.parametrize("limited", [False, True])
def test_refined_labels_match_the_fixture(shared, limited):
    z = {
        key: torch.tensor(value)
        for key, value in np.load(shared("fixtures/random_walk.npz")).items()
    }
    most = int(z["in_cls_labels"].sum(dim=1).max()) if limited else None
    valid = torch.zeros_like(z["in_cams_full"][:, 0], dtype=torch.bool)
    for inside, (top, bottom, left, right) in zip(valid, z["in_img_box"].tolist(), strict=True):
        inside[top:bottom, left:right] = True
    maps = tagged_maps(z["in_cams_full"], z["in_cls_labels"], most)
    levels = Levels(z["cfg_high"].item(), z["cfg_low"].item())
    found = refined_label(maps, affinity_kernel(half_size(z["in_image01"])), valid, levels)
    assert (found != z["out_refined_label"]).float().mean() <= 0.001


def test_walked_labels_match_the_fixture(shared):
    """Its images are cut out of their padding between the walk and the refinement."""
    z = {
        key: torch.tensor(value)
        for key, value in np.load(shared("fixtures/random_walk.npz")).items()
    }
    cam = F.interpolate(
        z["out_valid_cam"], z["in_cam"].shape[2:], mode="bilinear", align_corners=False
    )
    both = torch.cat(
        [
            class_probability(cam, z["in_cls_labels"], z[level].item())
            for level in ("cfg_high", "cfg_low")
        ],
        dim=1,
    )
    walked = random_walk(both, z["in_aff_sym"], z["in_radius_mask"])
    images, classes, *size = z["out_valid_cam"].shape
    walked = F.interpolate(walked, size, mode="bilinear", align_corners=False)
    label, low = torch.full((images, *size), IGNORE), torch.zeros(images, 1 + classes, *size)
    for b, (top, bottom, left, right) in enumerate(z["in_img_box"].tolist()):
        box = (slice(b, b + 1), ..., slice(top, bottom), slice(left, right))
        kernel = affinity_kernel(half_size(z["in_image01"][box]))
        label[box] = agreed_label(
            walked[box],
            torch.arange(1, 1 + classes)[None],
            kernel,
            torch.ones_like(label[box], dtype=torch.bool),
        )
        refined = refine(walked[box][:, 1 + classes :], kernel)
        low[box] = F.interpolate(
            refined, (bottom - top, right - left), mode="bilinear", align_corners=False
        )
    assert (label != z["out_aff_refined_label"]).float().mean() <= 0.001
    torch.testing.assert_close(low, z["out_aff_refined_cam_low"], rtol=0, atol=2e-5)


def test_walked_labels_are_those_of_their_parts():
    image, cam, tags, affinity, near, valid = random_case(3)
    small = F.interpolate(cam, GRID, mode="bilinear", align_corners=False)
    both = torch.cat(
        [random_walk(class_probability(small, tags, level), affinity, near) for level in Levels()],
        dim=1,
    )
    large = F.interpolate(both, valid.shape[1:], mode="bilinear", align_corners=False)
    kernel = affinity_kernel(half_size(image))
    expected = agreed_label(large, torch.arange(1, 6).expand(3, 5), kernel, valid)
    assert torch.equal(
        walked_label(tagged_maps(cam, tags), affinity, near, GRID, kernel, valid), expected
    )


def test_two_sets_of_maps_are_merged_as_the_table_says():
    """Flat images, and one-hot maps of large patches whose middles the refinement keeps."""
    rows = [(high, low) for high in range(3) for low in range(3)]
    both = torch.zeros(9, 6, 8, 8)
    for b, (high, low) in enumerate(rows):
        both[b, high], both[b, 3 + low] = 1, 1
    kernel = affinity_kernel(torch.zeros(9, 3, 8, 8))
    valid = torch.ones(9, 16, 16, dtype=torch.bool)
    valid[:, 0] = False
    found = agreed_label(both, torch.tensor([[4, 9]]).expand(9, 2), kernel, valid)
    assert found[:, 8, 8].tolist() == [0, IGNORE, IGNORE, 4, 4, 4, 9, 9, 9]
    assert (found[:, 0] == IGNORE).all() and (found[:, 1:] == found[:, 8:9, 8:9]).all()


def test_tagged_classes_come_first_in_their_order():
    cam = torch.arange(8.0).view(2, 4, 1, 1)
    maps = tagged_maps(cam, torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]]), most=2)
    assert maps.class_BS.tolist() == [[2, 4], [1, 2]] and maps.tagged_BS.tolist() == [
        [True, True],
        [True, False],
    ]
    assert maps.cam_BSHW.flatten().tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize("levels", [Levels(), Levels(0.7, 0.4)])
def test_the_most_tags_save_time_and_change_nothing(levels):
    case = random_case(4)
    most = int(case[2].sum(dim=1).max())
    assert 0 < most < 5
    for found, expected in zip(
        both_labels(case, most, levels), both_labels(case, None, levels), strict=True
    ):
        assert torch.equal(found, expected)


def test_absent_classes_have_no_influence():
    case = random_case(5)
    image, cam, tags, *rest = case
    for garbage in (torch.nan, torch.inf, 1e30, -5.0):
        other = torch.where(tags[:, :, None, None], cam, garbage)
        for found, expected in zip(
            both_labels((image, other, tags, *rest)), both_labels(case), strict=True
        ):
            assert torch.equal(found, expected)


def test_labels_hold_tagged_classes_alone_and_an_image_without_tags_is_background():
    case = random_case(6)
    tags, valid = case[2], case[5]
    for label in both_labels(case, None, Levels(0.6, 0.3)):
        for b in range(3):
            assert set(label[b].unique().tolist()) <= {
                0,
                IGNORE,
                *(tags[b].nonzero().flatten() + 1).tolist(),
            }
        assert not label[-1][valid[-1]].any()
        assert (label[~valid] == IGNORE).all() and (label[0][valid[0]] > 0).any()


def test_a_permutation_of_the_classes_permutes_the_labels():
    case = random_case(7)
    image, cam, tags, *rest = case
    order = torch.tensor([3, 0, 4, 1, 2])
    table = torch.full((IGNORE + 1,), IGNORE)
    table[0], table[order + 1] = 0, torch.arange(1, 6)
    permuted = both_labels((image, cam[:, order], tags[:, order], *rest), None, Levels(0.7, 0.4))
    for found, label in zip(permuted, both_labels(case, None, Levels(0.7, 0.4)), strict=True):
        assert (found != table[label]).float().mean() <= 0.001


def test_a_batch_equals_each_image_alone():
    case = random_case(8)
    together = both_labels(case, None, Levels(0.7, 0.4))
    for b in range(3):
        image, cam, tags, affinity, near, valid = (
            part if part is case[4] else part[b : b + 1] for part in case
        )
        for one, all_of_them in zip(
            both_labels((image, cam, tags, affinity, near, valid), None, Levels(0.7, 0.4)),
            together,
            strict=True,
        ):
            assert (one[0] != all_of_them[b]).float().mean() <= 0.001


def test_padding_alone_is_255_and_the_same_case_gives_the_same_labels():
    case = random_case(9)
    for found, again in zip(both_labels(case), both_labels(case), strict=True):
        assert torch.equal(found, again)
    for label in both_labels((*case[:5], torch.zeros_like(case[5]))):
        assert (label == IGNORE).all()
