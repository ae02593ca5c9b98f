from __future__ import annotations

import csv
import shutil
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.model import predict_files as predict_module
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.predict_files import Output, find_images, image_files, predict_files
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import SegOutput

CARD = Card(
    network=NetworkConfig(),
    classes=("nothing", "bright", "dark"),
    palette=[(0, 0, 0), (250, 10, 10), (10, 10, 250)],
)


class Bright(nn.Module):
    """Class 1 where the image is bright, class 2 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.nine = nn.Parameter(torch.tensor(9.0))

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        bright = image[:, :, ::4, ::4].mean(1, keepdim=True) - 0.5
        return SegOutput(torch.cat([-self.nine.expand_as(bright), bright, -bright], 1))


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (18, 13)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = np.zeros((size[1], size[0]), np.uint8)
    halves[:, size[0] // 2 :] = 255
    image = (
        Image.fromarray(halves.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(halves).convert(mode)
    )
    image.save(path)
    return path


MODEL = Model(Bright(), CARD)


def predict(inputs: list[Path], out: Path, **given):
    return predict_files(MODEL, inputs, out, **given).failures


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize(
    "view",
    [{}, {"mode": "slide", "crop": 8}, {"mode": "center-crop", "crop": 4}],
    ids=str,
)
@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.jpg"), ("RGBA", "a.png"), ("L", "a.png"), ("I;16", "a.png"), ("P", "a.gif")],
)
def test_every_kind_of_image_gets_files_of_its_size(tmp_path, mode, name, view):
    save(tmp_path / "in" / name, mode)
    assert predict([tmp_path / "in"], tmp_path / "out", **view) == []
    with Image.open(tmp_path / "out" / "ids" / "a.png") as image:
        assert image.mode == "P" and image.getpalette()[3:6] == [250, 10, 10]
        ids = np.array(image)
    assert (
        ids.shape == (13, 18) and set(ids[:, :4].ravel()) == {2} and set(ids[:, 14:].ravel()) == {1}
    )
    colour = np.array(Image.open(tmp_path / "out" / "colour" / "a.png"))
    np.testing.assert_array_equal(colour, np.array(CARD.palette)[ids])
    assert Image.open(tmp_path / "out" / "overlay" / "a.jpg").size == (18, 13)
    with Image.open(tmp_path / "out" / "confidence" / "a.png") as image:
        assert image.mode == "L"
        confidence = np.array(image)
    best = MODEL.predict(tmp_path / "in" / name, probabilities=True, **view).probabilities.max(0)
    np.testing.assert_allclose(confidence, 255 * best, atol=0.51)


def test_broken_images_are_reported_and_the_others_done(tmp_path):
    save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "empty.png").touch()
    whole = save(tmp_path / "in" / "cut.png", size=(300, 200)).read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    seen: list[tuple[str, float, int]] = []

    @contextmanager
    def counting(what):
        yield lambda done, total: seen.append((what, done, total))

    failures = predict([tmp_path / "in"], tmp_path / "out", counting=counting)
    assert [failure.path.name for failure in failures] == ["cut.png", "empty.png"]
    assert all(
        "\n" not in failure.reason and failure.path.name in failure.reason for failure in failures
    )
    assert files_below(tmp_path / "out") == sorted(
        ["classes.png", "predictions.csv", "predictions.jsonl", *image_files("good")]
    )
    assert seen == [("predicting", done, 3) for done in (1, 2, 3)]


def test_photos_that_cannot_be_read_are_not_passed_over(tmp_path):
    save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "phone.HEIC").write_bytes(b"x")
    (tmp_path / "in" / "notes.txt").touch()
    (failure,) = predict([tmp_path / "in"], tmp_path / "out")
    assert "phone.HEIC cannot be decoded (no known image format): replace it by" in failure.reason


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: 9")],
)
def test_an_image_that_does_not_fit_is_reported(tmp_path, monkeypatch, error):
    save(tmp_path / "in" / "a.png")

    def full(*_):
        raise error

    monkeypatch.setattr("u2pl.model.model.predict_probabilities", full)
    (failure,) = predict([tmp_path / "in"], tmp_path / "out")
    assert "18x13" in failure.reason and "--window 512" in failure.reason


def test_names_keep_subfolders_and_tell_suffixes_apart(tmp_path):
    for name in (
        "x.jpg",
        "x.png",
        "sub/x.png",
        "y.v2.png",
        ".hidden/z.png",
        "._x.jpg",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path], tmp_path / "out") == {
        "sub/x": tmp_path / "sub/x.png",
        "x_jpg": tmp_path / "x.jpg",
        "x_png": tmp_path / "x.png",
        "y.v2": tmp_path / "y.v2.png",
    }


def test_of_a_folder_of_data_the_masks_are_no_photos(tmp_path):
    for name in ("images/a.jpg", "images/day/b.jpg", "masks/a.png", "classes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(find_images([tmp_path], tmp_path / "out")) == ["a", "day/b"]
    (tmp_path / "classes.txt").unlink()
    expected = ["images/a", "images/day/b", "masks/a"]
    assert sorted(find_images([tmp_path], tmp_path / "out")) == expected


def test_linked_folders_are_searched_and_thumbnails_are_not(tmp_path):
    for name in ("store/a.jfif", "store/b.jp2", "in/@eaDir/c.jpg", "in/._d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "day").symlink_to(tmp_path / "store")
    assert sorted(find_images([tmp_path / "in"], tmp_path / "out")) == ["day/a", "day/b"]


def test_names_that_a_text_file_cannot_hold(tmp_path):
    for name in ("a\nb.png", "a\x1bb.png", "a\udcffb.png"):
        folder = tmp_path / ascii(name).strip("'").replace("\\", "")
        folder.mkdir()
        (folder / name).touch()
        with pytest.raises(UserError, match=r"rename (the image|it)") as error:
            find_images([folder], tmp_path / "out")
        assert "\n" not in str(error.value)
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "Shot 9.41\u202fAM ü.png").touch()
    assert list(find_images([tmp_path / "mac"], tmp_path / "out")) == ["Shot 9.41\u202fAM ü"]


def test_a_file_meant_twice_and_earlier_predictions_are_not_predicted_again(tmp_path):
    photo = save(tmp_path / "photo.png")
    for _ in range(2):
        assert predict([tmp_path, photo], tmp_path) == []
    assert files_below(tmp_path) == sorted(
        ["classes.png", "photo.png", "predictions.csv", "predictions.jsonl", *image_files("photo")]
    )


def test_wrong_inputs_stop_before_anything_is_written(tmp_path):
    good, out = save(tmp_path / "a" / "x.png"), tmp_path / "out"
    save(tmp_path / "b" / "x.png")
    (tmp_path / "none").mkdir()
    for inputs, words in [
        ([good, tmp_path / "missing.png"], "no such file"),
        ([good, tmp_path / "none"], "holds no image"),
        ([tmp_path / "a", tmp_path / "b"], "would both be written"),
    ]:
        with pytest.raises(UserError, match=words):
            predict(inputs, out)
    with pytest.raises(UserError, match="mode slide needs a crop"):
        predict([good], out, mode="slide")
    assert not out.exists()


def test_an_out_folder_that_is_a_file_is_said(tmp_path):
    photo, out = save(tmp_path / "photo.png"), tmp_path / "out"
    out.touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        predict([photo], out)


# -- what is not done twice, and what is not replaced ----------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def data_folder(root: Path) -> Path:
    """Photos with masks of a person."""
    for name in ("a", "b", "sub/c"):
        save(root / "images" / f"{name}.png")
        save(root / "masks" / f"{name}.png", "L")
    return root


@pytest.mark.parametrize("place", ["ids/a.png", "colour/sub/c.png", "classes.png", "coco.json"])
def test_a_file_that_predict_did_not_write_is_not_replaced(tmp_path, place):
    data = data_folder(tmp_path / "data")
    (data / place).parent.mkdir(parents=True, exist_ok=True)
    (data / place).write_bytes(b"mine")
    before = contents(data)
    with pytest.raises(UserError, match=f"{place} was not written by predict") as refused:
        predict([data / "images"], data, output=Output(formats=("coco",)))
    assert "--overwrite" in str(refused.value)
    assert contents(data) == before
    overwrite = Output(formats=("coco",), overwrite=True)
    assert predict([data / "images"], data, output=overwrite) == []
    after = contents(data)
    assert after.pop(place) != before.pop(place)
    assert before.items() <= after.items()
    # from now on the file is one of ours
    assert predict([data / "images"], data, output=Output(formats=("coco",))) == []


def test_a_prediction_that_was_corrected_by_hand_is_not_replaced(tmp_path):
    data, out = data_folder(tmp_path / "data"), tmp_path / "out"
    assert predict([data / "images"], out) == []
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    assert predict([data / "images"], tmp_path / "copy") == []
    corrected = save(out / "ids" / "b.png", "L")
    mine = corrected.read_bytes()
    with pytest.raises(UserError, match=r"ids/b\.png was not written by predict, or was changed"):
        predict([data / "images"], out)
    assert predict([data / "images"], out, output=Output(resume=True)) == []
    assert corrected.read_bytes() == mine


def test_resuming_predicts_what_is_missing_and_changed(tmp_path, monkeypatch):
    data, out = data_folder(tmp_path / "data"), tmp_path / "out"
    shown: list[int] = []
    real = Model.segment
    monkeypatch.setattr(
        Model, "segment", lambda self, image, *a, **k: shown.append(1) or real(self, image, *a, **k)
    )
    with pytest.raises(UserError, match=r"holds no predictions to go on with; leave --resume out"):
        predict([data / "images"], out, output=Output(resume=True))
    assert not out.exists()
    assert predict([data / "images"], out) == [] and len(shown) == 3
    whole = contents(out)
    for change, predicted in (
        (lambda: None, 0),
        (lambda: (out / "overlay" / "a.jpg").unlink(), 1),
        (lambda: save(data / "images" / "b.png", size=(20, 14)), 1),
        (lambda: save(data / "images" / "d.png"), 1),
    ):
        change()
        shown.clear()
        done = predict_files(MODEL, [data / "images"], out, output=Output(resume=True))
        assert len(shown) == predicted and done.failures == []
        assert done.skipped == len(done.found) - predicted
    for name in ("ids/a.png", "overlay/a.jpg", "confidence/sub/c.png"):
        assert (out / name).read_bytes() == whole[name]
    with pytest.raises(UserError, match="predicted with another ignore-below; leave --resume out"):
        predict([data / "images"], out, output=Output(resume=True, ignore_below=0.5))
    with pytest.raises(UserError, match="predicted with another protocol"):
        predict([data / "images"], out, output=Output(resume=True), flip=True)


def test_a_killed_prediction_goes_on(tmp_path, monkeypatch):
    data, out = data_folder(tmp_path / "data"), tmp_path / "out"
    real, calls = predict_module.write_picture, count()

    def killed(picture, path):
        if next(calls) == 4:  # classes.png and two pictures of a were written, and one of b
            raise KeyboardInterrupt
        real(picture, path)

    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "write_picture", killed)
        with pytest.raises(KeyboardInterrupt):
            predict([data / "images"], out)
    with open(out / "predictions.jsonl", "a") as file:
        file.write('{"found": {"na')
    assert (out / "ids" / "b.png").exists()
    done = predict_files(MODEL, [data / "images"], out, output=Output(resume=True))
    assert done.skipped == 1 and sorted(each.name for each in done.found) == ["a", "b", "sub/c"]
    again = tmp_path / "again"
    assert predict([data / "images"], again) == []
    names = [name for name in files_below(again) if name != "predictions.jsonl"]
    assert [contents(out)[name] for name in names] == [contents(again)[name] for name in names]


BROKEN = {
    "no JSON": ("{\n", "line 1"),
    "another file": ('{"steps": 3}\n', "line 1: steps"),
    "another format": ('{"format": "u2pl-predictions-99"}\n', "line 1 is of another format"),
    "a wrong type": (
        '{"format": "u2pl-predictions-1"}\n{"found": {"name": 3}}\n',
        "line 2: found.name",
    ),
    "no text": ("\xff\xfe\n", "codec"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_manifest_is_an_error_and_not_absent(tmp_path, case):
    data, out = data_folder(tmp_path / "data"), tmp_path / "out"
    text, words = BROKEN[case]
    out.mkdir()
    (out / "predictions.jsonl").write_text(text, encoding="latin-1")
    for output in (Output(), Output(resume=True), Output(overwrite=True)):
        with pytest.raises(UserError, match=r"predictions\.jsonl cannot be read") as error:
            predict([data / "images"], out, output=output)
        assert words in str(error.value)
    assert files_below(out) == ["predictions.jsonl"]


# -- what is known of all images -------------------------------------------------------------------


def test_the_table_has_the_most_doubtful_image_first(tmp_path):
    for name, level in (("sure", 255), ("unsure", 130), ("so-so", 160)):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (level, level, level)).save(path)
    assert predict([tmp_path / "in"], tmp_path / "out", output=Output(ignore_below=0.6)) == []
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["unsure", "so-so", "sure"]
    assert list(rows[0]) == [
        *("image", "confidence", "entropy", "ignored"),
        *(f"share {name}" for name in CARD.classes),
    ]
    prob = torch.tensor([-9.0, 0.5, -0.5]).softmax(0)
    assert float(rows[2]["confidence"]) == pytest.approx(float(prob.max()), abs=1e-6)
    expected = float(torch.special.entr(prob).sum() / np.log(3))
    assert float(rows[2]["entropy"]) == pytest.approx(expected, abs=1e-6)
    # shares are those of what was predicted, also where it was too unsure to be written
    assert [row["share bright"] for row in rows] == ["1.0"] * 3
    assert [row["ignored"] for row in rows] == ["1.0", "1.0", "0.0"]


def test_unsure_pixels_become_ignored_and_training_accepts_the_masks(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    blocks = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    Image.fromarray(blocks).save(data / "images" / "a.png")
    (data / "classes.txt").write_text("".join(f"{name}\n" for name in CARD.classes))
    prob = MODEL.predict(data / "images" / "a.png", probabilities=True).probabilities
    assert predict([data / "images"], data, output=Output(ignore_below=0.6)) == []
    (data / "ids").rename(data / "masks")
    source = open_source(str(data))
    assert source.has_mask("a")
    mask, best = source.mask("a"), prob.max(0)
    clear = np.abs(best - 0.6) > 1 / 255
    np.testing.assert_array_equal((mask == 255)[clear], (best < 0.6)[clear])
    np.testing.assert_array_equal(mask[mask != 255], prob.argmax(0)[mask != 255])
    assert 0 < (mask == 255).mean() < 1
    confidence = np.array(Image.open(data / "confidence" / "a.png"))
    np.testing.assert_array_equal(mask == 255, confidence < 0.6 * 255)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ignore_below": 1.5}, "--ignore-below 1.5"),
        ({"ignore_below": float("nan")}, "--ignore-below nan"),
        ({"min_area": -1}, "--min-area"),
        ({"tolerance": -0.5}, "--tolerance"),
        ({"formats": ("coc",)}, r"--format coc: there is no such format \(did you mean coco\?\)"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(given, words):
    with pytest.raises(UserError, match=words):
        Output(**given)


def test_a_large_image_is_shown_in_parts_and_its_overlay_is_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr("u2pl.model.model.LARGE", 5000)
    monkeypatch.setattr(predict_module, "LARGE", 5000)
    monkeypatch.setattr(predict_module, "OVERLAY", 64)
    path = save(tmp_path / "in" / "a.tif", size=(150, 90))
    seen: list[tuple[float, int]] = []

    @contextmanager
    def counting(what):
        yield lambda done, total: seen.append((done, total))

    model = Model(Bright(), CARD.model_copy(update={"crop": 32}))
    done = predict_files(model, [path], tmp_path / "out", counting=counting)
    assert done.failures == []
    whole = MODEL.predict(path, window=32)
    ids = np.array(Image.open(tmp_path / "out" / "ids" / "a.png"))
    np.testing.assert_array_equal(ids, whole.ids)
    with Image.open(tmp_path / "out" / "colour" / "a.png") as colour:
        np.testing.assert_array_equal(np.array(colour.convert("RGB")), whole.colours())
    assert Image.open(tmp_path / "out" / "overlay" / "a.jpg").size == (50, 30)
    parts = len({done for done, _ in seen})
    assert parts > 10 and seen[-1] == (1, 1)
