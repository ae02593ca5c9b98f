from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from u2pl.data.geo.scaling import Scaling
from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.model.card import Card
from u2pl.model.model import Model, as_pixels, choose_device, load
from u2pl.networks.segmentor import Segmentor


def pixels(height: int = 33, width: int = 47, channels: int = 3) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.filterwarnings("error")
def test_every_form_of_an_image_is_predicted_alike(model: Model, tmp_path: Path) -> None:
    image, path = pixels(), tmp_path / "image.png"
    Image.fromarray(image).save(path)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = model.predict(path, probabilities=True)
    assert set(expected.ids.ravel()) == {0, 1, 2} and np.array_equal(expected.image, image)
    for same in (
        str(path),
        Image.fromarray(image),
        image,
        image / 255,
        (image / 255).astype(np.float32),
        np.asfortranarray(image),
        tensor,
        tensor / 255,
        (tensor / 255).half(),
        (tensor / 255).requires_grad_(),
    ):
        found = model.predict(same, probabilities=True)
        assert np.array_equal(found.image, image)
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.probabilities, expected.probabilities)


def test_a_grey_image_is_its_grey_in_three_channels(model: Model, tmp_path: Path) -> None:
    grey, path = pixels(channels=1), tmp_path / "grey.png"
    Image.fromarray(grey[..., 0]).save(path)
    expected = model.predict(np.repeat(grey, 3, axis=2), probabilities=True)
    for same in (
        path,
        Image.open(path),
        grey,
        grey[..., 0],
        grey[..., 0] / 255,
        torch.from_numpy(grey[..., 0]),
        torch.from_numpy(grey).permute(2, 0, 1),
    ):
        found = model.predict(same, probabilities=True)
        assert np.array_equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((4, 4, 4), np.uint8), r"shape .* not \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (torch.zeros(4, 3, 4), "shape"),
        (np.zeros((4, 4, 3), np.int64), "uint8, or floating point .* not int64"),
        (np.zeros((4, 4), bool), "not bool"),
        (np.full((4, 4, 3), 1.5), r"must lie in \[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"must lie in \[0, 1\]"),
        (np.full((4, 4), np.nan), r"must lie in \[0, 1\]"),
        ([[0, 1], [2, 3]], "a file, a PIL image, an array or a tensor"),
        (None, "a file, a PIL image, an array or a tensor"),
        (Path("absent.png"), "absent.png does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_one_line(wrong: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        as_pixels(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("view", [{}, {"flip": True, "scales": [0.5, 1.0]}], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 64), (33, 47)], ids=str)
def test_any_size_has_ids_and_probabilities(
    model: Model, size: tuple[int, int], view: dict[str, Any]
) -> None:
    found = model.predict(pixels(*size), probabilities=True, **view)
    assert found.ids.shape == size and found.ids.dtype == np.uint8
    assert found.probabilities.shape == (3, *size) and found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)
    assert np.array_equal(found.probabilities.argmax(0), found.ids)
    assert model.predict(pixels(*size), **view).probabilities is None


def test_a_prediction_can_be_looked_at(model: Model) -> None:
    found = model.predict(pixels())
    colours = np.asarray(found.colours())
    assert np.array_equal(colours, model.palette[found.ids])
    assert found.overlay(0.25).size == (47, 33)
    shares = found.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == {
        model.classes[id]: pytest.approx((found.ids == id).mean()) for id in np.unique(found.ids)
    }


def test_predicting_changes_nothing_in_a_network_that_trains(model: Model) -> None:
    expected = model.predict(pixels()).ids
    model.network.train()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    assert np.array_equal(model.predict(pixels()).ids, expected)
    assert model.network.training
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


def test_what_is_saved_is_loaded(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "last"
    model.save(folder)
    expected = model.predict(pixels(), probabilities=True)
    for path in (folder, str(folder), tmp_path / "run", folder / "model.safetensors"):
        loaded = load(path, "cpu")
        assert loaded.card.model_copy(update={"normalisation": None}) == model.card
        assert loaded.device == torch.device("cpu") and not loaded.network.training
        found = loaded.predict(pixels(), probabilities=True)
        assert np.array_equal(found.probabilities, expected.probabilities)
    assert loaded.to("cpu") is loaded
    assert choose_device(cpu=True) == torch.device("cpu")


def test_what_a_view_does_not_say_is_the_networks_own(model: Model) -> None:
    own = EvaluationProtocol(mode="slide", crop=32, flip=True)
    model.card = model.card.model_copy(update={"protocol": own, "crop": 64})
    assert model.protocol() == own
    assert model.protocol(crf=True, scales=None, flip=None) == own.model_copy(update={"crf": True})
    assert model.protocol(scales=[0.5, 1.0]).scales == (0.5, 1.0)
    model.card = model.card.model_copy(update={"protocol": EvaluationProtocol()})
    assert model.protocol(mode="slide").side() == 64  # the crop of its training


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ({"scales": [-1.0]}, "scales.0: .*greater than 0"),
        ({"mode": "slid"}, "mode: "),
        ({"mode": "slide"}, "mode slide needs a crop"),
        ({"flp": True}, r"no option 'flp' \(did you mean flip\?\)"),
    ],
)
def test_views_that_make_no_sense_are_one_line(
    model: Model, view: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        model.predict(pixels(), **view)
    assert "\n" not in str(caught.value)


def test_a_crf_that_is_missing_is_said_before_anything_runs(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.setattr(Segmentor, "forward", lambda *_: pytest.fail("ran"))
    with pytest.raises(UserError, match="dense CRF needs"):
        model.predict(pixels(), crf=True)
    with pytest.raises(UserError, match="dense CRF needs"):
        model.score(None, ["a"], EvaluationProtocol(crf=True))  # type: ignore[arg-type]


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    masks = {"a": [0, 1, 2], "b": [0], "c": [255, 2], "d": [1]}
    return make_folder(masks, train="d\n", val="a\nb\n", test="c\n")


def test_a_score_is_that_of_its_predictions(model: Model, data: Path) -> None:
    source, seen = open_source(str(data)), list[tuple[int, int]]()
    score = model.evaluate(data, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    hits = [model.predict(source.image(id)).ids == source.mask(id) for id in ("a", "b")]
    assert score.pixel_accuracy == pytest.approx(100 * np.mean(hits))
    assert len(score.per_class_iou) == 3
    flipped = model.evaluate(data, flip=True)
    assert flipped == model.score(source, ["a", "b"], EvaluationProtocol(flip=True))
    assert model.evaluate(str(data), "test") == model.score(source, ["c"], EvaluationProtocol())


def test_its_own_data_and_split_are_scored_unless_told(model: Model, data: Path) -> None:
    with pytest.raises(UserError, match="say which data to score on"):
        model.evaluate()
    model.card = model.card.model_copy(update={"source": str(data), "split": "test"})
    assert model.open_scored(None, None)[1] == ["c"]
    assert model.open_scored(None, "train")[1] == ["d"]
    assert model.open_scored(str(data), None)[1] == ["a", "b"]
    assert model.evaluate() == model.evaluate(data, "test")


def test_data_of_other_classes_is_refused(model: Model, card: Card, data: Path) -> None:
    other = Model(model.network, card.model_copy(update={"classes": ("background", "dog", "cat")}))
    with pytest.raises(UserError, match=r"photos has 3 .*cat, dog.*the network has 3 .*dog, cat"):
        other.evaluate(data)


def test_data_of_other_numbers_is_refused(model: Model, card: Card, data: Path) -> None:
    deep = Scaling(kind="uint16", bands=(1, 2, 3), low=(0, 0, 0), high=(9, 9, 9))
    other = Model(model.network, card.model_copy(update={"scaling": deep}))
    with pytest.raises(
        UserError, match="photos holds uint8, and the network was trained on uint16"
    ):
        other.evaluate(data)


def test_sixteen_bits_are_scaled_whether_opened_before_or_not(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(pixels(channels=1)[..., 0].astype(np.uint16) * 257).save(path)
    assert np.array_equal(model.predict(path).image, model.predict(Image.open(path)).image)
    assert model.predict(path).image.std() > 0


def test_a_prediction_keeps_its_image(model: Model) -> None:
    image = pixels()
    prediction = model.predict(image)
    image[:] = 0
    assert prediction.image.any()


def test_what_is_no_file_is_said_in_the_words_of_a_prediction(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, not an image: predict takes one"):
        model.predict(tmp_path)
    with pytest.raises(UserError, match=r"none\.jpg': there is no such file"):
        model.predict(str(tmp_path / "none.jpg"))


def test_a_notebook_shows_them_in_a_line(model: Model) -> None:
    network = model.card.network
    words = f"{network.encoder} {network.decoder}, {len(model.classes)} classes, on cpu"
    assert repr(model) == f"Model({words})"
    prediction = model.predict(pixels())
    name, share = next(iter(prediction.shares().items()))
    height, width = prediction.ids.shape
    assert f"{width}x{height} pixels: {name} {100 * share:.1f} %" in repr(prediction)
    assert len(repr(prediction)) < 200 and "\n" not in repr(prediction)


def test_a_truncated_image_is_one_line(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(pixels()).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"cut\.png cannot be decoded"):
        model.predict(Image.open(path))
