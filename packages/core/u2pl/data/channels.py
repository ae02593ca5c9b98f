"""Images of other than three channels: what PIL can do with photos, and how they are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from u2pl.notation import COLOURS

if TYPE_CHECKING:
    from u2pl.data.geo.scaling import Scaling


class Stack:
    """Channels of 8 bits on top of each other, with those methods of a PIL image that are used.

    Args:
        pixels_HWC: uint8, of any number of channels.
    """

    def __init__(self, pixels_HWC: np.ndarray) -> None:
        self._channels = [Image.fromarray(channel) for channel in np.moveaxis(pixels_HWC, 2, 0)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._channels[0].size

    def resize(self, *args: Any, **options: Any) -> Stack:
        """Each channel resized, as by PIL."""
        return self._each("resize", *args, **options)

    def reduce(self, factor: int) -> Stack:
        """Means of factor x factor pixels, as by PIL."""
        return self._each("reduce", factor)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """uint8 [H, W, channels]."""
        stacked = np.stack([np.asarray(channel) for channel in self._channels], axis=2)
        return np.asarray(stacked, dtype)

    def _each(self, method: str, *args: Any, **options: Any) -> Stack:
        made = object.__new__(Stack)
        made._channels = [getattr(each, method)(*args, **options) for each in self._channels]
        return made


def as_image(pixels_HWC: np.ndarray) -> Image.Image | Stack:
    """uint8 [H, W, channels] as an image: PIL's if there are three."""
    return Image.fromarray(pixels_HWC) if pixels_HWC.shape[2] == COLOURS else Stack(pixels_HWC)


def as_photo(pixels_HWC: np.ndarray) -> np.ndarray:
    """What a person is shown: uint8 [H, W, 3], the first three channels, or the first one as grey.

    Args:
        pixels_HWC: uint8, of any number of channels.
    """
    if pixels_HWC.shape[2] >= COLOURS:
        return pixels_HWC[..., :COLOURS]
    return np.repeat(pixels_HWC[..., :1], COLOURS, axis=2)


def channels_of(scaling: Scaling | None) -> int:
    """How many channels the images of some data have, and with them a network's input.

    Args:
        scaling: of the bands of rasters; None: they are photos.
    """
    return COLOURS if scaling is None else len(scaling.bands)
