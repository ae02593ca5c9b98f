"""Random intensities: each operation against Pillow's, and what is drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError
from torch import Tensor

from u2pl.mixing import intensity
from u2pl.mixing.intensity import OPERATIONS, IntensityConfig, Operation, RandomIntensity

#: The highest level that is drawn.
HIGHEST = 1 - 2**-24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(images: int = 4, size: tuple[int, int] = (12, 17)) -> Tensor:
    """Random colours, of a narrower range in the second half of each image; one corner is grey."""
    image = torch.randint(0, 256, (images, 3, *size), generator=generator(9))
    image[..., size[1] // 2 :] = 60 + image[..., size[1] // 2 :] // 3
    image[..., :3, :3] = image[:, :1, :3, :3]
    return image.to(torch.uint8)


def strength(operation: Operation, level: float) -> float:
    return operation.low + (operation.high - operation.low) * level


#: Pillow's: (image, strength) -> image.
PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "colour": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
}
#: Operations of whole numbers.
EXACT = ("identity", "equalize", "posterize", "solarize")


@pytest.mark.parametrize("level", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_is_pillow_s_up_to_rounding(name: str, level: float) -> None:
    image = pictures(1, (40, 30))[0]
    amount = strength(OPERATIONS[name], level)
    theirs = PILLOW[name](Image.fromarray(image.permute(1, 2, 0).numpy()), amount)
    ours = OPERATIONS[name].change(image, amount).permute(1, 2, 0)
    off = (ours.int() - torch.from_numpy(np.array(theirs)).int()).abs()
    assert off.max() <= (0 if name in EXACT else 1)
    assert name == "identity" or level > 0.7 or (ours != image.permute(1, 2, 0)).any()


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.45])
def test_hue_turns_around_the_circle(shift: float) -> None:
    image = pictures(1)[0]
    found = OPERATIONS["hue"].change(image, shift)
    for i, j in np.ndindex(*image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, i, j] / 255).tolist())
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
        assert np.abs(found[:, i, j].numpy() - 255 * np.array(expected)).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_a_gaussian_of_nine_pixels_reflected_at_the_border(sigma: float) -> None:
    image = pictures(1)[0]
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(image.double().numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    expected = np.zeros(image.shape)
    for i, j in np.ndindex(9, 9):
        rows, columns = slice(i, i + image.shape[1]), slice(j, j + image.shape[2])
        expected += kernel[i] * kernel[j] * padded[:, rows, columns]
    found = OPERATIONS["blur"].change(image, sigma)
    assert np.abs(found.numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("level", [0.0, HIGHEST])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_strength_that_is_drawn_gives_an_image(name: str, level: float) -> None:
    image = pictures(1)[0]
    found = OPERATIONS[name].change(image, strength(OPERATIONS[name], level))
    assert found.shape == image.shape and found.dtype == torch.uint8


def noting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Operations that change nothing; what is called is in the list."""
    called: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[Tensor, float], Tensor]:
        def change(image: Tensor, amount: float) -> Tensor:
            called.append((name, amount))
            return image

        return change

    kept = {name: each._replace(change=note(name)) for name, each in OPERATIONS.items()}
    monkeypatch.setattr(intensity, "OPERATIONS", kept)
    return called


def drawn(
    monkeypatch: pytest.MonkeyPatch, seeds: int, **options: Any
) -> list[list[tuple[str, float]]]:
    """Names and strengths for one image of each of several steps."""
    called, found = noting(monkeypatch), []
    for seed in range(seeds):
        called.clear()
        RandomIntensity(IntensityConfig(**options))(generator(seed), pictures(1, (2, 2)))
        found.append(list(called))
    return found


@pytest.mark.parametrize("most", [1, 3, 11])
def test_an_image_is_changed_by_one_to_most_operations_none_twice(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = [[name for name, _ in one] for one in drawn(monkeypatch, 330, most=most)]
    counts = torch.tensor([len(names) for names in each]).bincount(minlength=most + 1)
    assert counts[0] == 0 and len(counts) == most + 1
    # each number of operations alike, up to 5 deviations
    assert (counts[1:] - 330 / most).abs().max() < 5 * (330 / most) ** 0.5
    assert all(len(set(names)) == len(names) for names in each)
    first = {names[0] for names in each}
    assert first == set(OPERATIONS)


def test_the_number_may_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(monkeypatch, 20, most=4, fixed=True)
    assert all(len(one) == 4 for one in found)


def test_strengths_are_drawn_from_all_of_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    amounts: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for one in drawn(monkeypatch, 200, most=11, fixed=True):
        for name, amount in one:
            amounts[name].append(amount)
    for name, operation in OPERATIONS.items():
        assert len(amounts[name]) == 200
        low, span = operation.low, operation.high - operation.low
        assert low <= min(amounts[name]) <= low + 0.05 * span
        assert low + 0.95 * span <= max(amounts[name]) <= operation.high
        assert np.mean(amounts[name]) == pytest.approx(low + span / 2, abs=0.11 * span)


def test_images_are_changed_by_operations_of_their_own() -> None:
    image = pictures(1).expand(8, -1, -1, -1)
    found = RandomIntensity(IntensityConfig())(generator(), image)
    assert found.dtype == torch.uint8 and found.shape == image.shape
    assert len({tuple(each.flatten().tolist()) for each in found}) >= 6


def test_the_seed_alone_decides_and_the_generator_is_not_advanced() -> None:
    change, image, draw = RandomIntensity(IntensityConfig()), pictures(), generator(3)
    before, kept = draw.get_state(), image.clone()
    first = change(draw, image)
    torch.rand(5)  # the global generator has no part in it
    assert torch.equal(change(draw, image), first)
    assert torch.equal(draw.get_state(), before) and torch.equal(image, kept)
    assert not torch.equal(change(generator(4), image), first)


def test_no_operation_returns_the_image_itself() -> None:
    image = pictures()
    assert RandomIntensity(IntensityConfig(most=0))(generator(), image) is image
    with pytest.raises(ValidationError):
        IntensityConfig(most=len(OPERATIONS) + 1)


def test_two_processes_change_images_like_one(request: pytest.FixtureRequest) -> None:
    change, image = RandomIntensity(IntensityConfig()), pictures()
    whole = change(generator(1), image)
    twins = request.getfixturevalue("connected")
    halves = twins.run(lambda rank: change(generator(1), image[2 * rank : 2 * rank + 2]))
    assert torch.equal(torch.cat(halves), whole)


@pytest.mark.parametrize("name", OPERATIONS)
def test_other_channels_than_colours_are_changed_as_grey_images(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(intensity, "OPERATIONS", {name: OPERATIONS[name]})
    change = RandomIntensity(IntensityConfig(most=1))
    image = torch.randint(20, 200, (2, 5, 32, 40), generator=generator(4)).to(torch.uint8)
    found = change(generator(1), image)
    assert found.shape == image.shape and found.dtype == torch.uint8
    assert (name in ("identity", "colour", "hue")) == torch.equal(found, image)
    for channel in range(5):
        grey = image[:, [channel]]
        alone = change(generator(1), grey)
        assert torch.equal(found[:, [channel]], alone), channel
