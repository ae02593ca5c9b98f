"""Which way up a photo is, by its EXIF header, and which way its mask was drawn."""

from __future__ import annotations

from typing import NamedTuple

from PIL import ExifTags, Image

#: How photos are read whose mask does not tell, by its size, which way it was drawn.
UPRIGHT, STORED = "upright", "stored"

Size = tuple[int, int]

# The tag's value -> what turns the stored pixels upright; 1, and no tag, mean that they are.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


class Facing(NamedTuple):
    """How a photo lies in its file."""

    tag: int  # EXIF orientation, 1 to 8; 1 = upright as stored
    size: Size  # width and height as stored
    by_itself: bool = False  # Pillow turns it upright while it loads it, as it does with TIFF

    @property
    def upright(self) -> Size:
        """Width and height as a viewer shows it."""
        return self.size[::-1] if self.tag > 4 else self.size

    def drawn_upright(self, mask: Size | None, undecided: str) -> bool:
        """Whether a mask was drawn on the upright photo.

        Its size tells if the photo's two sizes differ, and no other mask fits. `undecided` says it
        where the size does not tell: for photos turned by 180 degrees or mirrored, square ones, and
        those without a mask.

        Args:
            mask: width and height; None without a mask.
            undecided: `UPRIGHT` or `STORED`.
        """
        if self.size != self.upright and mask in (self.size, self.upright):
            return mask == self.upright
        return undecided == UPRIGHT


def facing(image: Image.Image) -> Facing:
    """Read an opened image's tag from its header; one that is damaged counts as 1."""
    if image.format == "TIFF":
        tag = _tag(getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation))
        return Facing(tag, image.size[::-1] if tag > 4 else image.size, True)
    try:
        # not image.getexif(), which decodes a PNG to look behind its pixels too
        tag = _tag(Image.Image.getexif(image).get(ExifTags.Base.Orientation))
    except Exception:  # whatever Pillow raises for a damaged header, which viewers ignore too
        tag = 1
    return Facing(tag, image.size)


def turned(image: Image.Image, faced: Facing, upright: bool) -> Image.Image:
    """A loaded image, upright or as it was stored."""
    if faced.tag == 1 or upright == faced.by_itself:
        return image
    return image.transpose((_TURNS if upright else _BACK)[faced.tag])


def _tag(value: object) -> int:
    return value if isinstance(value, int) and value in _TURNS else 1
