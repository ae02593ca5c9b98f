"""ADE20K as in the SceneParse150 challenge: photos of scenes, 150 classes without a background."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from u2pl.data.classes import clear_palette
from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.reading import read_ids
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.notation import IGNORE

#: The first of the names that objectInfo150.txt gives each class.
NAMES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass"),
    *("cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain"),
    *("chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug"),
    *("field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub"),
    *("railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter"),
    *("sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs"),
    *("runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench"),
    *("countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar"),
    *("arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier"),
    *("awning", "streetlight", "booth", "television", "airplane", "dirt track", "apparel", "pole"),
    *("land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van"),
    *("ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool"),
    *("stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven"),
    *("ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle"),
    *("lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase"),
    *("traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor"),
    *("bulletin board", "shower", "radiator", "glass", "clock", "flag"),
)
#: The classes that its instance challenge does not count: the other 100 are things.
STUFF = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "grass", "sidewalk", "earth"),
    *("mountain", "plant", "water", "house", "sea", "rug", "field", "rock", "base", "sand"),
    *("skyscraper", "grandstand", "path", "runway", "stairway", "river", "bridge", "blind", "hill"),
    *("bar", "hovel", "tower", "dirt track", "land", "escalator", "buffet", "poster", "stage"),
    *("conveyer belt", "canopy", "swimming pool", "waterfall", "tent", "cradle", "tank", "lake"),
    *("blanket", "pier", "crt screen", "shower"),
)
# id in an annotation -> class; its 0 is what nobody labelled
_AS_PUBLISHED = np.full(IGNORE + 1, IGNORE, np.uint8)
_AS_PUBLISHED[1 : len(NAMES) + 1] = np.arange(len(NAMES))


class Ade20k(FileSource):
    """images/{training,validation}/ADE_*.jpg and annotations/{training,validation}/ADE_*.png.

    In an annotation 0 is no class: it becomes 255, and ids 1 to 150 become classes 0 to 149. With
    `first=0` the annotations have been shifted so already, as those of UniMatch V2, and are taken
    as they are.

    Raises UserError if images are not where ADE20K has them, or `first` is neither 0 nor 1.
    """

    def __init__(self, path: str | Path, first: str = "1") -> None:
        if first not in ("0", "1"):
            raise UserError(
                f"ade20k first={first!r} is unknown: write ?first=1 for annotations as published, "
                "or ?first=0 for those whose 0 is the class wall"
            )
        root = _root(expanded(path))
        self.name, self.protocol = "ade20k", f"{len(NAMES)} classes"
        self.classes, self.palette = NAMES, clear_palette(NAMES)
        self.things = tuple(name for name in NAMES if name not in STUFF)
        self.shifted = first == "0"
        self.images, self.masks, self.lists = {}, {}, {}
        for split, folder in (("train", "training"), ("val", "validation")):
            images = files_by_id(root / "images" / folder, (".jpg", ".jpeg"))
            if not images:
                raise UserError(
                    f"{root / 'images' / folder} holds no *.jpg: unpack ADEChallengeData2016.zip, "
                    "and give the folder that has images/ and annotations/ in it"
                )
            masks = files_by_id(root / "annotations" / folder, (".png",))
            self.images |= images
            self.masks |= {id: file for id, file in masks.items() if id in images}
            self.lists[split] = IdList(str(root / "images" / folder), list(images))

    def decode_mask(self, file: Path) -> np.ndarray:
        """Classes 0 to 149, uint8 [H, W], 255 = not labelled."""
        ids = read_ids(file)
        last = len(NAMES) - 1 if self.shifted else len(NAMES)
        foreign = set(np.unique(ids[ids > last]).tolist()) - ({IGNORE} if self.shifted else set())
        if foreign:
            raise UserError(
                f"{file} holds the id {max(foreign)}, and ids end at {last}: "
                f"{self._advice(foreign)}"
            )
        return ids if self.shifted else _AS_PUBLISHED[ids]

    def label_facts(self) -> tuple[object, ...]:
        return ("first=0",) if self.shifted else ()

    def _advice(self, foreign: set[int]) -> str:
        if self.shifted and foreign == {len(NAMES)}:
            return "these are annotations as published, so leave ?first=0 out"
        if not self.shifted and foreign == {IGNORE}:
            return "these annotations have been shifted by one, so write ade20k:PATH?first=0"
        return "replace the file"


def _root(path: Path) -> Path:
    below = path / "ADEChallengeData2016"
    return below if (below / "images").is_dir() else path
