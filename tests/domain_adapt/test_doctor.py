from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.commands import faults
from harness.tiny import Tiny

Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("patience")


def doctor(domains: dict[str, Any], *more: Any) -> list[Any]:
    data = [word for name, folder in domains.items() for word in (f"--{name}", folder)]
    return ["doctor --cpu", *data, *more]


def test_two_domains_that_fit_end_with_the_command_that_trains(
    domains: dict[str, str], tiny: Tiny, command: Command
) -> None:
    options = tiny("u2plplus", method_warm_start=0.25)
    result = command(*doctor(domains, "--source-split", "train", "--seed", "3", *options))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "looked at: 7 of 7 source, 7 of 7 target, 3 of 3 scored images" in lines
    assert any(line.startswith("source images: 96x80") for line in lines)
    assert any("4000 steps of 2 source and 2 target crops of 64 pixels" in line for line in lines)
    assert "warm start: the first 1000 steps are plain DAFormer" in lines
    assert any(
        line.startswith("note: the feature distance compares with an encoder of random weights")
        for line in lines
    )
    assert any(line.startswith("tried on the CPU") for line in lines)
    words = shlex.split(lines[-1].removeprefix("ready: "))
    data = ["--source", domains["source"], "--target", domains["target"], "--source-split", "train"]
    assert words == ["u2pl-da", "train", "u2plplus", *data, *options, "--seed", "3", "--cpu"]


def test_everything_broken_is_listed_with_its_file(
    broken: dict[str, Path], tiny: Tiny, command: Command
) -> None:
    source, target = broken["source"], broken["target"]
    Image.fromarray(np.full((80, 96), 7, np.uint8)).save(source / "masks" / "3.png")
    for folder, number in ((source, 4), (target, 5), (target, 2)):
        file = folder / "images" / f"{number}.png"
        file.write_bytes(file.read_bytes()[:200])
    (target / "masks" / "1.png").unlink()
    found = faults(command(*doctor(broken, "--method", "daformer", *tiny("daformer"))))
    assert any("day/masks/3.png holds ids 7" in line for line in found)
    for file in ("day/images/4.png", "dusk/images/5.png", "dusk/images/2.png"):
        assert sum(file in line and "decoded" in line for line in found) == 1, (file, found)
    assert any("scored images without mask: '1'" in line for line in found)


def test_a_class_that_one_domain_does_not_show_is_a_warning(
    broken: dict[str, Path], tiny: Tiny, command: Command
) -> None:
    for folder in broken.values():
        (folder / "classes.txt").write_text("road\ntree\ncar\nperson\nbus\n")
    result = command(*doctor(broken, "--method", "source_only", *tiny("source_only")))
    assert result.exit_code == 0, result.output
    assert "source masks shows bus: it cannot be learnt; choose other images" in result.stdout
    left_out = "scored masks shows bus: a class that occurs in none is left out of the mIoU"
    assert left_out in result.stdout


def test_a_target_image_that_is_also_scored_is_a_warning(
    broken: dict[str, Path], tiny: Tiny, command: Command
) -> None:
    images = broken["target"] / "images"
    (images / "6.png").write_bytes((images / "0.png").read_bytes())
    result = command(*doctor(broken, "--method", "daformer", *tiny("daformer")))
    assert result.exit_code == 0, result.output
    assert "'6 = 0' (1); scores will be too high" in result.stdout


def test_a_target_without_any_mask_will_do(
    broken: dict[str, Path], tiny: Tiny, command: Command
) -> None:
    for mask in (broken["target"] / "masks").iterdir():
        mask.unlink()
    result = command(*doctor(broken, "--method", "daformer", *tiny("daformer")))
    assert result.exit_code == 0, result.output
    assert "note: no image of dusk has a mask" in result.stdout


def test_labelled_images_that_are_scored_on_must_be_fixed(
    broken: dict[str, Path], tiny: Tiny, command: Command
) -> None:
    (broken["target"] / "splits" / "some.txt").write_text("0\n1\n")
    both = {"source": broken["target"], "target": broken["target"]}
    (found,) = faults(
        command(
            *doctor(both, "--source-split", "some", "--method", "source_only", *tiny("source_only"))
        )
    )
    assert found.startswith("labelled images that are also scored on: '0', '1'")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--source-split", "tarin"], "day has no split 'tarin'"),
        (["--target", "/nowhere"], "does not exist"),
        (["--method", "daforner"], "did you mean daformer"),
        (["--set", "method.pseudo.treshold=1"], "did you mean method.pseudo.threshold"),
    ],
)
def test_a_wrong_word_is_one_line(
    domains: dict[str, str], refused: Callable[..., str], words: list[str], reason: str
) -> None:
    assert reason in refused(*doctor(domains, *words))


def test_domains_of_other_classes_are_one_line(
    broken: dict[str, Path], refused: Callable[..., str]
) -> None:
    (broken["source"] / "classes.txt").write_text("road\ntree\ncar\n")
    assert "day has 3 classes and dusk 4" in refused(*doctor(broken))


def test_advice_about_the_crops_of_a_domain_is_followed_by_that_domain(
    tmp_path: Path, domains: dict[str, str], tiny: Tiny, command: Command
) -> None:
    """Each domain has an option of its own for the size to which its images are shrunk."""
    large = {name: shutil.copytree(path, tmp_path / name) for name, path in domains.items()}
    for folder in large.values():
        for path in (*folder.rglob("images/*.png"), *folder.rglob("masks/*.png")):
            image = Image.open(path)
            size = (image.width * 6, image.height * 6)
            image.resize(size, Image.Resampling.NEAREST).save(path)
    options = [*tiny("u2plplus"), "--steps", "2"]

    def warned(*more: str) -> list[str]:
        printed = command(*doctor(large, *options, *more)).stdout
        return [line for line in printed.splitlines() if "a crop shows" in line]

    found = warned()
    keys = ("data.long_side", "data.target_long_side")
    assert [key in line for key, line in zip(keys, found, strict=True)] == [True, True]
    for own, other in ((0, 1), (1, 0)):
        advice = re.search(r"--set (\S+)", found[own])
        assert advice is not None
        assert warned("--set", advice[1]) == [found[other]]
