from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from core.toy.app import APP, ToyRequest
from u2pl.errors import UserError
from u2pl.run import tracking
from u2pl.run.tracking import check_trackers
from u2pl.run.train import train

SMALL = {
    "method": "plain", "preset": "light", "most_images": 12, "cpu": True, "steps": 4,
    "set": ["train.evaluations=2", "train.log_every=1"],
}  # fmt: skip


class Recorder:
    """A tracker that remembers what it is told."""

    name, requires_logging_directory = "recorder", True
    made: ClassVar[list[Recorder]] = []
    fails_at: ClassVar[tuple[str, int] | None] = None

    def __init__(self, run: str, logging_dir: Path) -> None:
        self.run, self.folder, self.told = run, logging_dir, []
        self.config: dict[str, Any] = {}
        self.pictures: dict[str, np.ndarray] = {}
        self.finished = False
        self.made.append(self)

    def start(self) -> None:
        if self.fails_at == ("start", 0):
            raise RuntimeError("not\nlogged in")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.fails_at == ("log", step):
            raise OSError("no network")
        self.told.append((step, values))

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        self.pictures = values

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["recorder"])
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(Recorder, "fails_at", None)
    return Recorder


def test_losses_scores_and_pictures_arrive(recorder: type[Recorder], tmp_path: Path) -> None:
    run = train(APP, ToyRequest.of(out=tmp_path / "mine", track=["recorder"], **SMALL))
    (found,) = recorder.made
    assert found.run == "mine" and found.folder == tmp_path / "mine" / "tracking"
    assert found.finished
    assert found.config["options.train.batch"] == 2 and found.config["seed"] == 0
    losses = {step: values["loss/sup"] for step, values in found.told if "loss/sup" in values}
    assert sorted(losses) == [1, 2, 3, 4]
    scores = {step: values for step, values in found.told if "miou/student" in values}
    assert sorted(scores) == [2, 4]
    last = run.scores["student"]
    assert scores[4]["miou/student"] == last.miou
    names = run.summary["classes"]
    assert [scores[4].get(f"iou/student/{name}") for name in names] == last.per_class_iou
    assert found.pictures["predictions"].shape[-1] == 3


def test_a_tracker_that_fails_does_not_end_the_run(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "fails_at", ("log", 2))
    run = train(APP, ToyRequest.of(out=tmp_path / "mine", track=["recorder"], **SMALL))
    assert run.summary["steps"] == 4
    (found,) = recorder.made
    assert {step for step, _ in found.told} == {1}


def test_one_that_does_not_start_is_one_line_and_leaves_nothing(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "fails_at", ("start", 0))
    with pytest.raises(UserError, match=r"^--track recorder does not start: not logged in$"):
        train(APP, ToyRequest.of(out=tmp_path / "mine", track=["recorder"], **SMALL))
    assert not (tmp_path / "mine").exists()


def test_unknown_and_missing_trackers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(UserError, match=r"no such tracker \(did you mean tensorboard\?\)"):
        check_trackers(["tensorbord"])
    with pytest.raises(UserError, match=r"--track comet_ml: .* uv pip install comet-ml"):
        check_trackers(["comet_ml"])
    check_trackers([])


def test_numbers_of_each_class_are_named_by_it() -> None:
    told = []

    class Listener:
        name = "listener"

        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values))

    class Quiet:
        def step(self, *_: object) -> None: ...

    tracked = tracking.Tracked(Quiet(), [Listener()], ("background", "fish", "star"))  # type: ignore[arg-type, list-item]
    tracked.step(5, 9, {"lr": 0.1, "anchors": [1.0, 2.0], "queue_fill": [0.1, 0.2, 0.3]}, 8.0)
    assert told == [
        (5, {
            "lr": 0.1, "anchors/fish": 1.0, "anchors/star": 2.0, "queue_fill/background": 0.1,
            "queue_fill/fish": 0.2, "queue_fill/star": 0.3,
        })
    ]  # fmt: skip
