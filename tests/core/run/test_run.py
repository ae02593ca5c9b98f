from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.toy.app import APP, ToyRequest
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.model.model import Model
from u2pl.run.run import Run
from u2pl.run.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps on four images of the demo."""
    out = tmp_path_factory.mktemp("runs") / "run"
    request = ToyRequest.of(method="plain", preset="light", most_images=4, out=out, cpu=True)
    return train(APP, request)


def test_a_run_knows_what_it_has_done(run: Run) -> None:
    assert run.summary["steps"] == 3 and run.summary["method"] == "plain"
    assert run.summary["labeled"] == 4 and run.summary["network"] == "student"
    assert list(run.scores) == ["student", "ema"]
    assert isinstance(run.scores["student"], Score)
    assert run.scores["student"].miou == run.summary["miou_last"]


def test_its_networks_are_models_that_score_as_it_says(run: Run) -> None:
    assert run.model.card.method == "plain" and run.model.card.crop == 32
    assert run.model.evaluate() == run.scores["student"]
    image = np.zeros((20, 30, 3), np.uint8)
    assert np.array_equal(run.best.predict(image).ids, run.model.predict(image).ids)


def test_it_goes_on_only_as_it_began(run: Run) -> None:
    again = ToyRequest.of(method="plain", preset="light", most_images=4, out=run.folder, cpu=True)
    with pytest.raises(UserError, match="is not empty"):
        train(APP, again)
    with pytest.raises(UserError, match="started with another seed"):
        train(APP, ToyRequest.of(**vars(again) | {"seed": 1, "resume": True}))
    assert train(APP, ToyRequest.of(**vars(again) | {"resume": True})).scores == run.scores


def test_without_a_score_the_last_network_is_the_best(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "last")
    (tmp_path / "summary.json").write_text("{}")
    assert Run(tmp_path).scores == {}
    unscored = Run(tmp_path)
    assert unscored.best is unscored.model


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no finished run: it has no summary.json"),
        ("{", "summary.json cannot be read"),
        ("[1]", "summary.json is not the summary of a run"),
    ],
)
def test_what_is_no_finished_run_is_said(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=says):
        _ = Run(tmp_path).summary
    with pytest.raises(UserError, match="no trained network"):
        _ = Run(tmp_path).model
