"""What folders of people's own photos have in common, however their masks are drawn."""

from __future__ import annotations

import os
from pathlib import Path

from u2pl.data.file_source import FileSource, IdList
from u2pl.data.ids import hold_out, match_id, read_lines
from u2pl.data.meta import Meta
from u2pl.data.orientation import STORED
from u2pl.data.walking import files_in
from u2pl.errors import UserError

CLASSES, META = "classes.txt", "meta.toml"


class OwnPhotos(FileSource):
    """A folder of photos that may hold tags, lists in splits/, and facts in meta.toml."""

    root: Path

    def take_facts(self, meta: Meta) -> None:
        """Take over what meta.toml says besides the classes, and find the tags."""
        self.things, self.void_rows, self.exif = meta.things, meta.void_rows, meta.exif
        self.exif_switch = f'exif = "{STORED}" in {META} reads such photos as they are stored'
        if self.exif == STORED:
            self.exif_switch = f"without exif in {META} such photos are read upright"
        self.tags = next(
            (
                file
                for name in ("tags.csv", "tags.json")
                if os.path.lexists(file := self.root / name)  # a link that leads nowhere is said
            ),
            None,
        )

    def take_lists(self, where: str, others: dict[str, IdList] | None = None) -> None:
        """Read splits/*.txt, and make the lists that are missing.

        Without val a fifth of the masked images, chosen among those in no list, is held out as val;
        without train all images in no val or test list are train.

        Args:
            where: what stands for the lists that are made, in errors.
            others: lists that are written elsewhere; a file in splits/ replaces that of its name.
        """
        self.lists = {
            **(others or {}),
            **{
                file.stem: IdList(str(file), read_lines(file))
                for file in files_in(self.root / "splits", ".txt")
            },
        }
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
