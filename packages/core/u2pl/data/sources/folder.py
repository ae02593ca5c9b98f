"""A folder of photos: images/, masks/, splits/*.txt, classes.txt, meta.toml."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from u2pl.data.classes import ClassFile, read_class_file, read_labelmap, read_pixel_values
from u2pl.data.encoding_choice import choose_encoding
from u2pl.data.file_source import IdList, index_files
from u2pl.data.ids import IMAGE_SUFFIXES, first_three, read_lines, split_of
from u2pl.data.mask_colours import propose_classes
from u2pl.data.mask_files import OTHER_NAMES, find_masks, split_beside
from u2pl.data.meta import BINARY, COLOURS, read_meta
from u2pl.data.orientation import UPRIGHT
from u2pl.data.own_photos import CLASSES, META, OwnPhotos
from u2pl.data.walking import files_below, files_in, is_clutter
from u2pl.errors import UserError
from u2pl.files import expanded

IMAGES, LABELMAP = "images", "labelmap.txt"
#: What Roboflow writes beside the photos and masks of each split.
PIXEL_VALUES = "_classes.csv"

# Beside images, these are no photos that somebody may miss.
_BESIDE = (".txt", ".csv", ".json", ".xml", ".md", ".yaml", ".yml", ".ini", ".log", ".xmp", ".aae")


class Folder(OwnPhotos):
    """`images/` (may have sub-folders), `masks/` (of the same names) and `classes.txt`.

    Masks of other names are found by one habit that all of them share (`find_masks`), and hold ids,
    colours, or 0 and 255 (`Encoding`). The labelmap.txt of CVAT stands in for a missing
    classes.txt, and beside it JPEGImages/ for images/. Or train/, valid/ and test/ with photos and
    masks, and Roboflow's _classes.csv in each.

    Optional:
    - `splits/NAME.txt`: ids. Without val.txt a fifth of the masked images, chosen among those in no
      list, is held out as val; without train.txt all images in no val or test list are train.
    - `tags.csv` or `tags.json`: the classes that each image shows.
    - `meta.toml`: how masks are read, thing classes and void rows. What changes labels or images
      counts in the fingerprint, the rest does not.

    Args:
        path: the folder.
        images: another folder of the images than images/.

    Raises UserError if images/ or classes.txt is missing or invalid, or meta.toml is invalid.
    """

    def __init__(self, path: str | Path, images: str | None = None) -> None:
        root = expanded(path)
        self.root = root
        self.name = root.resolve().name
        folder = _images_folder(root) if images is None else expanded(images)
        if _known(root) and not any((root / name).exists() for name in (CLASSES, LABELMAP)):
            raise UserError(f"{root} has no {CLASSES}{_known(root)}")
        below = files_below(folder)
        photos = index_files(folder, below, IMAGE_SUFFIXES)
        if not photos:
            raise UserError(
                f"{folder} holds no images: put {', '.join(IMAGE_SUFFIXES)} files there"
                f"{_left_out(folder, below, ': ')}"
            )
        listed = _class_file(root, photos)
        meta = read_meta(root / META, listed.names, listed.path.name)
        self.classes, moved = meta.remaining(listed.names)
        self.palette = listed.palette[[moved.index(id) for id in range(len(self.classes))]]
        self.take_facts(meta)
        masks = find_masks(root, photos, lossy=meta.masks in (COLOURS, BINARY))
        if not masks.masks and not masks.strays:
            photos, masks = split_beside(photos, folder.name)
        self.images, self.masks, self.strays = photos, masks.masks, masks.strays
        changed = moved if moved != tuple(range(len(moved))) else ()
        self.encoding, said = choose_encoding(meta, listed, changed, list(self.masks.values()))
        self.notes += tuple(
            note
            for note in (_left_out(folder, below), listed.note, masks.note, masks.strays, said)
            if note
        )
        lists: dict[str, IdList] = {}
        if listed.path.name == LABELMAP:
            lists = _subsets(root)
        elif listed.path.name == PIXEL_VALUES:
            lists = _folders(root, list(photos))
        self.take_lists(str(folder), lists)

    def decode_mask(self, file: Path) -> np.ndarray:
        """Class ids, uint8 [H, W], of a mask in the folder's encoding."""
        return self.encoding.decode(file)

    def label_facts(self) -> tuple[object, ...]:
        return (*(() if self.exif == UPRIGHT else (self.exif,)), *self.encoding.facts())

    @property
    def white_advice(self) -> str:
        """What to do about masks of 0 and 255 alone."""
        if self.encoding.classes == 2:
            return (
                f'if 255 is {self.classes[1]} add the line masks = "binary" to '
                f"{self.root / META}; else write the class's id instead of 255"
            )
        return super().white_advice

    def proposal(self, ids: Sequence[str]) -> str:
        """A classes.txt that would make sense of masks painted in colours; empty if they are not.

        Looks at a few of the masks of `ids`.
        """
        if self.encoding.colours:
            return ""
        return propose_classes(
            [self.masks[id] for id in ids if id in self.masks], self.root / CLASSES, self.classes
        )


#: Data sets by what their folders have.
_LAYOUTS = {
    "a VOC devkit": ("voc", ("JPEGImages", "VOC2012", "VOCdevkit/VOC2012")),
    "Cityscapes": ("cityscapes", ("leftImg8bit",)),
    "ADE20K": ("ade20k", ("images/training", "ADEChallengeData2016")),
    "COCO": ("coco", ("train2017", "images/train2017")),
}


def _images_folder(root: Path) -> Path:
    """images/, or what CVAT and Roboflow export instead; UserError if there is nothing."""
    if (root / IMAGES).is_dir():
        return root / IMAGES
    if (root / LABELMAP).is_file() and (root / "JPEGImages").is_dir():
        return root / "JPEGImages"
    if _pixel_values(root):
        return root
    if brush := next(root.glob("task-*-annotation-*-by-*-tag-*.png"), None):
        raise UserError(
            f"{brush} is a brush label of Label Studio, whose name does not say of which photo it "
            "is: export the project as 'Brush labels to COCO'"
        )
    if (root / LABELMAP).is_file():
        raise UserError(
            f"{root} holds masks of CVAT without their photos: write 'cvat:{root}?images=FOLDER' "
            "to say where they are, or export with images"
        )
    raise UserError(
        f"{root} has no images/ folder: put photos into images/, masks into masks/ and write "
        f"classes.txt{_hint(root)}{_elsewhere(root)}"
    )


def _class_file(root: Path, images: dict[str, Path]) -> ClassFile:
    """classes.txt, or what CVAT and Roboflow write; UserError without any, with a proposal."""
    if (root / LABELMAP).is_file() and not os.path.lexists(root / CLASSES):
        listed = read_labelmap(root / LABELMAP)
        return listed._replace(note=f"classes are read from {LABELMAP}")
    if not os.path.lexists(root / CLASSES) and (files := _pixel_values(root)):
        found = [read_pixel_values(file) for file in files]
        other = next((each for each in found if each.names != found[0].names), None)
        if other is not None:
            raise UserError(
                f"{other.path} names other classes than {found[0].path}: export both anew, or "
                f"write one {CLASSES}"
            )
        return found[0]._replace(note=f"classes are read from {PIXEL_VALUES}")
    try:
        return read_class_file(root / CLASSES)
    except UserError as error:
        if not (root / CLASSES).exists():
            masks = find_masks(root, images, lossy=True).masks
            error.proposal = propose_classes(list(masks.values()), root / CLASSES)
        raise


def _subsets(root: Path) -> dict[str, IdList]:
    """Lists to score on in what CVAT exports of a project; all other images train."""
    files = files_in(root / "ImageSets" / "Segmentation", ".txt")
    splits = {split_of(file.stem): file for file in files}
    return {
        name: IdList(str(splits[name]), read_lines(splits[name]))
        for name in ("val", "test")
        if name in splits
    }


def _pixel_values(root: Path) -> list[Path]:
    """Roboflow's lists of classes."""
    return sorted(file for file in root.glob(f"*/{PIXEL_VALUES}") if file.is_file())


def _folders(root: Path, ids: Sequence[str]) -> dict[str, IdList]:
    """Lists to score on by the folders of Roboflow's splits; all other images train."""
    lists: dict[str, IdList] = {}
    for file in _pixel_values(root):
        own = [id for id in ids if id.startswith(f"{file.parent.name}/")]
        if own and (split := split_of(file.parent.name)) in ("val", "test"):
            lists[split] = IdList(str(file.parent), own)
    return lists


def _left_out(folder: Path, below: Sequence[str], begin: str = "") -> str:
    """The files among the images that are of no known kind, in words; empty if there are none."""
    others = [
        file
        for file in below
        if (suffix := os.path.splitext(file)[1].lower()) not in IMAGE_SUFFIXES
        and suffix not in _BESIDE
    ]
    if not others:
        return ""
    kinds = Counter(os.path.splitext(file)[1].lower() or "no ending" for file in others)
    listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(4))
    more = ", …" if len(kinds) > 4 else ""
    return (
        f"{begin}{folder.name}/ holds files that are not read: {listed}{more}, such as "
        f"{others[0]}; to use photos among them, save them as JPEG or PNG"
    )


def _elsewhere(root: Path) -> str:
    """Where photos lie in a folder that has no images/, and how to move them; empty if nowhere.

    Looks into the folder and those in it, no deeper: it may be a whole disk.
    """
    if not root.is_dir() or _known(root):
        return ""
    images = shlex.quote(str(root / IMAGES))
    if here := _images_in(root):
        return f"; {here} images lie in {root} itself: make {images} and move the photos there"
    folders = [
        (name, count)
        for name in _names_in(root)
        if name.lower() not in OTHER_NAMES and (count := _images_in(root / name))
    ]
    if len(folders) != 1:
        return ""
    name, count = folders[0]
    return (
        f"; {count} images lie in {root / name}: if they are the photos, "
        f"mv {shlex.quote(str(root / name))} {images}"
    )


def _images_in(folder: Path) -> int:
    return sum(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in _names_in(folder))


def _names_in(folder: Path) -> list[str]:
    """What is in a folder; nothing if it is none, or cannot be read."""
    try:
        return [name for name in os.listdir(folder) if not is_clutter(name)]
    except OSError:
        return []


def _hint(root: Path) -> str:
    if not root.exists():
        return " (the folder itself does not exist)"
    return _known(root) or _inside(root)


def _inside(root: Path) -> str:
    """What lies in a folder and may be meant instead, in words; empty if nothing does."""
    found = sorted(file.name for file in root.glob("*.zip") if not is_clutter(file.name))
    if not found:
        return ""
    return f" (it holds {first_three(found)}: give that, unpacked if it is in an archive)"


def _known(root: Path) -> str:
    """The source that a folder belongs to, in words; empty if it looks like none of them."""
    for title, (scheme, folders) in _LAYOUTS.items():
        if any((root / folder).is_dir() for folder in folders):
            return f" (it looks like {title}: write {scheme}:{root})"
    return ""
