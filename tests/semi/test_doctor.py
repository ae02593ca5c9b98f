from __future__ import annotations

import io
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import default_collate

from harness.commands import faults
from harness.tiny import Tiny
from u2pl.data.sources.folder import Folder

Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture
def photos(tmp_path: Path, make_data: Callable[..., Path]) -> Path:
    """Images 0-2 are val, 3-6 labelled, 7-9 have no mask; to be broken."""
    return make_data(tmp_path / "photos")


def test_good_data_ends_with_the_command_that_trains(
    folder: Path, tiny: Tiny, command: Command
) -> None:
    result = command("doctor", "--data", folder, "--labeled", "3", "--seed", "3", *tiny("u2plplus"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "looked at: 3 of 3 labelled, 4 of 4 unlabelled, 3 of 3 val images" in lines
    size = f"{90 * 16 * 4} bytes (6 kB)"
    assert f"queues: 90 keys of 16 float32 numbers, {size}, on the network's device" in lines
    assert "warm start: the first 1400 steps are supervised only" in lines
    assert any(line.startswith("note: with 4 classes the contrast") for line in lines)
    assert any(line.startswith("tried on the CPU") for line in lines)
    words = shlex.split(lines[-1].removeprefix("ready: "))
    assert words[:7] == ["u2pl-semi", "train", "u2plplus", "--data", str(folder), "--labeled", "3"]
    assert words[7:] == [*tiny("u2plplus"), "--seed", "3"]


def test_everything_broken_is_listed_with_its_file(
    photos: Path, tiny: Tiny, command: Command
) -> None:
    Image.fromarray(np.full((36, 40), 7, np.uint8)).save(photos / "masks" / "3.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(photos / "masks" / "4.png")
    Image.new("RGB", (40, 36), (9, 0, 0)).save(photos / "masks" / "5.png")
    for broken in ("6", "7"):
        file = photos / "images" / f"{broken}.png"
        file.write_bytes(file.read_bytes()[:200])
    (photos / "masks" / "1.png").unlink()
    found = faults(command("doctor", "--data", photos, *tiny("u2plplus")))
    for file, what in [
        ("3", "ids 7"),
        ("4", "9x9"),
        ("5", "RGB"),
        ("6", "decoded"),
        ("7", "decoded"),
    ]:
        assert sum(f"{file}.png" in line and what in line for line in found) == 1, (file, found)
    assert any("val images without mask: '1'" in line for line in found)
    assert len(found) == 6


def test_black_and_white_masks_are_one_fault_with_the_line_that_mends_it(
    photos: Path, tiny: Tiny, command: Command
) -> None:
    (photos / "classes.txt").write_text("nothing\nthing\n")
    for mask in (photos / "masks").iterdir():
        white = (np.asarray(Image.open(mask)) > 1) * np.uint8(255)
        Image.fromarray(white).save(mask)
    result = command("doctor --method suponly --data", photos, *tiny("suponly"))
    (fault,) = faults(result)
    assert f'if 255 is thing add the line masks = "binary" to {photos / "meta.toml"}' in fault
    assert "cannot be learnt" not in result.stdout
    (photos / "meta.toml").write_text('masks = "binary"\n')
    result = command("doctor --method suponly --data", photos, *tiny("suponly"))
    assert result.exit_code == 0, result.output


def test_the_proposed_classes_can_be_pasted(photos: Path, tiny: Tiny, command: Command) -> None:
    colours = np.array([[0, 0, 0], [200, 30, 0], [0, 90, 200], [250, 250, 250]], np.uint8)
    for mask in (photos / "masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(mask))]).save(mask)
    words = ["doctor --method suponly --data", photos, *tiny("suponly")]
    result = command(*words)
    assert all("doctor proposes lines" in fault for fault in faults(result)[:4])
    assert "blocks" not in result.stdout and "the masks are painted in 4 colours:" in result.stdout
    # a paste would replace the names
    names = (photos / "classes.txt").read_text().split()
    assert f"write behind each name in {photos / 'classes.txt'} its colour" in result.stdout
    assert re.search(rf"such as `{names[0]} \d+ \d+ \d+`", result.stdout)
    assert "cat > " not in result.stdout
    (photos / "classes.txt").unlink()
    refused = command("train suponly --data", photos).stderr
    assert f"`u2pl-semi doctor --data {photos}` shows what to write" in refused
    result = command(*words)
    proposal = result.stdout[result.stdout.index("cat > ") :]
    subprocess.run(["sh", "-c", proposal[: proposal.index("END\n", 90) + 4]], check=True)
    lines = (photos / "classes.txt").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == sorted(
        " ".join(map(str, colour)) for colour in colours.tolist()
    )
    result = command(*words)
    assert result.exit_code == 0, result.output
    assert "note: the masks are painted in colours" in result.stdout


def test_masks_that_lost_their_ids_and_turned_photos_are_said(
    photos: Path, tiny: Tiny, command: Command
) -> None:
    (photos / "classes.txt").write_text("".join(f"c{id}\n" for id in range(100)))
    for mask in (photos / "masks").iterdir():
        stream, moved = io.BytesIO(), np.roll(np.asarray(Image.open(mask)), 3, axis=(0, 1))
        Image.fromarray(moved * np.uint8(25)).save(stream, "JPEG")
        Image.open(stream).save(mask)
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in (7, 8):
        image = Image.open(photos / "images" / f"{number}.png")
        image.save(photos / "images" / f"{number}.png", exif=exif)
    allowed = ["--set", "data.allow_absent_classes=true"]
    result = command("doctor --method suponly --data", photos, *tiny("suponly"), *allowed)
    assert result.exit_code == 0, result.output
    assert "warning: 7 of 7 masks of photos that were looked at hold several ids" in result.stdout
    note = (
        "note: EXIF turns 2 of 10 photos looked at: 2 are read upright, where no mask's size tells"
    )
    assert note in result.stdout


def test_masks_that_keep_a_split_from_being_drawn_are_all_listed(
    photos: Path, tiny: Tiny, command: Command
) -> None:
    for id in ("4", "6"):
        Image.fromarray(np.full((36, 40), 7, np.uint8)).save(photos / "masks" / f"{id}.png")
    found = faults(command("doctor", "--data", photos, "--labeled", "3", *tiny("u2plplus")))
    assert sorted(line.split("masks/")[1][:5] for line in found) == ["4.png", "6.png"]


def test_a_class_with_a_single_mask_and_one_that_val_lacks_are_said(
    photos: Path, tiny: Tiny, command: Command
) -> None:
    """Class 3 is in a single mask, which is not held out to score on."""
    for file in (photos / "splits").iterdir():
        file.unlink()
    source = Folder(photos)
    shown = next(id for id in source.masks if id not in source.held_out)
    names = (photos / "classes.txt").read_text().split()
    for mask in (photos / "masks").iterdir():
        ids = np.asarray(Image.open(mask)).copy()
        ids[ids == 3] = 0
        ids[:4] = 3 if mask.stem == shown else 0
        Image.fromarray(ids).save(mask)
    result = command("doctor --method suponly --data", photos, *tiny("suponly"))
    assert result.exit_code == 0, result.output
    lacking, taught = (
        next(line for line in result.stdout.splitlines() if line.startswith(f"warning: {begin}"))
        for begin in ("none of", "only one of")
    )
    assert f"val masks shows {names[3]}:" in lacking
    assert lacking.endswith("; write splits/val.txt with images that show all classes")
    assert f"labelled masks shows {names[3]}: add masks" in taught


def test_data_without_val_is_a_fault(photos: Path, tiny: Tiny, command: Command) -> None:
    (photos / "splits" / "val.txt").unlink()
    (photos / "splits" / "labeled.txt").write_text("".join(f"{n}\n" for n in range(7)))
    (found,) = faults(command("doctor", "--data", photos, *tiny("suponly"), "--method", "suponly"))
    assert "splits/val.txt" in found


def test_missing_weights_are_one_fault_and_the_steps_are_tried_all_the_same(
    folder: Path, tiny: Tiny, command: Command
) -> None:
    options = tiny("u2plplus", network_encoder_weights="nowhere.pth")
    result = command("doctor", "--data", folder, *options)
    (found,) = faults(result)
    assert "no file nowhere.pth" in found
    assert "tried on the CPU" in result.stdout


@pytest.mark.parametrize("longest", [0.0, 1e9])
def test_a_batch_of_one_is_found(
    folder: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch, longest: float
) -> None:
    monkeypatch.setattr("u2pl.doctor.costs.LONGEST_STEP", longest)
    (found,) = faults(
        command("doctor", "--data", folder, "--method", "suponly", *tiny("suponly", train_batch=1))
    )
    assert "normalises over" in found


def test_a_step_too_slow_to_try_is_estimated(
    folder: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2pl.doctor.costs.LONGEST_STEP", 0.0)
    result = command("doctor", "--data", folder, *tiny("u2plplus"))
    assert result.exit_code == 0, result.output
    assert "not tried on the CPU: one image takes" in result.stdout


def test_too_little_memory_and_disk_must_be_fixed(
    folder: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2pl.doctor.costs.memory_of", lambda device: 100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    disk, memory = faults(command("doctor", "--data", folder, *tiny("u2plplus")))
    assert "of disk" in disk
    assert "this machine has 100 kB" in memory


def test_a_batch_that_cannot_fit_is_not_made(
    folder: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def collated(samples: list[Any]) -> Any:
        made.append(len(samples))
        return default_collate(samples)

    monkeypatch.setattr("u2pl.doctor.costs.default_collate", collated)
    monkeypatch.setattr("u2pl.doctor.costs.memory_of", lambda device: 100_000_000)
    (memory,) = faults(command("doctor", "--data", folder, *tiny("u2plplus", train_batch=60_000)))
    assert "this machine has 100.0 MB" in memory
    assert made and max(made) <= 2  # those that are tried


def test_too_little_room_for_the_workers_is_a_fault(
    folder: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; the folder is there, whatever the system."""
    monkeypatch.setattr("u2pl.training.loading.SHARED", folder)
    free = {folder: 0}
    usage = "u2pl.training.loading.shutil.disk_usage"
    monkeypatch.setattr(usage, lambda path: SimpleNamespace(free=free.get(path, 10**12)))
    (found,) = faults(command("doctor", "--data", folder, *tiny("u2plplus", data_workers=2)))
    assert "the data workers need" in found and "set data.workers=0" in found


def test_a_class_in_no_labelled_mask_is_a_fault_as_it_is_in_training(
    photos: Path, tiny: Tiny, command: Command, refused: Callable[..., str], tmp_path: Path
) -> None:
    for id in ("3", "4", "5", "6"):
        mask = np.asarray(Image.open(photos / "masks" / f"{id}.png")).copy()
        mask[mask == 2] = 0
        Image.fromarray(mask).save(photos / "masks" / f"{id}.png")
    words = ["--data", photos, *tiny("suponly")]
    (found,) = faults(command("doctor --method suponly", *words))
    assert "no labelled mask holds class2; label one" in found
    assert refused("train suponly", *words, "--out", tmp_path / "run") == f"error: {found}"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--set", "train.btach=2"], "did you mean train.batch"),
        (["--labeled", "labelled"], "no number, no fraction"),
        (["--method", "u2pl+"], "did you mean u2pl"),
        (["--preset", "lihgt"], "did you mean light"),
        (["--data", "/nowhere"], "does not exist"),
    ],
)
def test_a_wrong_word_is_one_line(
    folder: Path, refused: Callable[..., str], words: list[str], reason: str
) -> None:
    assert reason in refused("doctor", "--data", folder, *words)
