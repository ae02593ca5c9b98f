"""Whatever a user can get wrong: one line on standard error, exit code 2, nothing half written."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shlex
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.commands import journal
from harness.tiny import Tiny

Refused = Callable[..., str]


@pytest.fixture
def data(make_data: Callable[..., Path], tmp_path: Path) -> Path:
    """A data folder to break."""
    return make_data(tmp_path / "mine")


@pytest.fixture
def train(tiny: Tiny, tmp_path: Path) -> Callable[..., list[Any]]:
    """The command of a run of two steps in tmp_path/run."""

    def make(*more: Any, method: str = "suponly", data: Any, **changes: Any) -> list[Any]:
        steps = [] if "--steps" in more else ["--steps", 2]
        options = tiny(method, {"train.evaluations": 1, "method.warm_start": 0}, **changes)
        common = [f"train {method} --preset demo --cpu", "--data", data, "--out", tmp_path / "run"]
        return [*common, *steps, *options, *more]

    return make


def nothing_half_written(folder: Path) -> bool:
    """No run that could be taken for a good one, and no remains of a file."""
    return (
        not list(folder.rglob("*.part"))
        and not list(folder.rglob("*.safetensors"))
        and not list(folder.rglob("summary.json"))
    )


@pytest.fixture(scope="module")
def finished(
    command: Callable[..., Any], tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any]]:
    """A finished run and its command; copied before it is broken."""
    out = tmp_path_factory.mktemp("finished") / "run"
    options = tiny("suponly", train_evaluations=1)
    line = ["train suponly --preset demo --steps 2 --cpu", "--data", folder, *options, "--out"]
    result = command(*line, out)
    assert result.exit_code == 0, result.output
    return out, line


@pytest.fixture
def run(finished: tuple[Path, list[Any]], tmp_path: Path) -> tuple[Path, list[Any]]:
    """A copy of the finished run, and the command that goes on in it."""
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    return copy, [*finished[1], copy, "--resume"]


#: What is typed behind the rest of a command, and words of the complaint.
WORDS = {
    "unknown method": ("u2plus", ["no method 'u2plus'", "did you mean u2plplus?", "suponly"]),
    "a folder for a method": (".", ["no method '.', but a folder", "--data ."]),
    "unknown preset": ("--preset ligth", ["no preset 'ligth'", "mean light?", "cityscapes"]),
    "unknown option": (
        "--set train.l=1",
        ["--set train.l: there is no such option", "did you mean train.lr?"],
    ),
    "unknown option of the method": (
        "--set method.contrast.tua=1",
        ["did you mean method.contrast.tau?"],
    ),
    "option of another method": (
        "suponly --set method.contrast.tau=1",
        ["method.contrast.tau: there is no such option"],
    ),
    "no value": ("--set train.lr", ["--set train.lr: write it as section.key=value"]),
    "a section": ("--set train=1", ["--set train: there is no such option"]),
    "wrong kind": ("--set train.batch=many", ["train.batch: ", "integer", "'many'"]),
    "out of range": ("--set train.lr=-1", ["train.lr: ", "greater than 0", "-1"]),
    "out of range of the method": (
        "--set method.contrast.tau=0",
        ["contrast.tau: ", "greater than 0"],
    ),
    "not one of": (
        "--set train.optimizer=adam",
        ["train.optimizer: ", "'sgd' or 'adamw'", "'adam'"],
    ),
    "a mode without its crop": ("--set evaluate.mode=slide", ["mode slide needs a crop"]),
    "scales the wrong way round": ("--set data.scale=[2,1]", ["scale (2.0, 1.0)"]),
    "unknown encoder": (
        "--set network.encoder=resnet10",
        ["network.encoder=resnet10 is no encoder of timm", "resnet10t"],
    ),
    "missing encoder weights": (
        "--set network.encoder_weights=no.pth",
        ["encoder weights: no file no.pth"],
    ),
    "too many labelled": ("--labeled 9", ["labeled 9: blocks has 4 masked images"]),
    "a fraction above one": ("--labeled 3/2", ["at most 1"]),
    "no such split": ("--labeled labelled", ["no split of blocks, which has labeled, train, val"]),
    "images of val": ("--labeled val", ["images of the val split"]),
    "no such folder": ("--data nowhere", ["nowhere has no images/ folder", "does not exist"]),
    "no such scheme": ("--data kitti:/x", ["unknown data source 'kitti'"]),
}


@pytest.mark.parametrize("case", WORDS)
def test_a_wrong_word_makes_no_folder(
    case: str, refused: Refused, tiny: Tiny, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    typed, expected = WORDS[case]
    run = ["train --preset demo --steps 2 --cpu --out run", "--data", folder, *tiny("suponly")]
    line = refused(*run, *typed.split())
    for words in expected:
        assert words in line
    assert not list(tmp_path.iterdir())


def spoil_mask(data: Path, array: np.ndarray) -> None:
    for number in (3, 4, 5, 6):
        Image.fromarray(array).save(data / "masks" / f"{number}.png")


BROKEN: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "ids out of range": (
        lambda data: spoil_mask(data, np.full((36, 40), 9, np.uint8)),
        [".png holds ids 9, but there are 4 classes"],
    ),
    "a mask of another size": (
        lambda data: spoil_mask(data, np.zeros((36, 36), np.uint8)),
        ["is 36x36, but its image", "40x36"],
    ),
    "a mask with colours": (
        lambda data: spoil_mask(data, np.full((36, 40, 3), (9, 0, 0), np.uint8)),
        ["RGB image", "one class id per pixel", "'name r g b'", "doctor proposes lines"],
    ),
    "a mask that is a JPEG file": (
        lambda data: [
            Image.new("L", (40, 36)).save(data / "masks" / f"{n}.png", "JPEG") for n in range(3, 7)
        ],
        [".png is a JPEG image, whose compression changes class ids"],
    ),
    "truncated images": (
        lambda data: [_cut(data / "images" / f"{n}.png", 60) for n in range(3, 10)],
        ["cannot be decoded"],
    ),
    "empty files": (
        lambda data: [_cut(data / "images" / f"{n}.png", 0) for n in range(3, 10)],
        ["cannot be decoded"],
    ),
    "unreadable val images": (
        lambda data: _cut(data / "images" / "1.png", 60),
        ["images/1.png cannot be decoded"],
    ),
    "val without a label": (
        lambda data: [
            Image.new("L", (40, 36), 255).save(data / "masks" / f"{n}.png") for n in range(3)
        ],
        ["all are 255"],
    ),
}


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(
    case: str, workers: int, refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    spoil, expected = BROKEN[case]
    spoil(data)
    line = refused(*train(data=data, data_workers=workers))
    assert (
        not multiprocessing.active_children()
    )  # they are deaf to the signal that ends the others at exit
    for words in expected:
        assert words in line
    assert str(data) in line or case == "val without a label"
    assert "Traceback" not in line
    assert nothing_half_written(tmp_path / "run")


PAINTED = "".join(f"class{id} {60 * id} 0 0\n" for id in range(4))

#: Files beside the images, their content, and words of the complaint.
FILES: dict[str, tuple[dict[str, str], list[str]]] = {
    "no such key": ({"meta.toml": "mask = 'ids'"}, ["meta.toml", "unknown key 'mask'", "masks?"]),
    "no such encoding": ({"meta.toml": "masks = 'png'"}, ["masks is 'png'", 'masks = "colours"']),
    "no TOML": ({"meta.toml": "masks: ids"}, ["meta.toml cannot be read as TOML"]),
    "colours without colours": (
        {"meta.toml": "masks = 'colours'"},
        ["classes.txt gives no colour of class0", "write each class as 'name r g b'"],
    ),
    "black and white of four": (
        {"meta.toml": "masks = 'binary'"},
        ["classes.txt names 4 classes", 'masks = "binary"'],
    ),
    "shifted colours": (
        {"meta.toml": "masks = 'colours'\nreduce_zero_label = true", "classes.txt": PAINTED},
        ["reduce_zero_label is about ids"],
    ),
    "shifted ids that begin with 0": (
        {"meta.toml": "reduce_zero_label = true"},
        ["no labelled mask holds class3"],
    ),
    "a class of nowhere": ({"meta.toml": "ignore = ['clas1']"}, ["ignore names classes", "clas1"]),
    "a class twice": (
        {"meta.toml": "merge = {a = ['class1'], b = ['class1']}"},
        ["merge puts 'class1' (1) into two classes"],
    ),
    "one class left": (
        {"meta.toml": "ignore = ['class1', 'class2', 'class3']"},
        ["leave 1 class, and at least 2 are needed"],
    ),
    "ids where colours are": (
        {"meta.toml": "masks = 'colours'", "classes.txt": PAINTED},
        [".png holds numbers below 4, as if they were class ids", 'masks = "ids"'],
    ),
    "a colour out of range": (
        {"classes.txt": "a 0 0 0\nb 0 0 300\nc\nd\n"},
        ["classes.txt, line 2: colour [0, 0, 300]"],
    ),
    "a gap": ({"classes.txt": "a\n\nb\n"}, ["classes.txt, line 2 is blank"]),
    "a labelmap of something else": (
        {"classes.txt": "", "labelmap.txt": "item { id: 1 }"},
        ["labelmap.txt, line 1 is 'item { id: 1 }'", "write 'name:r,g,b::'"],
    ),
    "a labelmap without classes": (
        {"classes.txt": "", "labelmap.txt": "# label:color_rgb:parts:actions\n"},
        ["labelmap.txt names 0 classes"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_description_of_the_masks_is_named(
    case: str, refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    files, expected = FILES[case]
    for name, text in files.items():
        (data / name).write_text(text)
        if not text:
            (data / name).unlink()
    line = refused(*train(data=data))
    for words in expected:
        assert words in line
    assert nothing_half_written(tmp_path / "run")


def test_black_and_white_masks_are_known_before_training(
    refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    (data / "classes.txt").write_text("nothing\nthing\n")
    for mask in (data / "masks").iterdir():
        white = (np.asarray(Image.open(mask)) > 1) * np.uint8(255)
        Image.fromarray(white).save(mask)
    line = refused(*train(data=data))
    assert "hold only 0 and 255" in line and "allow_absent_classes" not in line
    assert 'if 255 is thing add the line masks = "binary" to' in line
    assert not (tmp_path / "run").exists()


LISTS = {
    "unknown id": ("3\n77\n", ["labeled.txt names images that are not there: '77'"]),
    "a path that leads out": (
        "3\n../../secret\n",
        ["labeled.txt leads out of the data folder", "'..'"],
    ),
    "an id twice": ("3\n3\n", ["labeled.txt lists images more than once"]),
    "no id": ("\n", ["labeled.txt is empty"]),
    "no mask": ("3\n8\n", ["images without mask: '8'"]),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_wrong_list_is_named(
    case: str, refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    text, expected = LISTS[case]
    (data / "splits" / "labeled.txt").write_text(text)
    line = refused(*train(data=data))
    for words in expected:
        assert words in line
    assert not (tmp_path / "run").exists()
    (data / "splits" / "labeled.txt").write_text("3\n4\n")
    (tmp_path / "labeled.txt").write_text(text)
    assert expected[0].split()[-1] in refused(
        *train("--labeled", tmp_path / "labeled.txt", data=data)
    )
    assert not (tmp_path / "run").exists()


def test_an_empty_val_list_is_found_before_training(
    refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    (data / "splits" / "val.txt").write_text("")
    assert "val.txt is empty" in refused(*train(data=data))
    assert not (tmp_path / "run").exists()


def test_nothing_unlabelled_is_left(
    refused: Refused, train: Any, data: Path, tmp_path: Path
) -> None:
    for number in (7, 8, 9):
        (data / "images" / f"{number}.png").unlink()
    assert "no unlabelled image is left" in refused(*train(data=data, method="cutmix"))
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_image(
    refused: Refused, command: Callable[..., Any], train: Any, folder: Path, tmp_path: Path
) -> None:
    line = refused(*train(data=folder, train_batch=1))
    assert "1 image per process is too few" in line and line.endswith("raise train.batch")
    assert not (tmp_path / "run").exists()  # so that the corrected command works
    assert (
        command(*train(data=folder, train_batch=1, method="cutmix")).exit_code == 0
    )  # 1 + 1 images


def test_a_folder_with_something_in_it_is_left_alone(
    refused: Refused, train: Any, run: Any, folder: Path, tmp_path: Path
) -> None:
    out, resume = run
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "is not empty; add --resume" in refused(*resume[:-1])
    assert "was started with another" in refused(*resume, "--seed", 5)
    assert 'was started with another method_name ("suponly" there, "cutmix" here)' in refused(
        *train("--resume", "--out", out, data=folder, method="cutmix")
    )
    line = refused(*resume, "--set", "train.lr=0.5")
    assert "was started with another train.lr (" in line and "there, 0.5 here)" in line
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "run").write_text("a file")
    assert "is a file: choose another --out" in refused(*train(data=folder))
    assert (tmp_path / "run").read_text() == "a file"


def test_resuming_nothing(
    refused: Refused, train: Any, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    assert "holds no run; leave --resume out" in refused(*train("--resume", data=folder))
    monkeypatch.chdir(tmp_path)
    line = [
        part for part in train("--resume", data=folder) if part not in ("--out", tmp_path / "run")
    ]
    assert "no run runs/blocks-suponly-<n> was started with this command" in refused(*line)
    assert not list(tmp_path.iterdir())


STATES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "header only": lambda content: content[:50],
    "another file": lambda content: b"not a state at all",
}


@pytest.mark.parametrize("case", STATES)
def test_a_damaged_state(case: str, refused: Refused, run: Any) -> None:
    out, resume = run
    (out / "summary.json").unlink()  # a finished run needs no state
    (out / "resume.safetensors").write_bytes(
        STATES[case]((out / "resume.safetensors").read_bytes())
    )
    line = refused(*resume)
    assert "resume.safetensors cannot be read" in line
    assert "another --out" in line


def test_a_state_of_something_else(refused: Refused, run: Any) -> None:
    out, resume = run
    (out / "summary.json").unlink()
    tensors = load_file(out / "resume.safetensors")
    save_file(tensors, out / "resume.safetensors")
    assert "is not a state of this version" in refused(*resume)
    tensors.pop("method.student.classifier.weight")
    save_file(tensors, out / "resume.safetensors", {"format": "u2pl-resume-1", "facts": "{}"})
    assert "is of another network or method" in refused(*resume)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_config_of_a_run(text: bytes, refused: Refused, run: Any) -> None:
    out, resume = run
    (out / "config.json").write_bytes(text)
    assert f"{out / 'config.json'}" in refused(*resume)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_damaged_model(
    name: str, content: bytes | None, refused: Refused, run: Any, folder: Path, tmp_path: Path
) -> None:
    out, _ = run
    path = out / "last" / name
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    for line in (
        refused("evaluate", out, "--cpu"),
        refused("predict", out, folder / "images", "--out", tmp_path / "to", "--cpu"),
    ):
        assert str(path) in line
    assert not (tmp_path / "to").exists()


def test_what_cannot_be_evaluated_or_predicted(
    refused: Refused, run: Any, make_data: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    out, _ = run
    other = make_data(tmp_path / "other", classes=3)
    assert "other has 3 classes" in refused("evaluate", out, "--data", other, "--cpu")
    assert "blocks has no split 'vall'" in refused("evaluate", out, "--split", "vall", "--cpu")
    assert "no trained network at" in refused("evaluate", tmp_path / "nowhere", "--cpu")
    assert "scales" in refused("evaluate", out, "--scales", "0", "--cpu")
    assert "there is no such file or folder" in refused(
        "predict", out, tmp_path / "no.png", "--out", tmp_path / "to", "--cpu"
    )
    (tmp_path / "none").mkdir()
    assert "holds no image" in refused(
        "predict", out, tmp_path / "none", "--out", tmp_path / "to", "--cpu"
    )
    assert not (tmp_path / "to").exists()


#: What is typed behind `predict RUN IMAGES --out DATA`, and words of the complaint.
PREDICTING = {
    "a probability above one": ("--ignore-below 1.5", ["--ignore-below 1.5", "between 0 and 1"]),
    "no such format": (
        "--format cvta",
        ["--format cvta", "mean cvat?", "coco, cvat, geojson, labelme"],
    ),
    "a negative area": ("--min-area -1", ["--min-area and --tolerance must not be negative"]),
    "no window": ("--window 0", ["'--window'", "greater than or equal to 1"]),
    "no such blend": ("--blend lin", ["--blend", "'mean', 'linear', 'gaussian'"]),
    "nothing to go on with": ("--resume", ["holds no predictions to go on with"]),
    "my own file": ("--format coco", ["ids/0.png was not written by predict", "--overwrite"]),
    "my own page": ("--gallery", ["ids/0.png was not written by predict"]),
}


@pytest.mark.parametrize("case", PREDICTING)
def test_what_cannot_be_predicted_so_changes_nothing(
    case: str, refused: Refused, run: Any, data: Path
) -> None:
    out, _ = run
    shutil.copytree(data / "masks", data / "ids")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    typed, expected = PREDICTING[case]
    line = refused("predict --cpu", out, data / "images", "--out", data, *typed.split())
    for words in expected:
        assert words in line
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_a_data_folder_that_predictions_go_to_keeps_its_masks(
    command: Callable[..., Any], run: Any, data: Path
) -> None:
    out, _ = run
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    line = ["predict --cpu --gallery --overwrite", out, data / "images", "--out", data]
    formats = [word for name in ("coco", "cvat", "labelme", "yolo") for word in ("--format", name)]
    for _ in range(2):
        result = command(*line, *formats)
        assert result.exit_code == 0, result.output
        assert "10 images in" in result.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_an_image_that_claims_too_many_pixels_is_named_and_the_others_are_predicted(
    refused: Refused, run: Any, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out, _ = run
    monkeypatch.setenv("U2PL_MEGAPIXELS", "1")
    Image.new("RGB", (1100, 1000)).save(data / "images" / "big.png")
    line = refused("predict --cpu", out, data / "images", "--out", tmp_path / "to")
    assert (
        "1 of the images could not be predicted" in line and "big.png has 1100x1000 pixels" in line
    )
    assert line.endswith("set the environment variable U2PL_MEGAPIXELS to 2 or more")
    assert len(list((tmp_path / "to" / "ids").iterdir())) == 10


def test_encoder_weights_that_do_not_fit(
    refused: Refused, train: Any, folder: Path, tmp_path: Path
) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "wrong.safetensors")
    line = refused(*train(data=folder, network_encoder_weights=tmp_path / "wrong.safetensors"))
    assert "does not fit the encoder" in line
    (tmp_path / "damaged.safetensors").write_bytes(b"xx")
    assert "is damaged" in refused(
        *train(data=folder, network_encoder_weights=tmp_path / "damaged.safetensors")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "term"), [("suponly", "sup"), ("u2plplus", "sup, contrast")])
def test_a_loss_that_is_not_finite_names_step_and_term(
    method: str, term: str, refused: Refused, train: Any, folder: Path, tmp_path: Path
) -> None:
    options = {"train_lr": 1e30, "train_log_every": 4, "train_checkpoint_every": 1}
    line = refused(*train("--steps", 6, data=folder, method=method, **options))
    assert f"the loss is not finite at step 1: {term}" in line
    assert "train.lr" in line
    # the state is that of the last step whose loss was finite
    assert (tmp_path / "run" / "resume.safetensors").exists()
    assert all(entry["loss/sup"] is not None for entry in journal(tmp_path / "run"))


#: What fails on a full disk, and how many calls of it still succeed: the run has made its folder
#: and, but for the pictures at its end, a state.
FULL = [
    ("os.replace", 3),
    *(("os.fsync", calls) for calls in (2, 3, 5, 8, 9)),
    ("u2pl.tensor_file._write", 1),
    ("u2pl.tensor_file._write", 3),
    ("PIL.Image.Image.save", 0),
]


@pytest.fixture(scope="module")
def undisturbed(
    command: Callable[..., Any], tiny: Tiny, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any]]:
    """A run of four steps that write their states, and its command."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    options = tiny("suponly", train_evaluations=2, train_checkpoint_every=1)
    line = ["train suponly --preset demo --steps 4 --cpu", "--data", folder, *options, "--out"]
    assert command(*line, out).exit_code == 0
    return out, line


@pytest.mark.parametrize(("place", "calls"), FULL)
def test_a_full_disk_loses_nothing(
    place: str,
    calls: int,
    refused: Refused,
    command: Callable[..., Any],
    undisturbed: tuple[Path, list[Any]],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    whole, line = undisturbed
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        real, made = resolve_name(place), count()

        def fills_up(*args: Any, **kwargs: Any) -> Any:
            if next(made) >= calls:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        patch.setattr(place, fills_up)
        error = refused(*line, out)
    assert "No space left on device" in error or "disk is full" in error
    assert not list(out.rglob("*.part"))
    typed = shlex.split(error.rpartition("go on with: ")[2])
    assert typed == ["u2pl-semi", "train", "--resume", str(out)]
    result = command(*typed[1:])
    assert result.exit_code == 0, result.output
    for name in ("resume.safetensors", "last/model.safetensors"):
        one, two = load_file(out / name), load_file(whole / name)
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_journal_on_a_full_disk(
    refused: Refused, train: Any, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def full(path: Path, mode: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("u2pl.training.journal.open", full, raising=False)
    error = refused(*train(data=folder))
    assert "No space left on device" in error
    assert "journal.jsonl" in error
