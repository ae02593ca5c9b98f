"""Small pictures inside of a page, as data URIs.

H W as in u2pl.notation; h, w: of the picture.
"""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from u2pl.data.channels import as_photo
from u2pl.report.overlays import colour_mask

#: Long side of a picture in pixels, at most.
SIDE = 256
#: Colours of a share from 0 to 1, evenly spaced: dark to bright, in grey too.
_HEAT = np.array(
    [(18, 12, 54), (84, 22, 108), (160, 44, 96), (222, 84, 62), (250, 158, 50), (252, 238, 160)],
    dtype=np.float64,
)
#: Colour of pixels that are not marked.
_UNMARKED = (216, 27, 96)


def photo(image_HWC: np.ndarray) -> str:
    """An image as a JPEG.

    Args:
        image_HWC: uint8, of any number of channels.
    """
    return _jpeg(_fitted(Image.fromarray(as_photo(image_HWC)), Image.Resampling.LANCZOS))


def mask(ids_HW: np.ndarray, palette: np.ndarray) -> str:
    """Class ids in their colours, 255 in grey, as a PNG.

    Args:
        ids_HW: uint8 class ids, 255 = none.
        palette: uint8 [C, 3].
    """
    small = _fitted(Image.fromarray(ids_HW), Image.Resampling.NEAREST)
    return _png(colour_mask(np.asarray(small), palette))


def heat(share_HW: np.ndarray) -> str:
    """Values from 0 (dark) to 1 (bright), as a JPEG.

    Args:
        share_HW: float; values outside are cut.
    """
    small = np.asarray(
        _fitted(Image.fromarray(share_HW.astype(np.float32)), Image.Resampling.BILINEAR)
    )
    place = np.clip(np.nan_to_num(small), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    colour = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    return _jpeg(Image.fromarray(colour.round().astype(np.uint8)))


def marked(image_HW3: np.ndarray, marks_HW: np.ndarray) -> str:
    """The image where pixels are marked; the others in one colour, through which it shines.

    Args:
        image_HW3: uint8.
        marks_HW: bool.
    """
    small = np.asarray(_fitted(Image.fromarray(image_HW3), Image.Resampling.LANCZOS))
    size = small.shape[1], small.shape[0]
    marks = np.asarray(Image.fromarray(marks_HW).resize(size, Image.Resampling.NEAREST))
    covered = (0.3 * small + 0.7 * np.array(_UNMARKED)).round().astype(np.uint8)
    return _jpeg(Image.fromarray(np.where(marks[..., None], small, covered)))


def _fitted(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """The image with sides of at most `SIDE` pixels."""
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, resampling)


def _jpeg(image: Image.Image) -> str:
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _png(picture_hw3: np.ndarray) -> str:
    encoded = BytesIO()
    Image.fromarray(picture_hw3).quantize(256).save(encoded, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
