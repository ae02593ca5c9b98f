"""Photos that turn out to be broken while a run goes on, and going on once they are mended."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from harness.tiny import Tiny
from u2pl.data.opening import open_source
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl_semi.app import program

#: Of a stream whose order alone is asked for.
ANY = TrainTransform(32, (1, 1), flip=False)


@pytest.fixture
def photos(folder: Path, tmp_path: Path) -> Path:
    """A copy of the data: 0 to 2 are scored, 3 to 6 labelled, the others not."""
    shutil.copytree(folder, tmp_path / "photos")
    return tmp_path / "photos"


def type_words(*words: str) -> tuple[int, str]:
    """Exit code and all that was said."""
    result = CliRunner().invoke(program, words)
    return result.exit_code, f"{result.stdout}{result.stderr}"


def training(photos: Path, tiny: Tiny, out: Path, **changes: Any) -> list[str]:
    """Words of eight steps, each of which is logged and kept."""
    changes = {"train_checkpoint_every": 1, "train_log_every": 1, **changes}
    words = [
        word for each in tiny.assignments("mean_teacher", **changes) for word in ("--set", each)
    ]
    data = ["--data", str(photos), "--labeled", "labeled", "--preset", "demo"]
    return ["train", "mean_teacher", *data, *words, "--steps", "8", "--cpu", "--out", str(out)]


def spoil(file: Path) -> bytes:
    """Cut a file off; returns what it held."""
    whole = file.read_bytes()
    file.write_bytes(whole[:60])
    return whole


def test_a_broken_unlabelled_photo_is_left_out_and_counted(
    photos: Path, tiny: Tiny, tmp_path: Path
) -> None:
    spoil(photos / "images" / "8.png")
    code, said = type_words(*training(photos, tiny, tmp_path / "run"))
    assert code == 0, said
    assert said.count("that cannot be read are left out: '8' (1); doctor says why") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").open()]
    counts = [line.get("skipped_images", 0) for line in lines if "lr" in line]
    assert counts[-1] == 1 and counts == sorted(counts)


def test_a_run_goes_on_once_a_labelled_photo_is_mended(
    photos: Path, tiny: Tiny, tmp_path: Path
) -> None:
    order = Stream(open_source(str(photos)), list("3456"), ANY, 0, "labeled")
    broken, run = photos / "images" / f"{order.id(3)}.png", tmp_path / "run"  # seen at step 1
    whole = spoil(broken)
    code, said = type_words(*training(photos, tiny, run))
    error, _, command = said.splitlines()[-1].partition("; go on with: ")
    assert code == 2 and error.startswith(f"error: {broken} ")
    broken.write_bytes(whole)
    words = shlex.split(command)
    again = words[words.index("train") :]
    code, said = type_words(*again)
    assert code == 2 and "add --accept-changed-data" in said, said
    code, said = type_words(*again, "--accept-changed-data")
    assert code == 0, said
    summary = json.loads((run / "summary.json").read_text())
    (change,) = summary["data_changes"]
    assert 0 < change["until_step"] < 8 == summary["steps"]
    assert change["data_fingerprint"] != summary["data_fingerprint"]


def test_a_new_run_does_not_ask_for_that(photos: Path, tiny: Tiny, tmp_path: Path) -> None:
    words = training(photos, tiny, tmp_path / "run")
    code, said = type_words(*words, "--accept-changed-data")
    assert code == 2 and "--accept-changed-data needs --resume" in said


@pytest.mark.parametrize("what", ["scored", "looked at for the report"])
def test_a_run_that_comes_upon_a_broken_photo_says_how_to_go_on(
    what: str, photos: Path, tiny: Tiny, tmp_path: Path
) -> None:
    source = open_source(str(photos))
    orders = (Stream(source, list("3456"), ANY, seed, "labeled") for seed in range(99))
    # the report looks at 3 and 5 after the first step, which learns from 4 and 6
    seed = next(n for n, order in enumerate(orders) if {order.id(0), order.id(1)} == {"4", "6"})
    broken, run = photos / "images" / f"{2 if what == 'scored' else 5}.png", tmp_path / "run"
    spoil(broken)
    words = training(photos, tiny, run, train_evaluations=8)
    code, said = type_words(*words, "--seed", str(seed))
    error, _, command = said.splitlines()[-1].partition("; go on with: ")
    assert code == 2 and error.startswith(f"error: {broken} ")
    assert shlex.split(command)[-2:] == ["--resume", str(run)]


def all_ignored(mask: np.ndarray) -> np.ndarray:
    return np.full_like(mask, 255)


#: What becomes of the masks that are scored, and words of the complaint.
SCORED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "an id of no class": (lambda mask: mask + np.uint8(9), "holds ids"),
    "colours": (lambda mask: np.stack([mask, mask * 2, mask], -1), "is a RGB image"),
    "turned": (lambda mask: np.rot90(mask), "one of the two lies on its side"),
    "all ignored": (all_ignored, "the masks to score on hold no labelled pixel"),
}


@pytest.mark.parametrize("case", SCORED)
def test_a_mask_that_cannot_be_scored_is_found_before_the_first_step(
    case: str, photos: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, complaint = SCORED[case]
    ids = "012" if case == "all ignored" else "1"
    for mask in (photos / "masks" / f"{id}.png" for id in ids):
        Image.fromarray(change(np.array(Image.open(mask)))).save(mask)
    # of a large data set `doctor` looks at some images alone
    monkeypatch.setattr("u2pl.doctor.findings.LOOKED_AT", 1)
    words = training(photos, tiny, tmp_path / "run")
    # `doctor` asks the same: two cases tell whether it does
    for name in ("train", "doctor") if case in ("an id of no class", "all ignored") else ("train",):
        left_out = () if name == "train" else ("--out", str(tmp_path / "run"))
        typed = [name, *(["--method"] if name == "doctor" else []), *words[1:]]
        code, said = type_words(*[word for word in typed if word not in left_out])
        assert code == 2 and complaint in said.splitlines()[-1], said
        assert "step 1" not in said.splitlines() and not (tmp_path / "run").exists()
