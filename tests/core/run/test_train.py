"""What is said while a run goes on, in which order, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.toy.app import APP, ToyRequest, program
from core.toy.methods.plain import Plain
from core.toy.task import ToyTask
from u2pl.counting import silently
from u2pl.run.recipe import Recipe
from u2pl.run.train import HEADER, Silent, _scoring_steps, train


class Listening(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.left: dict[int, float | None] = {}

    def say(self, line: str) -> None:
        self.said.append(line)

    @contextmanager
    def training(self) -> Iterator[Listening]:
        yield self

    def step(self, step: int, total: int, entries: Any, left: float | None) -> None:
        self.said.append(f"step {step}")
        self.left[step] = left

    def phase(self, text: str) -> None:
        self.said.append(text)


def listened(out: Path, **values: Any) -> Listening:
    listening = Listening()
    usual = {"method": "plain", "preset": "light", "most_images": 4, "cpu": True}
    train(APP, ToyRequest.of(**usual | values, out=out), listening)
    return listening


WARM = ["method.warm_start=0.5", "train.log_every=1", "train.steps=4"]


def test_the_header_is_short_and_says_where_the_options_are(tmp_path: Path) -> None:
    said = listened(tmp_path / "run").said
    header = said[: said.index("step 1")]
    assert len(header) <= HEADER
    assert header[-1] == (
        f"writing to {tmp_path / 'run'}; every option is in its config.json, what it means: "
        "u2pl-toy show plain --preset light"
    )
    shown = CliRunner().invoke(program, header[-1].partition("u2pl-toy ")[2].split())
    assert shown.exit_code == 0 and "warm_start" in shown.stdout


def test_more_notes_than_there_is_room_for_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyTask, "own_notes", lambda _: [f"note {n}" for n in range(9)])
    said = listened(tmp_path / "run").said
    header = said[: said.index("step 1")]
    assert len(header) == HEADER
    assert header[3:6] == ["note: note 0", "note: note 1", "note: 7 more, which doctor lists"]


def test_the_end_of_the_warm_start_is_said_when_it_comes(tmp_path: Path) -> None:
    said = listened(tmp_path / "run", set=WARM).said
    words = f"warm start over after step 2: {Plain.joining} from here"
    assert said[said.index("step 1") :] == ["step 1", "step 2", words, "step 3", "step 4"]


@pytest.mark.parametrize("share", [0, 1])
def test_without_two_phases_nothing_is_over(tmp_path: Path, share: int) -> None:
    said = listened(tmp_path / "run", set=[*WARM, f"method.warm_start={share}"]).said
    assert not any("warm start over" in line for line in said)


def test_the_time_left_is_known_once_a_step_was_timed(tmp_path: Path) -> None:
    left = listened(tmp_path / "run", set=[*WARM, "train.evaluations=2"]).left
    assert left[1] is None and left[4] == 0
    assert left[2] is not None and left[3] is not None and left[2] > left[3] > 0


def scoring_steps(**values: Any) -> float:
    request = ToyRequest(method="plain", preset="light", most_images=4, **values)
    task = APP.task_module.make_task(APP, request, Recipe.of_request(APP, request), silently)
    return _scoring_steps(task, task.build_method())


def test_scoring_is_estimated_from_pixels_networks_and_views() -> None:
    once = scoring_steps()
    # 4 images of 96 pixels by two networks; steps of two crops of 32 pixels, forward and backward
    assert once == pytest.approx(2 * 4 * 96**2 / (3 * 2 * 32**2))
    assert scoring_steps(set=["evaluate.flip=true"]) == pytest.approx(2 * once)
    assert scoring_steps(set=["evaluate.scales=[1, 2]"]) == pytest.approx(5 * once)
    assert scoring_steps(set=["evaluate.long_side=48"]) == pytest.approx(once / 4)
    assert scoring_steps(set=["train.batch=4"]) == pytest.approx(once / 2)


@pytest.mark.parametrize("name", ["semi", "domain_adapt", "weak"])
def test_every_apps_methods_say_what_joins(name: str) -> None:
    from u2pl.methods.discovery import known_methods, load_method
    from u2pl.run.app import find_app

    app = find_app(name)
    words = {
        load_method(f"{app.package}.methods", app.methods, method).joining
        for method in known_methods(app.methods)
    }
    expected = {
        "semi": {"the unlabelled images join"},
        "domain_adapt": {"the unlabelled images join", "prototypes and the contrast join"},
        "weak": {"the labels made from the activation maps join"},
    }
    assert words == expected[name]
