from __future__ import annotations

import json
import re
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
    """Three steps on the demo, all of whose val images are scored."""
    out = tmp_path_factory.mktemp("runs") / "run"
    request = ToyRequest.of(method="plain", preset="light", out=out, cpu=True)
    return train(APP, request)


def test_a_run_knows_what_it_has_done(run: Run) -> None:
    assert run.summary["steps"] == 3 and run.summary["method"] == "plain"
    assert run.summary["labeled"] == 332 and run.summary["network"] == "student"
    assert list(run.scores) == ["student", "ema"]
    assert isinstance(run.scores["student"], Score)
    assert run.scores["student"].miou == run.summary["miou_last"]


def test_its_networks_are_models_that_score_as_it_says(run: Run) -> None:
    assert run.model.card.method == "plain" and run.model.card.crop == 32
    assert run.model.evaluate() == run.scores["student"]
    image = np.zeros((20, 30, 3), np.uint8)
    assert np.array_equal(run.best.predict(image).ids, run.model.predict(image).ids)


def test_it_goes_on_only_as_it_began(run: Run) -> None:
    again = ToyRequest.of(method="plain", preset="light", out=run.folder, cpu=True)
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


def scores(iou: str, miou: str) -> str:
    """A summary of two classes."""
    score = f'{{"per_class_iou": {iou}, "miou": {miou}, "pixel_accuracy": 1.0}}'
    return f'{{"classes": ["a", "b"], "networks": {{"student": {score}}}}}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no finished run: it has no summary.json"),
        ("{", "summary.json cannot be read"),
        ("[1]", "summary.json is not the summary of a run"),
        ("[" * 100_000, "summary.json cannot be read (it is nested too deep)"),
        ('{"seconds": "long"}', "is not the summary of a run: seconds: "),
        ('{"networks": [1]}', "is not the summary of a run: networks: "),
        ('{"networks": {"student": {"miou": null}}}', "of a run: networks.student.per_class_iou: "),
        (scores("[1.0]", "null"), "is not the summary of a run: networks.student.miou: "),
        (scores("[1.0]", "1e999"), "is not the summary of a run: networks.student.miou: "),
        (scores('["much"]', "1.0"), "of a run: networks.student.per_class_iou.0"),
        (scores("[1.0]", "1.0"), "student has 1 scores for 2 classes"),
        (
            scores("[1.0, 1.0]", "1.0")[:-1] + ', "network": "ema"}',
            "it has no scores of the ema, which was kept",
        ),
        ('{"steps": true}', "is not the summary of a run: steps: "),
        ('{"steps": 1, "steps": 2}', "it has the key 'steps' twice"),
        ('{"versions": "new"}', "is not the summary of a run: versions: "),
    ],
)
def test_what_is_no_finished_run_is_said(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        _ = Run(tmp_path).summary
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="no trained network"):
        _ = Run(tmp_path).model


def test_what_is_said_of_a_finished_run_is_there(run: Run, tmp_path: Path) -> None:
    assert run.whole_summary == run.summary
    for name in ("split", "miou_best"):
        held = {key: value for key, value in run.summary.items() if key != name}
        (tmp_path / "summary.json").write_text(json.dumps(held))
        with pytest.raises(UserError, match=rf"does not say {name}: delete it, and train --resume"):
            _ = Run(tmp_path).whole_summary
