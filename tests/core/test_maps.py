from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from harness.fixtures import cases
from u2pl.maps import (
    downsample,
    enlarge,
    one_hot,
    resize_image,
    shrink_factor,
    top_class,
    upsample,
)


def slow_bilinear(small: torch.Tensor, i: int, j: int) -> float:
    """Sample the map at pixel (i, j) of the image, centres aligned, edges repeated."""
    h, w = small.shape
    y, x = ((k + 0.5) / 4 - 0.5 for k in (i, j))
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            value += (
                row_weight
                * column_weight
                * small[min(max(row, 0), h - 1), min(max(column, 0), w - 1)].item()
            )
    return value


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (5, 7), (12, 9), (13, 16)])
def test_upsample_equals_the_loop(size):
    draw = torch.Generator().manual_seed(size[0])
    small = torch.randn(1, 2, -(-size[0] // 4), -(-size[1] // 4), generator=draw)
    full = upsample(small, size)
    assert full.shape == (1, 2, *size)
    for c, i, j in np.ndindex(2, *size):
        assert full[0, c, i, j].item() == pytest.approx(
            slow_bilinear(small[0, c], i, j), rel=1e-4, abs=1e-5
        )


def test_upsample_keeps_dtype_and_gradient():
    small = torch.randn(1, 2, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    full = upsample(small, (10, 12))
    full.float().sum().backward()
    assert full.dtype == torch.bfloat16 and small.grad is not None


@pytest.mark.parametrize("size", [(40, 30), (20, 15), (13, 30), (61, 7), (80, 60), (57, 31)])
def test_images_are_resized_to_the_pixels_of_training(size):
    bytes_HW3 = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    seen = Image.fromarray(bytes_HW3).resize(size[::-1], Image.Resampling.BILINEAR)
    image = torch.from_numpy(bytes_HW3).permute(2, 0, 1)[None].float()
    found = resize_image(image, size)[0].permute(1, 2, 0)
    # Pillow rounds after each axis
    assert (found - torch.from_numpy(np.array(seen))).abs().max() <= 1
    if size == (40, 30):
        assert torch.equal(found, torch.from_numpy(bytes_HW3).float())


@pytest.mark.parametrize("pixel", ["centre", "released"])
@pytest.mark.parametrize("size", [(4, 4), (1, 1), (5, 7), (12, 9), (6, 11), (33, 49)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_downsample_takes_one_pixel_of_sixteen(size, dtype, pixel):
    full = torch.randint(0, 256, (2, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    small = downsample(full, pixel)
    h, w = -(-size[0] // 4), -(-size[1] // 4)
    assert small.shape == (2, h, w) and small.dtype == dtype
    for b, i, j in np.ndindex(*small.shape):
        centre = min(4 * i + 2, size[0] - 1), min(4 * j + 2, size[1] - 1)
        released = math.floor(i * size[0] / h), math.floor(j * size[1] / w)
        assert small[b, i, j] == full[b][released if pixel == "released" else centre]


def test_the_centre_is_nearest_to_where_upsampling_puts_a_feature():
    ramp = torch.arange(64.0).expand(1, 64, 64)
    feature = torch.arange(16.0).expand(1, 1, 16, 16)
    place = upsample(feature, (64, 64))[0, 0, 8]  # the feature that each pixel sees
    for pixel, distance in (("centre", 0.5), ("released", 1.5)):
        column = downsample(ramp, pixel)[0, 2]
        off = 4 * (place[column.long()] - feature[0, 0, 0])[1:-1]
        assert torch.allclose(off.abs(), torch.tensor(distance))


def test_top_class_is_the_first_of_the_highest():
    score = torch.randint(3, (2, 7, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(top_class(score), score.argmax(dim=1))
    assert (top_class(torch.zeros(1, 5, 2, 2)) == 0).all()


def test_one_hot_is_one_hot_and_leaves_255_out():
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, (2, 3, 5), generator=draw, dtype=torch.uint8)
    label[label == 4] = 255
    mask = one_hot(label, 4)
    assert mask.dtype == torch.bool
    assert torch.equal(mask.sum(dim=1), (label != 255).long())
    for c in range(4):
        assert torch.equal(mask[:, c], label == c)


def test_one_hot_matches_the_fixture(shared):
    z = np.load(shared("fixtures/entropy_partition.npz"))
    for group in cases(z, "in_label_(.+)"):
        small = downsample(torch.tensor(z[f"in_label_{group}"]), "released")
        assert list(small.shape[1:]) == z["cfg_rep_size"].tolist()
        assert np.array_equal(
            one_hot(small, int(z["cfg_num_classes"])).numpy(),
            z[f"out_onehot_{group}_small_correct"] == 1,
        )


@pytest.mark.parametrize(
    ("size", "long_side", "factor"),
    [((100, 50), 0, 1.0), ((100, 50), 50, 0.5), ((50, 100), 50, 0.5), ((40, 50), 50, 1.0)],
)
def test_the_longer_side_is_shrunk_and_never_enlarged(size, long_side, factor):
    assert shrink_factor(size, long_side) == factor


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (5, 7), (12, 9), (13, 16)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_enlarge_gives_each_pixel_the_value_of_its_feature(size, dtype):
    small = torch.randint(
        0, 256, (2, -(-size[0] // 4), -(-size[1] // 4)), generator=torch.Generator().manual_seed(0)
    ).to(dtype)
    large = enlarge(small, size)
    assert large.shape == (2, *size) and large.dtype == dtype
    for b, i, j in np.ndindex(*large.shape):
        assert large[b, i, j] == small[b, i // 4, j // 4]
    for pixel in ("centre", "released"):
        if pixel == "centre" or not (size[0] % 4 or size[1] % 4):
            assert torch.equal(downsample(large, pixel), small)


def test_a_map_of_the_image_s_size_is_not_enlarged():
    large = torch.rand(2, 12, 9)
    assert enlarge(large, (12, 9)) is large
    assert enlarge(large, large.shape[-2:]) is large
