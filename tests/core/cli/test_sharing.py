"""What `export` and `push` write, refuse and print, and that what is printed can be typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from core.toy.app import program
from u2pl.cli import sharing
from u2pl.errors import UserError
from u2pl.model.model import Model, Prediction, load
from u2pl.model.onnx_file import OnnxCheck


@pytest.fixture
def run(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose best network is another one; the current folder is beside it."""
    monkeypatch.chdir(tmp_path)
    for kind in ("last", "best"):
        named = model.card.model_copy(update={"method": kind})
        Model(model.network, named).save(tmp_path / "a run" / kind)
    return Path("a run")


def typed(*words: object) -> Any:
    return CliRunner().invoke(program, [str(word) for word in words])


def refused(*words: object) -> str:
    result = typed(*words)
    assert result.exit_code == 2 and not result.stdout, result.output
    (line,) = result.stderr.splitlines()
    return str(line)


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_exported_is_what_a_model_saves(run: Path, model: Model, tmp_path: Path) -> None:
    for words, kind in (([], "last"), (["--best"], "best")):
        result = typed("export", run, "--to", tmp_path / kind, *words)
        assert result.exit_code == 0, result.output
        Model(model.network, load(run / kind).card).save(tmp_path / "saved")
        for name in held(tmp_path / "saved"):
            ours, theirs = ((tmp_path / each / name).read_bytes() for each in (kind, "saved"))
            assert ours == theirs, name
        assert held(tmp_path / kind) == ["README.md", "config.json", "model.safetensors"]
        assert f"a run/{kind} written to" in result.stdout


def test_what_is_exported_tells_no_one_where_files_lie(run: Path, tmp_path: Path) -> None:
    found = load(run / "last")
    network = found.card.network.model_copy(
        update={"encoder_weights": "/photos-of-me/lite0.safetensors"}
    )
    card = found.card.model_copy(update={"network": network, "source": "/photos-of-me/photos"})
    Model(found.network, card).save(run / "last")
    result = typed("export", run, "--to", tmp_path / "shared")
    assert result.exit_code == 0, result.output
    for name in ("config.json", "README.md"):
        text = (tmp_path / "shared" / name).read_text()
        assert "/photos-of-me" not in text and "lite0.safetensors" in text


def test_the_lines_that_are_printed_can_be_typed(run: Path, model: Model, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save("photo.png")
    lines = typed("export", run, "--to", "to share").stdout.splitlines()
    _, _, shell, python = lines
    name, *words = shlex.split(shell)
    assert name == "u2pl-toy"
    words[words.index("IMAGE_OR_FOLDER")] = "photo.png"
    result = typed(*words, "--cpu")
    assert result.exit_code == 0 and (tmp_path / "predictions" / "ids" / "photo.png").is_file()
    found: dict[str, Any] = {}
    exec(python.replace("'IMAGE'", "'photo.png'"), found)
    prediction: Prediction = found["prediction"]
    assert np.array_equal(prediction.ids, model.predict("photo.png").ids)


def test_a_model_is_replaced_only_if_that_is_asked_for(run: Path) -> None:
    out = Path("shared")
    out.mkdir()
    assert typed("export", run, "--to", out).exit_code == 0
    before = (out / "config.json").read_bytes()
    line = refused("export", run, "--best", "--to", out)
    assert "holds a model already: add --overwrite" in line
    assert (out / "config.json").read_bytes() == before
    assert typed("export", run, "--best", "--to", out, "--overwrite").exit_code == 0
    assert load(out).card.method == "best"
    assert typed("export", out, "--to", out, "--overwrite").exit_code == 0


def test_nothing_but_a_model_is_ever_replaced(run: Path, tmp_path: Path) -> None:
    Path("file").write_text("")
    Path("work").mkdir()
    Path("work/thesis.tex").write_text("")
    for folder, says in (
        ("work", "thesis.tex"),
        (".", "a run"),
        ("a run", "best"),
        ("file", "file"),
    ):
        assert says in refused("export", run, "--to", folder, "--overwrite")
    assert held(tmp_path) == ["a run", "file", "work"] and held(run) == ["best", "last"]


def test_a_name_on_the_hub_can_be_exported(
    run: Path, model: Model, cached: Callable[[Model, str], str]
) -> None:
    commit = cached(model, "user/name")
    result = typed("export", "user/name", "--to", "here")
    assert f"user/name@{commit} written to here" in result.stdout
    assert "--best: user/name has no best/" in refused("export", "user/name", "--best", "--to", "x")


def test_a_network_of_the_hub_is_scored_beside_no_one(
    model: Model,
    cached: Callable[[Model, str], str],
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    commit = cached(model, "user/name")
    data = make_folder({"a": [0, 1, 2], "b": [0]}, train="b\n", val="a\n")
    result = typed("evaluate", "user/name", "--data", data, "--cpu")
    assert result.exit_code == 0 and f"user/name@{commit}" in result.stdout.replace("\n", "")
    (written,) = tmp_path.glob("evaluation-*.json")
    assert json.loads(written.read_text())["data"] == "photos"


def test_onnx_is_written_with_the_model_or_neither_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = OnnxCheck(3.2e-7, 0.99987, ((1, 3, 5, 7), (3, 3, 8, 8)))
    monkeypatch.setattr(sharing, "load_onnx", lambda: None)
    monkeypatch.setattr(sharing, "to_onnx", lambda *_: (b"onnx", check))
    result = typed("export", run, "--to", "a", "--onnx")
    assert (Path("a") / "model.onnx").read_bytes() == b"onnx"
    assert "on 1x3x5x7 and 3x3x8x8" in result.stdout and "99.99 % of the pixels" in result.stdout
    assert "by at most 3e-07" in result.stdout
    assert typed("export", run, "--to", "a", "--overwrite").exit_code == 0
    assert "model.onnx" not in held(Path("a"))  # it would be of another network

    def differs(*_: Any) -> None:
        raise UserError("it computes something else")

    monkeypatch.setattr(sharing, "to_onnx", differs)
    failed = typed("export", run, "--to", "b", "--onnx")
    assert failed.exit_code == 2 and "something else" in failed.stderr
    assert "making model.onnx" in failed.stdout  # before the long work
    assert not Path("b").exists()


def test_a_missing_package_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("uv sync --extra onnx")

    monkeypatch.setattr(sharing, "load_onnx", missing)
    assert "uv sync --extra onnx" in refused("export", "nowhere", "--to", "b", "--onnx")


def test_what_is_pushed_can_be_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def send(model: Model, name: str, private: bool) -> str:
        sent.append((model.card.method, name, private))
        return f"me/{name}"

    monkeypatch.setattr(sharing, "publish", send)
    result = typed("push", run, "net", "--best", "--private")
    assert sent == [("best", "net", True)] and "a run/best pushed to me/net" in result.stdout
    assert "u2pl-toy predict me/net IMAGE_OR_FOLDER" in result.stdout
    assert "u2pl.load('me/net')" in result.stdout
