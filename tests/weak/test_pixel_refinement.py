from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.fixtures import assert_close, cases
from u2pl_ws.pixel_refinement import affinity_kernel, half_size, position_weights, refine

AROUND = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def picture(seed: int, *size: int, levels: int = 255) -> torch.Tensor:
    """Smooth images with noise, in multiples of 1 / levels."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(size[0], 3, 3, 4, generator=draw)
    image = F.interpolate(coarse, size[1:], mode="bilinear") + 0.1 * torch.rand(
        size[0], 3, *size[1:], generator=draw
    )
    return (image.clamp(0, 1) * levels).round() / levels


def maps(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(dim=1)


def slow_refine(image, map_CHW, dilations, spread, position_weight, iterations):
    """One image of python floats, pixel by pixel."""
    image, old = image.double().tolist(), map_CHW.double().tolist()
    height, width = len(image[0]), len(image[0][0])
    radius = [d * math.hypot(*step) for d in dilations for step in AROUND]

    def softmax(values):
        top = max(values)
        powers = [math.exp(value - top) for value in values]
        return [power / sum(powers) for power in powers]

    near = softmax([-((r / (statistics.stdev(radius) + 1e-8) / spread) ** 2) for r in radius])
    places, weights = {}, {}
    for y, x in np.ndindex(height, width):
        places[y, x] = [
            (min(max(y + d * down, 0), height - 1), min(max(x + d * right, 0), width - 1))
            for d in dilations
            for down, right in AROUND
        ]
        terms = [0.0] * len(radius)
        for channel in image:
            colours = [channel[i][j] for i, j in places[y, x]]
            deviation = statistics.stdev(colours) + 1e-8
            terms = [
                term - ((colour - channel[y][x]) / deviation / spread) ** 2 / 3
                for term, colour in zip(terms, colours, strict=True)
            ]
        weights[y, x] = [w + position_weight * n for w, n in zip(softmax(terms), near, strict=True)]
    for _ in range(iterations):
        old = [
            [
                [
                    sum(w * m[i][j] for w, (i, j) in zip(weights[y, x], places[y, x], strict=True))
                    for x in range(width)
                ]
                for y in range(height)
            ]
            for m in old
        ]
    return torch.tensor(old)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 7)])
@pytest.mark.parametrize(
    ("dilations", "spread", "position_weight"), [((1,), 0.3, 0.01), ((1, 2, 5), 0.5, 0.2)]
)
def test_refinement_equals_the_loop(size, dilations, spread, position_weight):
    image, before = picture(1, 2, *size), maps(2, 2, 3, *size)
    found = refine(before, affinity_kernel(image, dilations, spread, position_weight), iterations=3)
    for b in range(2):
        expected = slow_refine(image[b], before[b], dilations, spread, position_weight, 3)
        torch.testing.assert_close(found[b], expected, rtol=0, atol=1e-5)


def test_everything_matches_the_fixture(shared):
    z = {key: torch.tensor(value) for key, value in np.load(shared("fixtures/par.npz")).items()}
    options = tuple(z["cfg_dilations"].tolist()), z["cfg_w1"].item(), z["cfg_w2"].item()
    kernel, iterations = affinity_kernel(z["in_image"], *options), int(z["cfg_num_iter"])
    flat = affinity_kernel(z["in_flat_image"], *options)
    found = {
        "out_flat": refine(z["in_flat_mask"], flat, iterations),
        "out_position_weights": position_weights(*options),
    }
    for size in cases(z, "out_refined_(.+)"):
        found[f"out_refined_{size}"] = refine(z[f"in_mask_{size}"], kernel, iterations)
    for size in cases(z, "out_one_iter_(.+)"):
        found[f"out_one_iter_{size}"] = refine(z[f"in_mask_{size}"], kernel, 1)
    for name, value in found.items():
        assert_close(value, z[name], name=name)


def test_options_that_are_not_given_are_afas():
    image, before, options = picture(2, 1, 9, 7), maps(3, 1, 2, 9, 7), ((1, 2, 4, 8, 12, 24), 0.3)
    assert torch.equal(position_weights(), position_weights(*options, 0.01))
    given = affinity_kernel(image, *options, 0.01)
    assert torch.equal(affinity_kernel(image).weight_NJ, given.weight_NJ)
    assert torch.equal(refine(before, given), refine(before, given, iterations=10))


def test_weights_sum_to_one_and_the_position_weight():
    kernel = affinity_kernel(picture(3, 2, 9, 14), position_weight=0.03)
    torch.testing.assert_close(kernel.weight_NJ.sum(dim=1), torch.full((2 * 9 * 14,), 1.03))
    assert kernel.weight_NJ.shape == kernel.index_NJ.shape == (2 * 9 * 14, 48)
    ones = refine(torch.ones(2, 1, 9, 14), kernel, iterations=4)
    torch.testing.assert_close(ones, torch.full_like(ones, 1.03**4))


def test_a_batch_equals_each_image_alone():
    image, before = picture(4, 3, 20, 30), maps(5, 3, 4, 20, 30)
    together = refine(before, affinity_kernel(image))
    for b in range(3):
        torch.testing.assert_close(
            together[b : b + 1],
            refine(before[b : b + 1], affinity_kernel(image[b : b + 1])),
            rtol=0,
            atol=1e-6,
        )


def test_no_class_sees_another():
    image, before = picture(6, 2, 16, 12), maps(7, 2, 5, 16, 12)
    kernel, order = affinity_kernel(image), torch.tensor([3, 0, 4, 1, 2])
    found = refine(before, kernel)
    assert torch.equal(refine(before[:, order], kernel), found[:, order])
    other = before.clone()
    other[:, 2] = torch.nan
    kept = [0, 1, 3, 4]
    assert torch.equal(refine(other, kernel)[:, kept], found[:, kept])
    torch.testing.assert_close(refine(before[:, :1], kernel), found[:, :1], rtol=0, atol=1e-6)


def test_maps_do_not_cross_an_edge():
    """Two flat halves: maps stay in theirs, but for the little that position weights carry over."""
    image = torch.zeros(1, 3, 24, 32)
    image[..., 16:] = 1
    before = torch.zeros(1, 2, 24, 32)
    before[:, 0, :, :16], before[:, 1, :, 16:] = 1, 1
    found = refine(before, affinity_kernel(image, position_weight=0.0))
    torch.testing.assert_close(found, before)
    noisy = (
        before + 0.8 * torch.rand(before.shape, generator=torch.Generator().manual_seed(8)) - 0.4
    ).clamp(0, 1)
    assert torch.equal(refine(noisy, affinity_kernel(image)).argmax(dim=1), before.argmax(dim=1))


def test_it_is_the_same_every_time_and_leaves_its_input():
    image, before = picture(9, 2, 20, 20), maps(10, 2, 3, 20, 20)
    kept = before.clone()
    assert torch.equal(
        refine(before, affinity_kernel(image)), refine(before, affinity_kernel(image))
    )
    assert torch.equal(before, kept)


def test_no_gradient_and_no_autocast():
    image, before = picture(11, 1, 16, 16).requires_grad_(), maps(12, 1, 3, 16, 16).requires_grad_()
    expected = refine(before, affinity_kernel(image))
    assert not expected.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        found = refine(before, affinity_kernel(image))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert refine(before.bfloat16(), affinity_kernel(image)).dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 10), (9, 11)])
def test_the_half_size_image(size):
    image = (picture(13, 2, *size) * 255).round().to(torch.uint8)
    half = half_size(image)
    assert half.shape == (2, 3, max(1, size[0] // 2), max(1, size[1] // 2))
    torch.testing.assert_close(half, half_size(image / 255))
    if size[0] % 2 == size[1] % 2 == 0:
        torch.testing.assert_close(half, F.avg_pool2d(image / 255, 2))
