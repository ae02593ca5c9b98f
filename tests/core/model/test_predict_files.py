from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.predict_files import find_images, predict_files
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


def predict(inputs: list[Path], out: Path, progress=None, **view):
    return predict_files(Model(Bright(), CARD), inputs, out, progress, **view)


@pytest.mark.parametrize(
    "view",
    [{}, {"mode": "slide", "crop": 8}, {"mode": "center-crop", "crop": 4}],
    ids=str,
)
@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.jpg"), ("RGBA", "a.png"), ("L", "a.png"), ("I;16", "a.png"), ("P", "a.gif")],
)
def test_every_kind_of_image_gets_three_files_of_its_size(tmp_path, mode, name, view):
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


def test_broken_images_are_reported_and_the_others_done(tmp_path):
    save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "empty.png").touch()
    whole = save(tmp_path / "in" / "cut.png", size=(300, 200)).read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    seen = []
    failures = predict(
        [tmp_path / "in"], tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert [failure.path.name for failure in failures] == ["cut.png", "empty.png"]
    assert all(
        "\n" not in failure.reason and failure.path.name in failure.reason for failure in failures
    )
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "classes.png",
        "good.jpg",
        "good.png",
        "good.png",
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]


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
    assert "18x13" in failure.reason and "--mode slide" in failure.reason


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


def test_linked_folders_are_searched_and_thumbnails_are_not(tmp_path):
    for name in ("store/a.jfif", "store/b.jp2", "in/@eaDir/c.jpg", "in/._d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "day").symlink_to(tmp_path / "store")
    assert sorted(find_images([tmp_path / "in"], tmp_path / "out")) == ["day/a", "day/b"]


def test_a_file_meant_twice_and_earlier_predictions_are_not_predicted_again(tmp_path):
    photo = save(tmp_path / "photo.png")
    for _ in range(2):
        assert predict([tmp_path, photo], tmp_path) == []
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "classes.png",
        "colour/photo.png",
        "ids/photo.png",
        "overlay/photo.jpg",
        "photo.png",
    ]


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
