"""A method outside of the package, in a file that is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import u2pl
from core.toy.app import APP, ToyRequest, program
from u2pl.errors import UserError
from u2pl.run.baseline import baseline_request
from u2pl.run.run import Run

METHOD = '''"""Twice the loss of labelled images."""

from __future__ import annotations

from pydantic import Field

from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.methods.step import StepResult
from u2pl.schedules import Progress


class TwiceConfig(LabeledMethodConfig):
    """Options of twice."""

    factor: float = Field(2.0, gt=0, description="of the loss")


class Twice(LabeledMethod[PairBatch]):
    """L = factor L_s."""

    Config = TwiceConfig
    config: TwiceConfig
    uses_unlabeled = False

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        result = self.supervised_step(batch.image_l, batch.label_l)
        return result._replace(loss=self.config.factor * result.loss)
'''
WORDS = ("--cpu", "--most-images", "4", "--preset", "light", "--set", "method.factor=3")


def ran(*words: Any) -> Any:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def refused(*words: Any) -> str:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `twice.py`, which lies beside it."""
    root = tmp_path_factory.mktemp("own")
    (root / "twice.py").write_text(METHOD)
    ran("train", "--method-file", root / "twice.py", *WORDS, "--out", root / "run")
    return root / "run"


def test_its_file_names_it_and_is_recorded_with_a_digest(run: Path) -> None:
    config, file = json.loads((run / "config.json").read_text()), run.parent / "twice.py"
    assert config["method_name"] == "twice" and config["method_file"] == str(file)
    assert config["method_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert config["options"]["method"]["factor"] == 3.0
    assert json.loads((run / "summary.json").read_text())["method"] == "twice"


def test_it_is_shown_and_examined(run: Path, patience: None) -> None:
    file = run.parent / "twice.py"
    rows = {
        row.split()[0]: row.split()[1:]
        for row in ran("show", "--method-file", file).stdout.splitlines()
    }
    assert rows["method.factor"] == ["2.0", "of", "the", "loss"]
    said = ran("doctor", "--method-file", file, "--preset", "light", "--cpu").stdout
    assert "twice with preset light" in said
    assert f"ready: u2pl-toy train twice --preset light --method-file {file} --cpu" in said


def test_what_it_trained_needs_it_no_more(run: Path, tmp_path: Path) -> None:
    file = run.parent / "twice.py"
    text = file.read_text()
    file.unlink()
    try:
        assert "mIoU" in ran("evaluate", run, "--cpu").stdout
        model = u2pl.load(run)
        assert model.card.method == "twice"
        image = np.zeros((20, 30, 3), np.uint8)
        assert model.predict(image).ids.shape == (20, 30)
        assert Run(run).summary["method"] == "twice"
        ran("report", run)
        ran("train", "--resume", run)  # it is finished
    finally:
        file.write_text(text)


def test_a_run_finds_its_file_again_or_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    (run / "summary.json").unlink()
    file = run.parent / "twice.py"
    text = file.read_text()
    assert "going on after step 3 of 3" in ran("train", "--resume", run).stdout
    (run / "summary.json").unlink()
    file.unlink()
    line = refused("train", "--resume", run)
    assert f"was in {file}, which is not there" in line and "--method-file" in line
    moved = tmp_path / "elsewhere.py"
    moved.write_text(text.replace("loss of", "los of"))
    line = refused("train", "--resume", run, "--method-file", moved)
    assert "is not the method that" in line and "start a new run" in line
    moved.write_text(text)
    ran("train", "--resume", run, "--method-file", moved)
    file.write_text(text)
    # the whole command once more, too
    (run / "summary.json").unlink()
    ran("train", "--method-file", file, *WORDS, "--out", run, "--resume")
    file.write_text(text + "# changed\n")
    line = refused("train", "--method-file", file, *WORDS, "--out", run, "--resume")
    assert "started with another method_sha256" in line
    file.write_text(text)


@pytest.mark.parametrize("command", ["train", "doctor", "show"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", "mine.py, line 1: "),
        ('"""Nothing."""\n', "must define one subclass of u2pl.methods.method.Method"),
        (METHOD + METHOD.partition("class Twice(")[2].join(["\nclass Again(", ""]), "Twice, Again"),
        ("import nothing_there\n", "mine.py, line 1: ModuleNotFoundError"),
    ],
    ids=["syntax", "none", "two", "import"],
)
def test_its_errors_are_one_line(text: str, says: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert says in refused(command, "--method-file", tmp_path / "mine.py", "--preset", "light")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_a_file_without_a_docstring_trains_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.partition("\n\n")[2])
    words = ["train", "--method-file", tmp_path / "mine.py", *WORDS, "--out", tmp_path / "run"]
    assert f"note: {tmp_path / 'mine.py'} has no docstring" in ran(*words).stdout


def test_one_method_is_named() -> None:
    assert ToyRequest(method_file=Path("a/twice.py")).method == "twice"
    assert ToyRequest(method="twice", method_file=Path("a/twice.py")).method == "twice"
    with pytest.raises(UserError, match="and plain both name a method"):
        ToyRequest(method="plain", method_file=Path("a/twice.py"))
    with pytest.raises(UserError, match=r"^--method-file a/twice\.py and plain both name a method"):
        ToyRequest.of(method="plain", method_file="a/twice.py")


def test_its_baseline_is_the_apps(run: Path) -> None:
    file = run.parent / "twice.py"
    request = ToyRequest(
        method_file=file, preset="light", most_images=4, out=run, set=["method.factor=3"]
    )
    asked = baseline_request(APP, request)
    assert asked is not None
    assert (asked.method, asked.method_file, asked.set) == ("plain", None, [])
