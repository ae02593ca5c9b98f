"""What the commands for a trained network print and write."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from core.toy.app import APP, program
from u2pl.cli.commands import evaluate, kept_words
from u2pl.cli.requests import EvaluateRequest
from u2pl.data.opening import open_source
from u2pl.errors import DiskError, UserError
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.model.model import Model

VIEWS: tuple[dict[str, Any], ...] = ({}, {"flip": True}, {"flip": True, "crf": True})
WORDS = [
    "whole image, single scale",
    "whole image, single scale, with flip",
    "whole image, single scale, with flip, dense CRF",
]


@pytest.fixture
def saved(model: Model, make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A model that names its data: two images to score on, one to test with."""
    masks = {"a": [0, 1, 2], "b": [0], "c": [255, 2], "d": [1]}
    data = make_folder(masks, train="d\n", val="a\nb\n", test="c\n")
    named = model.card.model_copy(update={"source": str(data)})
    Model(model.network, named).save(tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def crf(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether there is a package for the CRF; the one that there is answers class 0 everywhere."""

    class AllBackground:
        def __init__(self, width: int, height: int, classes: int) -> None:
            self.answer = np.eye(1, classes).T.repeat(height * width, axis=1)

        def setUnaryEnergy(self, _: np.ndarray) -> None: ...
        def addPairwiseGaussian(self, **_: Any) -> None: ...
        def addPairwiseBilateral(self, **_: Any) -> None: ...
        def inference(self, _: int) -> np.ndarray:
            return self.answer

    def choose(there: bool) -> None:
        module = ModuleType("pydensecrf.densecrf")
        module.DenseCRF2D = AllBackground  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pydensecrf", ModuleType("pydensecrf") if there else None)
        monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module if there else None)

    return choose


def scored(path: Path, views: tuple[dict[str, Any], ...], **asked: Any) -> dict[str, Score]:
    request = EvaluateRequest(checkpoint=path, cpu=True, **asked)
    return evaluate(replace(APP, views=views), request)  # type: ignore[return-value]


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("evaluation-*.json"))]


def test_each_view_is_a_column_and_a_file(
    saved: Path, crf: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    crf(True)
    scores = scored(saved, VIEWS)
    printed = capsys.readouterr().out
    assert list(scores) == WORDS and "left out" not in printed
    assert scores[WORDS[2]].per_class_iou[0] == scores[WORDS[2]].pixel_accuracy > 0
    assert not any(scores[WORDS[2]].per_class_iou[1:])
    assert f"{scores[WORDS[0]].miou:.2f}" in printed
    assert {entry["protocol"]: entry["miou"] for entry in written(saved)} == {
        words: score.miou for words, score in scores.items()
    }


def test_a_crf_that_is_missing_leaves_its_column_out_and_says_so(
    saved: Path, crf: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    crf(False)
    assert list(scored(saved, VIEWS)) == WORDS[:2]
    said = "left out: dense CRF needs the optional package pydensecrf2, which is not installed: "
    assert capsys.readouterr().out.count(said) == 1
    with pytest.raises(UserError, match="dense CRF needs the optional package"):
        scored(saved, VIEWS[2:])


def test_what_is_asked_for_is_the_only_column(saved: Path) -> None:
    assert list(scored(saved, VIEWS, flip=True)) == WORDS[1:2]
    views = scored(saved, VIEWS[:2], mode="slide", crop=8)
    assert list(views) == [
        "sliding window 8, stride 6, single scale",
        "sliding window 8, stride 6, single scale, with flip",
    ]


def test_what_is_written_is_what_a_model_scores(saved: Path, model: Model) -> None:
    """`Model.evaluate` in Python and `evaluate` on the command line are the same."""
    data = saved.parent / "photos"
    source = open_source(str(data))
    for words, split in ((["--split", "test", "--flip"], "test"), (["--flip"], "val")):
        result = CliRunner().invoke(program, ["evaluate", str(saved), "--cpu", *words])
        assert result.exit_code == 0, result.output
        assert f"photos, split {split}" in result.output
    expected = [
        {
            "data": "photos",
            "fingerprint": source.fingerprint(),
            "split": split,
            "protocol": EvaluationProtocol(flip=True).describe(),
            **model.evaluate(data, split, flip=True)._asdict(),
        }
        for split in ("test", "val")
    ]
    assert written(saved) == expected


def test_scores_on_data_of_the_same_name_lie_beside_each_other(saved: Path) -> None:
    data = saved.parent / "photos"
    other = Path(shutil.copytree(data, saved.parent / "elsewhere" / "photos"))
    Image.effect_noise((6, 4), 99).convert("RGB").save(other / "images" / "a.png")
    for place in (data, other, data):
        scored(saved, VIEWS[:1], data=str(place))
    assert len({entry["fingerprint"] for entry in written(saved)}) == len(written(saved)) == 2
    scored(saved, VIEWS[:1], data=str(shutil.copytree(other, saved.parent / "城市乙")))
    assert len(list(saved.glob("evaluation-城市乙-val-*.json"))) == 1


def test_where_nothing_can_be_written_the_scores_are_said(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: object) -> None:
        raise DiskError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("u2pl.cli.keeping.write_json", refuse)
    result = CliRunner().invoke(program, ["evaluate", str(saved), "--cpu"])
    assert result.exit_code == 0 and "mIoU" in result.output
    assert "note: not written down: cannot write" in result.output


def test_scores_of_a_network_that_was_replaced_meanwhile_are_not_put_beside_the_new_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on writes its network after each evaluation."""
    real = Model.score

    def replaced(model: Model, *rest: Any) -> Any:
        scores = {**model.card.scores, "step": 7}
        Model(model.network, model.card.model_copy(update={"scores": scores})).save(saved)
        return real(model, *rest)

    monkeypatch.setattr(Model, "score", replaced)
    result = CliRunner().invoke(program, ["evaluate", str(saved), "--cpu"])
    assert result.exit_code == 0 and "mIoU" in result.output
    assert f"note: not written down: training has written another network to {saved}" in (
        result.output
    )
    assert written(saved) == []


def test_a_model_that_names_no_data_asks_for_it(saved: Path, model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "unnamed")
    with pytest.raises(UserError, match=r"unnamed does not say which data .*: add --data"):
        scored(tmp_path / "unnamed", VIEWS[:1])
    data = str(saved.parent / "photos")
    assert scored(tmp_path / "unnamed", VIEWS[:1], data=data) == scored(saved, VIEWS[:1])


def test_predict_writes_masks_and_says_how_many(saved: Path, model: Model, tmp_path: Path) -> None:
    images, out = saved.parent / "photos" / "images", tmp_path / "out"
    words = ["predict", str(saved), str(images), "--out", str(out), "--cpu", "--flip"]
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 0, result.output
    assert "4 images in" in result.output
    ids = np.asarray(Image.open(out / "ids" / "a.png"))
    assert np.array_equal(ids, model.predict(images / "a.png", flip=True).ids)
    (images / "b.png").write_bytes(b"")
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2 and "3 images in" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: 1 of the images could not be predicted: ") and "b.png" in line
    words[2] = str(images / "b.png")
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2 and "images in" not in result.stdout


def test_predict_turns_photos_as_viewers_do_unless_told_otherwise(
    saved: Path, model: Model, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (36, 40, 3), np.uint8)
    for name in ("turned", "plain"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(
            tmp_path / "in" / f"{name}.png", **({"exif": exif} if name == "turned" else {})
        )
    words = ["predict", str(saved), str(tmp_path / "in"), "--cpu", "--out"]
    upright = CliRunner().invoke(program, [*words, str(tmp_path / "up")])
    stored = CliRunner().invoke(program, [*words, str(tmp_path / "as"), "--stored-pixels"])
    assert upright.exit_code == stored.exit_code == 0, upright.output
    assert "EXIF turns 1 of them: predicted as viewers show them, upright; --st" in upright.output
    assert "EXIF turns 1 of them: predicted as they are stored" in stored.output
    ids = {
        (out, name): np.asarray(Image.open(tmp_path / out / "ids" / f"{name}.png"))
        for out in ("up", "as")
        for name in ("turned", "plain")
    }
    assert Image.open(tmp_path / "up" / "overlay" / "turned.jpg").size == (36, 40)
    turned = np.ascontiguousarray(np.rot90(noise, -1))
    assert np.array_equal(ids["up", "turned"], model.predict(turned).ids)
    plain = model.predict(noise).ids
    for each in (("up", "plain"), ("as", "plain"), ("as", "turned")):
        assert np.array_equal(ids[each], plain)
    assert np.array_equal(model.predict(Image.open(tmp_path / "in" / "turned.png")).ids, plain)


def summary(options: dict[str, Any], **mious: float) -> dict[str, Any]:
    networks = {name: {"miou": miou} for name, miou in mious.items()}
    return {
        "method": "mine",
        "network": next(iter(mious)),
        "networks": networks,
        "options": {"method": options},
    }


def test_the_last_line_says_which_network_was_kept_and_why() -> None:
    assert kept_words(summary({}, teacher=60.0, student=59.0)) == (
        "kept: the teacher, in last/ and best/"
    )
    lower = kept_words(summary({"evaluate": "teacher"}, teacher=61.78, student=63.97))
    assert lower == (
        "kept: the teacher, in last/ and best/, as method.evaluate says. The student scored "
        "higher, 63.97 to 61.78: to choose by scores flatters; with --set method.evaluate=student "
        "it would have been kept"
    )
    ruled = kept_words(summary({}, teacher=61.78, student=63.97))
    assert "as the method mine says. The student" in ruled and "--set" not in ruled
    assert kept_words({"network": "student", "options": {"method": {}}}) == (
        "kept: the student, in last/"
    )
