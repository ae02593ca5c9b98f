from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from u2pl.data.channels import as_image
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.notation import padding


def _ramp(width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """An image whose red is 2 x column, green 2 x row, and a mask equal to the red."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 2 * np.arange(width)
    pixels[..., 1] = 2 * np.arange(height)[:, None]
    pixels[..., 2] = 9
    return Image.fromarray(pixels), pixels[..., 0].copy()


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 1.37, 2.0])
@pytest.mark.parametrize("size", [(100, 80), (61, 47)])
def test_image_and_mask_stay_aligned(scale: float, size: tuple[int, int]) -> None:
    image, mask = _ramp(*size)
    transform = TrainTransform(32, (scale, scale), flip=True)
    for seed in range(20):
        sample = transform(image, mask, np.random.default_rng(seed))
        gap = (sample.image[0].float() - sample.label.float())[sample.valid]
        # nearest picks a source pixel within half an output pixel (1 / scale columns of 2 grey
        # levels each) and half a column
        assert gap.abs().max() <= 1 / scale + 1.5
        assert gap.mean().abs() <= 1.05 + 0.05 / scale if scale < 1 else gap.mean().abs() <= 0.6


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.6])
def test_resizing_a_box_equals_cutting_the_resized_image(scale: float) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8))
    mask = rng.integers(0, 5, (90, 120), np.uint8)
    whole = image.resize((round(120 * scale), round(90 * scale)), Image.Resampling.BILINEAR)
    ids = Image.fromarray(mask).resize(whole.size, Image.Resampling.NEAREST)
    for seed in range(10):
        sample = TrainTransform(24, (scale, scale), flip=False)(
            image, mask, np.random.default_rng(seed)
        )
        _, left, top, _ = np.random.default_rng(seed).random(4)
        x, y = int(left * (whole.width - 24 + 1)), int(top * (whole.height - 24 + 1))
        box = (x, y, x + 24, y + 24)
        assert (
            np.abs(
                sample.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(whole.crop(box))
            ).max()
            <= 1
        )
        assert (sample.label.numpy() == np.asarray(ids.crop(box))).mean() > 0.99


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_is_cut_as_each_by_itself(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, channels), np.uint8)
    transform = TrainTransform(32, (0.6, 1.4), flip=True)
    sample = transform(as_image(pixels), None, np.random.default_rng(3)).image
    assert sample.shape == (channels, 32, 32)
    for channel in range(channels):
        photo = as_image(pixels[..., [channel] * 3])
        alone = transform(photo, None, np.random.default_rng(3))
        valid = alone.valid
        assert torch.equal(sample[channel][valid], alone.image[0][valid]) and not valid.all()
        assert (sample[channel][~valid] == padding(channels)[channel]).all()


def test_unit_scale_copies_pixels() -> None:
    image, mask = _ramp(40, 30)
    sample = TrainTransform(16, (1.0, 1.0), flip=False)(image, mask, np.random.default_rng(1))
    x, y = int(sample.image[0, 0, 0]) // 2, int(sample.image[1, 0, 0]) // 2
    assert (
        sample.image.permute(1, 2, 0).numpy() == np.asarray(image)[y : y + 16, x : x + 16]
    ).all()
    assert (sample.label.numpy() == mask[y : y + 16, x : x + 16]).all()
    assert sample.valid.all()
    assert (sample.image.dtype, sample.label.dtype, sample.valid.dtype) == (
        torch.uint8,
        torch.uint8,
        torch.bool,
    )


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (10, 10), (1, 1)])
def test_small_images_are_padded_at_the_right_and_the_bottom(size: tuple[int, int]) -> None:
    image, mask = Image.new("RGB", size, (1, 2, 3)), np.full(size[::-1], 4, np.uint8)
    transform = TrainTransform(16, (1.0, 1.0), flip=True)
    for seed in range(4):
        sample = transform(image, mask, np.random.default_rng(seed))
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[: min(size[1], 16), : min(size[0], 16)] = True
        assert torch.equal(sample.valid, inside)
        assert (sample.label[inside] == 4).all() and (sample.label[~inside] == 255).all()
        assert sample.image[:, inside].unique(dim=1).tolist() == [[1], [2], [3]]
        assert (sample.image[:, ~inside] == torch.tensor([[124], [116], [104]])).all()


def test_without_mask_the_image_is_the_same_and_the_label_empty() -> None:
    image, mask = _ramp(50, 50)
    transform = TrainTransform(32, (0.5, 2.0), flip=True)
    with_mask, without = (transform(image, m, np.random.default_rng(7)) for m in (mask, None))
    assert torch.equal(with_mask.image, without.image) and torch.equal(
        with_mask.valid, without.valid
    )
    assert (without.label == 255).all()


def test_flip_happens_half_of_the_time_and_only_when_asked() -> None:
    image, mask = _ramp(32, 32)

    def mirrored(flip: bool) -> list[bool]:
        samples = [
            TrainTransform(32, (1.0, 1.0), flip)(image, mask, np.random.default_rng(seed))
            for seed in range(200)
        ]
        return [bool(sample.image[0, 0, 0] > sample.image[0, 0, -1]) for sample in samples]

    assert 70 < sum(mirrored(True)) < 130
    assert not any(mirrored(False))


def test_crops_reach_every_edge() -> None:
    image, mask = _ramp(36, 36)
    transform = TrainTransform(32, (1.0, 1.0), flip=False)
    corners = {
        tuple((transform(image, mask, np.random.default_rng(seed)).image[:2, 0, 0] // 2).tolist())
        for seed in range(300)
    }
    assert corners == {(x, y) for x in range(5) for y in range(5)}


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_drawing_and_cutting_are_the_whole(scale: float) -> None:
    image, mask = _ramp(60, 45)
    transform = TrainTransform(32, (scale, scale), flip=True, long_side=50)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        geometry = transform.draw(image.size, rng)
        assert rng.random() == np.random.default_rng(seed).random(5)[4]
        sample, whole = (
            transform.cut(image, mask, geometry),
            transform(image, mask, np.random.default_rng(seed)),
        )
        assert all(torch.equal(a, b) for a, b in zip(sample, whole, strict=True))
        assert (transform.cut_mask(mask, geometry) == whole.label.numpy()).all()


def test_void_rows_of_an_image_become_the_border() -> None:
    transform = TrainTransform(512, (1.0, 1.0), flip=True, void_rows=(15 / 512, 120 / 512))
    border = transform(Image.new("RGB", (1024, 512)), None, np.random.default_rng(0)).border
    assert border.dtype == torch.bool and border.nonzero().flatten().tolist() == [
        *range(15),
        *range(392, 512),
    ]


@pytest.mark.parametrize(("scale", "long_side"), [(1.0, 0), (0.5, 0), (2.0, 0), (1.0, 40)])
def test_the_border_follows_the_crop(scale: float, long_side: int) -> None:
    """Three shades of green show where a crop's row comes from; at the seams both are right."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:12, :, 1], pixels[12:39, :, 1], pixels[39:, :, 1] = 255, 0, 255
    transform = TrainTransform(30, (scale, scale), True, long_side, (12 / 60, 21 / 60))
    seen = set()
    for seed in range(20):
        sample = transform(Image.fromarray(pixels), None, np.random.default_rng(seed))
        rows = sample.valid.any(dim=1)
        green, border = sample.image[1, :, 0], sample.border
        assert (border[rows] == (green[rows] > 127))[
            (green[rows] == 0) | (green[rows] == 255)
        ].all()
        assert not border[~rows].any()
        seen |= set(border[rows].tolist())
    assert seen == {True, False}


def test_without_void_rows_there_is_no_border() -> None:
    assert not TrainTransform(8, (0.5, 2.0), flip=True)(
        Image.new("RGB", (9, 9)), None, np.random.default_rng(0)
    ).border.any()


@pytest.mark.parametrize(("crop", "scale"), [(0, (1.0, 1.0)), (8, (0.0, 1.0)), (8, (2.0, 1.0))])
def test_wrong_settings_are_named(crop: int, scale: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"crop 0|scale \("):
        TrainTransform(crop, scale, flip=True)
