"""Random geometry for training: scale, crop, flip; image, label and validity alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from u2pl.errors import UserError
from u2pl.notation import IGNORE, PADDING, shrink_factor


class TrainSample(NamedTuple):
    """One crop."""

    image: Tensor  # uint8 [3, crop, crop]
    label: Tensor  # uint8 [crop, crop]; 255 everywhere when there is no mask
    valid: Tensor  # bool [crop, crop]; False on padding


class TrainTransform:
    """Scale by a random factor, cut a random square, flip at random.

    Args:
        crop: side of the square in pixels; a smaller image is padded at the right and the bottom.
        scale: smallest and largest factor, drawn uniformly.
        flip: whether to mirror left and right half of the time.
        long_side: an image whose longer side exceeds this is shrunk to it before anything else; 0 leaves every image as it is.

    Raises UserError when crop is not positive or scale is not a range of positive factors.
    """

    def __init__(self, crop: int, scale: tuple[float, float], flip: bool, long_side: int = 0) -> None:
        if crop < 1:
            raise UserError(f"crop {crop} must be at least 1 pixel")
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale {scale} must be two positive factors, the smaller one first")
        self.crop, self.scale, self.flip, self.long_side = crop, scale, flip, long_side

    def __call__(self, image: Image.Image, mask: np.ndarray | None, rng: np.random.Generator) -> TrainSample:
        """Cut one sample from an RGB image and its mask, uint8 [H, W]; four draws of `rng`, whatever the image."""
        zoom, left, top, mirror = rng.random(4)
        factor = (self.scale[0] + zoom * (self.scale[1] - self.scale[0])) * shrink_factor(image.size, self.long_side)
        full = [max(1, round(side * factor)) for side in image.size]
        size = (min(self.crop, full[0]), min(self.crop, full[1]))
        x, y = int(left * (full[0] - size[0] + 1)), int(top * (full[1] - size[1] + 1))
        across, down = image.width / full[0], image.height / full[1]
        # Resizing only this box gives the same pixels as cutting it from the resized image.
        box = (x * across, y * down, min((x + size[0]) * across, image.width), min((y + size[1]) * down, image.height))
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
        ids = None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box=box))
        if self.flip and mirror < 0.5:
            pixels, ids = pixels[:, ::-1], None if ids is None else ids[:, ::-1]
        return self._padded(pixels, ids)

    def _padded(self, pixels: np.ndarray, ids: np.ndarray | None) -> TrainSample:
        height, width = pixels.shape[:2]
        image = np.empty((3, self.crop, self.crop), np.uint8)
        image[:] = np.array(PADDING, np.uint8)[:, None, None]
        image[:, :height, :width] = pixels.transpose(2, 0, 1)
        label = np.full((self.crop, self.crop), IGNORE, np.uint8)
        if ids is not None:
            label[:height, :width] = ids
        valid = np.zeros((self.crop, self.crop), np.bool_)
        valid[:height, :width] = True
        return TrainSample(torch.from_numpy(image), torch.from_numpy(label), torch.from_numpy(valid))
