from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.fixtures import at_four_times, cases
from u2pl.maps import downsample, one_hot, shrink_factor, top_class, upsample


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


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (5, 7), (12, 9)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_downsample_takes_every_fourth_pixel(size, dtype):
    full = torch.randint(0, 2, (2, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    small = downsample(full)
    assert small.shape == (2, -(-size[0] // 4), -(-size[1] // 4)) and small.dtype == dtype
    for b, i, j in np.ndindex(*small.shape):
        assert small[b, i, j] == full[b, 4 * i, 4 * j]


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
        small = downsample(at_four_times(z["cfg_rep_size"], torch.tensor(z[f"in_label_{group}"])))
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
