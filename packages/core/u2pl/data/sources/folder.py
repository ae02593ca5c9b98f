"""A folder of photos: images/, masks/, splits/*.txt, classes.txt, meta.toml."""

from __future__ import annotations

from pathlib import Path

from u2pl.data.classes import read_classes
from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.ids import IMAGE_SUFFIXES, hold_out, match_id, read_lines
from u2pl.data.meta import read_meta
from u2pl.data.stray_masks import stray_words
from u2pl.errors import UserError


class Folder(FileSource):
    """`images/` (may have sub-folders), `masks/` (PNGs of the same names) and `classes.txt`.

    Optional:
    - `splits/NAME.txt`: ids. Without val.txt a fifth of the masked images, chosen among those in no
      list, is held out as val; without train.txt all images in no val or test list are train.
    - `tags.csv` or `tags.json`: the classes that each image shows.
    - `meta.toml`: thing classes and void rows. It changes no image or label, so it does not count
      in the fingerprint.

    Raises UserError if images/ or classes.txt is missing or invalid, or meta.toml is invalid.
    """

    def __init__(self, path: str | Path) -> None:
        root = Path(path).expanduser()
        self.name = root.resolve().name
        if not (root / "images").is_dir():
            raise UserError(
                f"{root} has no images/ folder: put photos into images/, masks into masks/ and "
                f"write classes.txt{_hint(root)}"
            )
        if _known(root) and not (root / "classes.txt").exists():
            raise UserError(f"{root} has no classes.txt{_known(root)}")
        self.images = files_by_id(root / "images", IMAGE_SUFFIXES)
        if not self.images:
            raise UserError(
                f"{root / 'images'} holds no images: put {', '.join(IMAGE_SUFFIXES)} files there"
            )
        self.classes, self.palette = read_classes(root / "classes.txt")
        self.things, self.void_rows = read_meta(root / "meta.toml", self.classes)
        self.tags = next(
            (file for file in (root / "tags.csv", root / "tags.json") if file.is_file()), None
        )
        masks = files_by_id(root / "masks", (".png",))
        self.masks = {id: file for id, file in masks.items() if id in self.images}
        self.strays = stray_words(root, self.images)
        if self.strays:
            self.notes += (self.strays,)
        self.lists = {
            file.stem: IdList(str(file), read_lines(file))
            for file in sorted((root / "splits").glob("*.txt"))
        }
        self._complete_lists(str(root / "images"))

    def _complete_lists(self, where: str) -> None:
        if "val" not in self.lists:
            listed = {
                match_id(line, self.images)
                for name in self.lists
                for line in self.lists[name].lines
            }
            held = hold_out(self.masks, [id for id in self.masks if id not in listed])
            if held:
                self.lists["val"] = IdList(where, held)
                self.held_out = tuple(held)
        if "train" not in self.lists:
            scored = [name for name in self.lists if name.startswith(("val", "test"))]
            outside = {
                match_id(line, self.images) for name in scored for line in self.lists[name].lines
            }
            self.lists["train"] = IdList(where, [id for id in self.images if id not in outside])

    def unknown_split(self, name: str) -> UserError:
        """The error for a split that does not exist, with how to make one."""
        return UserError(
            f"{super().unknown_split(name)}; write the ids, one per line, into splits/{name}.txt"
        )


#: Data sets by what their folders have.
_LAYOUTS = {
    "a VOC devkit": ("voc", ("JPEGImages", "VOC2012", "VOCdevkit/VOC2012")),
    "Cityscapes": ("cityscapes", ("leftImg8bit",)),
    "ADE20K": ("ade20k", ("images/training", "ADEChallengeData2016")),
    "COCO": ("coco", ("train2017", "images/train2017")),
}


def _hint(root: Path) -> str:
    return _known(root) if root.exists() else " (the folder itself does not exist)"


def _known(root: Path) -> str:
    """The source that a folder belongs to, in words; empty if it looks like none of them."""
    for title, (scheme, folders) in _LAYOUTS.items():
        if any((root / folder).is_dir() for folder in folders):
            return f" (it looks like {title}: write {scheme}:{root})"
    return ""
