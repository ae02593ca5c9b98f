"""What `convert` prints, and that what is printed can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.toy.app import program
from harness.labelled import PROGRAMS
from u2pl.cli.converting import result_line
from u2pl.data.conversion import Converted


def typed(*words: object) -> Any:
    return CliRunner().invoke(program, [str(word) for word in words])


def test_what_was_understood_is_said_and_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PROGRAMS["cvat"](tmp_path / "photos")
    done = typed("convert", text, "--to", "a folder")
    assert done.exit_code == 0, done.output
    first, *_, line, following = done.stdout.splitlines()
    assert first.startswith("note: photos is read as CVAT's annotations.xml: 1 of 3 images have")
    assert line == "a folder: 3 images (links), 1 masks in the classes' colours"
    begin, *words = shlex.split(following)
    assert begin == "next:" and words[-3:] == ["doctor", "--data", "a folder"]
    again = typed("convert", text, "--to", "a folder")
    assert again.exit_code == 2 and not again.stdout
    assert again.stderr == "error: a folder exists: choose another folder, or move it away\n"
    copied = typed("convert", text, "--to", "copies", "--copy")
    assert "copies: 3 images (no links), 1 masks" in copied.stdout


def test_images_that_could_not_be_links_are_told_apart() -> None:
    line = result_line(Path("out"), Converted(5, 2, 3, ()))
    assert line == "out: 5 images (2 of them links), 3 masks in the classes' colours"
