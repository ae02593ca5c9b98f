"""Where images and masks come from: the interface of all data sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from u2pl.data.channels import Stack, channels_of
from u2pl.data.geo.scaling import Scaling
from u2pl.data.ids import check_ids, read_lines
from u2pl.data.large_photos import Cuttable
from u2pl.data.orientation import STORED, Size
from u2pl.errors import UserError


class Source(ABC):
    """Images, some of them with masks, and splits: named lists of their ids."""

    #: Printed with every score.
    name: str
    #: Class names by id.
    classes: tuple[str, ...]
    #: Display colours, uint8 [C, 3].
    palette: np.ndarray
    #: The split of all images that training may use.
    train_split: str = "train"
    #: The split that labelled images are drawn from.
    label_pool: str = "train"
    #: The benchmark protocol that these two follow, printed before the split's name.
    protocol: str = ""
    #: Images with masks that became `val`, and are not in `train`, because no list names any.
    held_out: tuple[str, ...] = ()
    #: Decisions that the source took by itself; commands print them once.
    notes: tuple[str, ...] = ()
    #: Files that look like masks and belong to no image, in words; empty if there are none.
    strays: str = ""
    #: How a person names the images to score on, in words.
    naming_val: str = "write splits/val.txt"
    #: What follows the id in file names, before the suffix.
    id_ending: str = ""
    #: File or folder of the images' tags, for `read_tags`.
    tags: Path | None = None
    #: Names of the thing classes, those of countable objects.
    things: tuple[str, ...] = ()
    #: Shares of the height at the top and the bottom that show nothing of the scene.
    void_rows: tuple[float, float] = (0.0, 0.0)
    #: How photos that EXIF turns are read where a mask's size does not tell how it was drawn. The
    #: masks of published data are those of the stored pixels, people's own of what viewers show.
    exif: str = STORED
    #: How to have them read the other way, in words; empty if that cannot be said.
    exif_switch: str = ""
    #: Whether masks are painted from shapes that a person drew, so that each id was meant.
    from_shapes: bool = False
    #: How bands became the channels of images, and will for networks; None: they are photos.
    scaling: Scaling | None = None
    #: Name -> classes, for each subset of the classes that benchmarks report an mIoU of as well.
    subsets: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    @abstractmethod
    def split(self, name: str) -> list[str]:
        """The ids of a split; UserError if it is unknown or invalid."""

    @abstractmethod
    def image(self, id: str) -> Image.Image | Stack:
        """Decode an image, a photo to RGB; UserError if it is missing or broken."""

    def image_to_cut(self, id: str) -> Cuttable:
        """As `image`, for one crop: of a large one only the part that the crop needs is read."""
        return self.image(id)

    def mask_to_cut(self, id: str) -> np.ndarray:
        """As `mask`, for one crop; not to be written to."""
        return self.mask(id)

    @abstractmethod
    def has_mask(self, id: str) -> bool:
        """Whether there is a mask, without decoding it."""

    @abstractmethod
    def mask(self, id: str) -> np.ndarray:
        """Decode a mask: uint8 [H, W], class ids or 255; UserError if it is missing or invalid."""

    @abstractmethod
    def fingerprint(self) -> str:
        """12 hex digits over classes, ids and file sizes, to identify the data; decodes nothing."""

    def mask_size(self, id: str) -> Size | None:
        """Width and height of a mask, without decoding it; None if there is none, or it is broken.

        They tell which way up a photo is read that EXIF turns (`Facing.drawn_upright`).
        """
        return None

    @property
    def channels(self) -> int:
        """How many channels every image has."""
        return channels_of(self.scaling)

    def show_as(self, scaling: Scaling) -> None:  # noqa: B027, photos need none
        """Show images as a network was shown those that it was trained on.

        Raises UserError if that cannot be.
        """

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None] | None:
        """An image and its mask as they are stored; None if the source draws them."""
        return None

    def ids(self) -> Collection[str]:
        """The ids of all images."""
        return {id for name in self.splits() for id in self.split(name)}

    def read_list(self, path: Path) -> list[str]:
        """Read the ids in a user's file; UserError if it is empty or names unknown images."""
        return check_ids(read_lines(path), self.ids(), str(path), self.id_ending)

    @property
    def white_advice(self) -> str:
        """What to do about masks that hold nothing but 0 and 255."""
        return "write the class's id instead of 255"

    def proposal(self, ids: Sequence[str]) -> str:
        """A file that would mend the masks of these ids, as lines to paste; empty if none would."""
        return ""

    def where_masks_lack(self, advice: str) -> str:
        """What to do about a missing mask: look at those that belong to no image, if there are any.

        Args:
            advice: what to do if there are none.
        """
        return self.strays or advice

    def unknown_split(self, name: str) -> UserError:
        """The error for a split that does not exist."""
        return UserError(
            f"{self.name} has no split {name!r}: it has {', '.join(self.splits()) or 'none'}"
        )

    def scoring_notes(self) -> tuple[str, ...]:
        """What a user should know before networks are scored on this source."""
        if not self.held_out:
            return self.notes
        count = len(self.held_out)
        images = f"{count} masked images are" if count != 1 else "one masked image is"
        return (*self.notes, f"{self.name} has no val list: {images} held out to score on")
