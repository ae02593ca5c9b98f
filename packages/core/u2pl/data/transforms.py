"""Random scale, crop and flip for training, the same for image, label and validity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from u2pl.data.large_photos import Cuttable
from u2pl.errors import UserError
from u2pl.maps import shrink_factor
from u2pl.notation import IGNORE, padding


class TrainSample(NamedTuple):
    """One crop."""

    image: Tensor  # uint8 [3, crop, crop], or as many channels as the image has
    label: Tensor  # uint8 [crop, crop]; 255 everywhere if there is no mask
    valid: Tensor  # bool [crop, crop]; False on padding
    border: Tensor  # bool [crop]; True on the image's void rows
    boxes: Tensor = torch.zeros(0, 5, dtype=torch.int64)  # [N, 5], see `data.boxes`


class Geometry(NamedTuple):
    """Where a crop is cut from an image."""

    full: tuple[int, int]  # width and height of the whole image, scaled
    corner: tuple[int, int]  # left and top of the part, in pixels of the scaled image
    size: tuple[int, int]  # width and height of the part; smaller than the crop if padded
    box: tuple[float, float, float, float]  # the part, in pixels of the stored image
    mirror: bool  # left-right flip


class TrainTransform:
    """Scale by a random factor, cut a random square, flip at random.

    Args:
        crop: side of the square in pixels; a smaller image is padded at the right and the bottom.
        scale: smallest and largest factor; drawn uniformly.
        flip: whether to flip left-right with probability 0.5.
        long_side: images whose longer side exceeds this, in pixels, are shrunk to it first; 0: off.
        void_rows: shares of the image's height at the top and the bottom that become a sample's
            `border`.

    Raises UserError if crop is not positive or scale is not a range of positive factors.
    """

    def __init__(
        self,
        crop: int,
        scale: tuple[float, float],
        flip: bool,
        long_side: int = 0,
        void_rows: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if crop < 1:
            raise UserError(f"crop {crop} must be at least 1 pixel")
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale {scale} must be two positive factors, the smaller one first")
        self.crop, self.scale, self.flip = crop, scale, flip
        self.long_side, self.void_rows = long_side, void_rows

    def __call__(
        self, image: Cuttable, mask: np.ndarray | None, rng: np.random.Generator
    ) -> TrainSample:
        """Cut a sample from an image and its mask, uint8 [H, W]; always draws four numbers."""
        return self.cut(image, mask, self.draw(image.size, rng))

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        """Draw the crop of an image of `size`, width and height; always draws four numbers."""
        zoom, left, top, mirror = rng.random(4)
        factor = (self.scale[0] + zoom * (self.scale[1] - self.scale[0])) * shrink_factor(
            size, self.long_side
        )
        width, height = (max(1, round(side * factor)) for side in size)
        part = (min(self.crop, width), min(self.crop, height))
        x, y = int(left * (width - part[0] + 1)), int(top * (height - part[1] + 1))
        across, down = size[0] / width, size[1] / height
        # Resizing only this box gives the same pixels as cutting it from the resized image.
        box = (
            x * across,
            y * down,
            min((x + part[0]) * across, size[0]),
            min((y + part[1]) * down, size[1]),
        )
        return Geometry((width, height), (x, y), part, box, bool(self.flip and mirror < 0.5))

    def cut_mask(self, mask: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Cut a mask, uint8 [H, W]: uint8 [crop, crop], 255 on padding."""
        label = np.full((self.crop, self.crop), IGNORE, np.uint8)
        ids = np.asarray(
            Image.fromarray(mask).resize(geometry.size, Image.Resampling.NEAREST, box=geometry.box)
        )
        label[: geometry.size[1], : geometry.size[0]] = ids[:, ::-1] if geometry.mirror else ids
        return label

    def cut(self, image: Cuttable, mask: np.ndarray | None, geometry: Geometry) -> TrainSample:
        """Cut an image and its mask, uint8 [H, W], as drawn for the image's size."""
        width, height = geometry.size
        pixels = np.asarray(
            image.resize(geometry.size, Image.Resampling.BILINEAR, box=geometry.box)
        )
        channels = pixels.shape[2]
        padded = np.empty((channels, self.crop, self.crop), np.uint8)
        padded[:] = np.array(padding(channels), np.uint8)[:, None, None]
        padded[:, :height, :width] = (pixels[:, ::-1] if geometry.mirror else pixels).transpose(
            2, 0, 1
        )
        label = (
            np.full((self.crop, self.crop), IGNORE, np.uint8)
            if mask is None
            else self.cut_mask(mask, geometry)
        )
        valid = np.zeros((self.crop, self.crop), np.bool_)
        valid[:height, :width] = True
        return TrainSample(
            *(torch.from_numpy(array) for array in (padded, label, valid, self._border(geometry)))
        )

    def _border(self, geometry: Geometry) -> np.ndarray:
        """bool [crop]: rows whose centre is void; padding is not."""
        border = np.zeros(self.crop, np.bool_)
        height = geometry.size[1]
        centres = (geometry.corner[1] + np.arange(height) + 0.5) / geometry.full[1]
        border[:height] = (centres < self.void_rows[0]) | (centres > 1 - self.void_rows[1])
        return border
