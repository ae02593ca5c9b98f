"""Where images and masks come from: what every source answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from u2pl.data.ids import check_ids, read_lines
from u2pl.errors import UserError


class Source(ABC):
    """Images, some of them with masks, and named lists of their ids."""

    name: str  # printed with every number
    classes: tuple[str, ...]  # class id -> name
    palette: np.ndarray  # uint8 [C, 3], display colours
    train_split: str = "train"  # every image that training may see
    label_pool: str = "train"  # the images among which labelled ones are drawn
    protocol: str = (
        ""  # the benchmark protocol that the two above follow, printed in front of the split's name
    )
    held_out: tuple[
        str, ...
    ] = ()  # masked images that became val because no list says which are; `train` lacks them
    notes: tuple[str, ...] = ()  # what the source decided by itself; commands print these once
    id_ending: str = ""  # what file names have behind the id
    tags: Path | None = None  # where the images' tags are, for `read_tags`
    things: tuple[str, ...] = ()  # names of the classes whose objects can be counted
    void_rows: tuple[float, float] = (
        0.0,
        0.0,
    )  # shares of the height at top and bottom that show nothing of the scene
    subsets: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {}
    )  # name -> the classes over which a benchmark reports mIoU too

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Name the lists of ids there are."""

    @abstractmethod
    def split(self, name: str) -> list[str]:
        """Give a list's ids; UserError when the list is unknown or wrong."""

    @abstractmethod
    def image(self, id: str) -> Image.Image:
        """Decode an image to RGB; UserError when it is missing or broken."""

    @abstractmethod
    def has_mask(self, id: str) -> bool:
        """Whether there is a mask, without decoding it."""

    @abstractmethod
    def mask(self, id: str) -> np.ndarray:
        """Decode a mask: uint8 [H, W], class ids or 255; UserError when it is missing or does not fit."""

    @abstractmethod
    def fingerprint(self) -> str:
        """12 hex digits over classes, ids and file sizes: the same data, the same digits; decodes nothing."""

    def ids(self) -> Collection[str]:
        """Every id there is."""
        return {id for name in self.splits() for id in self.split(name)}

    def read_list(self, path: Path) -> list[str]:
        """Read the ids in a user's file; UserError when it is empty or names images that are not there."""
        return check_ids(read_lines(path), self.ids(), str(path), self.id_ending)

    def unknown_split(self, name: str) -> UserError:
        """The error for a list that does not exist."""
        return UserError(
            f"{self.name} has no split {name!r}: it has {', '.join(self.splits()) or 'none'}"
        )

    def scoring_notes(self) -> tuple[str, ...]:
        """What a person should know before networks are scored on this source."""
        if not self.held_out:
            return self.notes
        return (
            *self.notes,
            f"{self.name} has no val list: {len(self.held_out)} masked images are held out to score on",
        )
