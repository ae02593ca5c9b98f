from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from u2pl.data.sources.folder import Folder
from u2pl.data.transforms import TrainTransform
from u2pl.doctor.findings import (
    LOOKED_AT,
    Diagnosis,
    class_table,
    look_at,
    padded_share,
    say_sizes,
    varied,
    warn_of_twins,
)
from u2pl.run.task import Crops, Part
from u2pl.training.config import DataConfig


class Printed(Diagnosis):
    """A diagnosis whose text can be read."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        super().__init__(Console(file=self.file, width=100))

    @property
    def text(self) -> str:
        return self.file.getvalue()


def folder(root: Path, masks: dict[str, list[int] | None]) -> Folder:
    """Photos of 6x4 pixels and their masks, in stripes of the ids."""
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "classes.txt").write_text("background\ncat [old]\ndog\n")
    for number, (id, ids) in enumerate(masks.items()):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(root / "images" / f"{id}.png")
        if ids is not None:
            Image.fromarray(np.resize(np.array(ids, np.uint8), (4, 6))).save(
                root / "masks" / f"{id}.png"
            )
    return Folder(root)


def test_without_faults_the_command_is_printed_and_the_code_is_0() -> None:
    diagnosis = Printed()
    assert diagnosis.conclude("u2pl-semi train --data 'my photos'") == 0
    assert diagnosis.text == "\nready: u2pl-semi train --data 'my photos'\n"


def test_faults_are_listed_ten_of_a_kind_each_once_and_not_wrapped() -> None:
    diagnosis = Printed()
    diagnosis.fix(["x" * 150])
    diagnosis.fix(["x" * 150, *(f"mask {n}" for n in range(12))], "labelled images")
    assert diagnosis.conclude("never") == 2
    lines = diagnosis.text.splitlines()
    assert lines[1:4] == ["fix this first:", f"  - {'x' * 150}", "  - mask 0"]
    assert lines[-1] == "  - … and 3 more labelled images" and len(lines) == 2 + 1 + 9 + 1


def test_every_kind_of_problem_comes_in_front() -> None:
    wrong = [f"/photos/{n}.png holds ids {n}" for n in range(3)]
    assert varied([*wrong, "/photos/7.png is RGB"]) == [
        wrong[0],
        "/photos/7.png is RGB",
        *wrong[1:],
    ]


def part(source: Folder, role: str, ids: list[str], masked: bool = True, **more: Any) -> Part:
    return Part(role, "photos", source, "all", ids, masked, **more)


def test_broken_and_missing_masks_must_be_fixed(tmp_path: Path) -> None:
    diagnosis, source = Printed(), folder(tmp_path, {"a": [0], "b": [7], "c": None})
    found = look_at(part(source, "labelled", ["a", "b", "c"]), diagnosis)
    assert (found.looked_at, found.masked) == (3, 1)
    assert len(diagnosis.faults) == 2
    assert "b.png holds ids 7" in diagnosis.faults[0]
    assert diagnosis.faults[1].startswith("labelled images without mask: 'c' (1)")
    assert look_at(part(source, "unlabelled", ["c"], masked=False), diagnosis).looked_at == 1
    assert len(diagnosis.faults) == 2


def test_a_quiet_look_leaves_the_problems_to_the_caller(tmp_path: Path) -> None:
    diagnosis, source = Printed(), folder(tmp_path, {"a": [7], "b": None})
    found = look_at(part(source, "labelled", ["a", "b"]), diagnosis, quiet=True)
    assert len(found.problems) == 1 and not diagnosis.faults


def test_problems_in_a_sample_say_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosis, source = Printed(), folder(tmp_path, {f"{n:02}": [9] for n in range(24)})
    assert LOOKED_AT > 24
    monkeypatch.setattr("u2pl.doctor.findings.LOOKED_AT", 12)
    look_at(part(source, "val", sorted(source.ids())), diagnosis)
    assert diagnosis.faults[-1] == "… and 2 more val images of the 12 looked at; 12 were not"
    whole = Printed()
    found = look_at(part(source, "val", sorted(source.ids()), check_all=True), whole)
    assert found.looked_at == 24 and whole.faults[-1] == "… and 14 more val images"


def test_table_counts_pixels_and_masks_of_each_class(tmp_path: Path) -> None:
    diagnosis, source = Printed(), folder(tmp_path, {"a": [0, 1, 0, 255], "b": [0]})
    found = look_at(part(source, "labelled", ["a", "b"]), diagnosis)
    diagnosis.print(class_table(source.classes, {"labelled": found}))
    rows = [line.split() for line in diagnosis.text.splitlines()[1:]]
    assert rows[0] == ["0", "background", "85.71", "2"]  # 36 of 42
    assert rows[1] == ["1", "cat", "[old]", "14.29", "1"]
    assert rows[2] == ["2", "dog", "absent", "0"]
    assert rows[3][-1] == "12.50"  # 6 of 48


def test_a_table_may_be_a_line() -> None:
    diagnosis = Printed()
    diagnosis.print("tags: [a] few")
    assert diagnosis.text == "tags: [a] few\n"


@pytest.mark.parametrize(("crop", "long_side"), [(40, 0), (96, 0), (40, 50)])
def test_padding_is_what_the_transform_pads(crop: int, long_side: int) -> None:
    data = DataConfig(crop=crop, scale=(0.5, 2.0), long_side=long_side)
    transform, rng = TrainTransform(crop, data.scale, True, long_side), np.random.default_rng(0)
    sizes = {(60, 40): 1, (90, 100): 2}
    valid = [
        transform(Image.new("RGB", size), None, rng).valid
        for size, count in sizes.items()
        for _ in range(400 * count)
    ]
    padded = 1 - float(np.mean([np.asarray(one).mean() for one in valid]))
    assert padded_share(Counter(sizes), data) == pytest.approx(padded, abs=0.02)


def crops(**data: Any) -> Crops:
    return Crops((), DataConfig(**data))


def test_a_crop_that_is_mostly_padding_is_warned_of() -> None:
    diagnosis = Printed()
    say_sizes("training", Counter({(320, 240): 3, (300, 200): 1}), diagnosis, crops(crop=513))
    assert (
        "training images: 300x200 (smallest), 320x240 (median), 320x240 (largest)" in diagnosis.text
    )
    assert "crops: 4 of 4 are smaller than the crop of 513;" in diagnosis.text
    assert "--set data.crop=224" in diagnosis.text


def test_a_crop_that_shows_a_corner_of_a_photo_is_warned_of() -> None:
    diagnosis, photos = Printed(), Counter({(4000, 3000): 3})
    say_sizes("training", photos, diagnosis, crops(crop=256))
    assert (
        "a crop shows 0.5 % of an image; see more of it with --set data.long_side=1024"
        in diagnosis.text
    )
    calm = Printed()
    say_sizes("training", photos, calm, crops(crop=256, long_side=1024))
    assert "crops: 0 of 3 are smaller than the crop of 256 after 3 are shrunk to 1024" in calm.text
    say_sizes("training", Counter({(320, 240): 3}), calm, crops(crop=128))
    assert "warning" not in calm.text
    other = Printed()
    option = Crops((), DataConfig(crop=256), "source.long_side")
    say_sizes("source", photos, other, option)
    assert "--set source.long_side=1024" in other.text


def test_images_that_are_not_cropped_have_only_sizes() -> None:
    diagnosis = Printed()
    say_sizes("val", Counter({(320, 240): 1}), diagnosis)
    say_sizes("none", Counter(), diagnosis)
    assert diagnosis.text.splitlines() == [
        "val images: 320x240 (smallest), 320x240 (median), 320x240 (largest)"
    ]


def test_images_that_are_trained_on_and_scored_are_named(tmp_path: Path) -> None:
    source = folder(tmp_path, {id: [0] for id in "abcd"})
    source.images["b"].write_bytes(source.images["d"].read_bytes())
    diagnosis = Printed()
    warn_of_twins(source, ["a", "b"], ["a", "c", "d"], diagnosis)
    assert "in the training and the val list: 'a' (1)" in diagnosis.text
    assert "the same content as val images: 'b = d' (1)" in diagnosis.text
    apart = Printed()
    warn_of_twins(source, ["a"], ["c", "d"], apart)
    assert apart.text == ""
