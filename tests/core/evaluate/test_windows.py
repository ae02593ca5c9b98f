from __future__ import annotations

import pytest
import torch

from u2pl.evaluate.windows import SPREAD, margins, starts, window_weight


def test_windows_cover_every_pixel_and_end_with_the_image() -> None:
    for size in range(7, 40):
        places = starts(size, 7, 5)
        covered = {pixel for start in places for pixel in range(start, start + 7)}
        assert covered == set(range(size))
        assert places[0] == 0 and places[-1] == size - 7


def test_odd_padding_goes_right_and_below() -> None:
    assert margins(5, 8, 8) == (0, 0, 1, 2)
    assert margins(9, 3, 8) == (2, 3, 0, 0)


@pytest.mark.parametrize("crop", [1, 2, 7, 16])
def test_weights_fall_to_the_edges_and_are_never_zero(crop: int) -> None:
    assert torch.equal(window_weight(crop, "mean"), torch.ones(crop, crop))
    for blend in ("linear", "gaussian"):
        weight = window_weight(crop, blend)
        assert weight.min() > 0
        torch.testing.assert_close(weight, weight.flip(0))
        torch.testing.assert_close(weight, weight.t())
        middle = weight[crop // 2]
        assert (middle[1 : crop // 2 + 1] >= middle[: crop // 2]).all()
    assert window_weight(5, "linear")[2].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    side = window_weight(16, "gaussian")[7, 7:]
    expected = torch.exp(-0.5 * ((torch.arange(9) - 0.5) / (SPREAD * 16)) ** 2)
    torch.testing.assert_close(side / side[0], expected / expected[0])
