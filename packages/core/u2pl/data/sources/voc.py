"""PASCAL VOC 2012, with SBD's additional masks if they are on disk."""

from __future__ import annotations

from pathlib import Path

from u2pl.data.classes import bit_palette
from u2pl.data.file_source import FileSource, IdList, files_by_id
from u2pl.data.ids import read_lines
from u2pl.data.walking import files_in
from u2pl.errors import UserError
from u2pl.files import expanded

NAMES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


class Voc(FileSource):
    """A devkit: JPEGImages, SegmentationClass, ImageSets/Segmentation, maybe SegmentationClassAug.

    Training uses `train_aug` (all ids with a mask in SegmentationClassAug that are not in val), or
    `train` without that folder. Labelled images are drawn from VOC's own 1 464 `train` images in
    protocol `classic`, from `train_aug` in `blender`. Tags come from the devkit's Annotations.

    Raises UserError if the devkit is incomplete or the protocol unknown.
    """

    def __init__(self, path: str | Path, protocol: str = "classic") -> None:
        root = _devkit(expanded(path))
        self.name = "voc"
        self.classes = NAMES
        self.things = NAMES[1:]
        self.palette = bit_palette(len(self.classes))
        self.protocol = protocol
        self.images = files_by_id(root / "JPEGImages", (".jpg", ".jpeg"))
        augmented = files_by_id(root / "SegmentationClassAug", (".png",))
        self.tags = root / "Annotations" if (root / "Annotations").is_dir() else None
        self.masks = {**files_by_id(root / "SegmentationClass", (".png",)), **augmented}
        lists = root / "ImageSets" / "Segmentation"
        self.lists = {
            file.stem: IdList(str(file), read_lines(file)) for file in files_in(lists, ".txt")
        }
        for name in ("train", "val"):
            if name not in self.lists:
                raise UserError(
                    f"{lists / name}.txt does not exist: it comes with VOC 2012's development kit"
                )
        if augmented:
            val = set(self.lists["val"].lines)
            self.lists["train_aug"] = IdList(
                str(root / "SegmentationClassAug"), [id for id in augmented if id not in val]
            )
            self.train_split = "train_aug"
        self.label_pool = self._pool(protocol, root)

    def _pool(self, protocol: str, root: Path) -> str:
        pools = {"classic": "train", "blender": "train_aug"}
        if protocol not in pools:
            raise UserError(
                f"voc protocol {protocol!r} is unknown: write ?protocol=classic or "
                "?protocol=blender"
            )
        if pools[protocol] not in self.lists:
            raise UserError(
                f"protocol blender needs {root / 'SegmentationClassAug'}: put SBD's masks there as "
                "id PNGs, or use protocol=classic"
            )
        return pools[protocol]


def _devkit(path: Path) -> Path:
    for root in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if (root / "JPEGImages").is_dir():
            return root
    raise UserError(
        f"{path} holds no VOC devkit: give the folder that has JPEGImages/, SegmentationClass/ and "
        "ImageSets/ in it"
    )
