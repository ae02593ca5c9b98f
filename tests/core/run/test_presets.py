"""Recipes of one's own: the same format and checks as the shipped ones, by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.toy.app import APP, program
from u2pl.errors import UserError
from u2pl.run.presets import recipe_path, split_assignment
from u2pl.run.recipe import Recipe

#: The shipped recipe `light` of the toy app, with other steps.
TEXT = (APP.recipes / "light.toml").read_text(encoding="utf-8").replace("steps = 3", "steps = 2")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    return path


def test_a_file_is_a_recipe_like_a_shipped_one(mine: Path) -> None:
    recipe, shipped = Recipe.of(APP, "plain", str(mine)), Recipe.of(APP, "plain", "light", steps=2)
    assert recipe.preset == "mine.toml"
    assert recipe.dump() == shipped.dump()
    assert Recipe.of(APP, "plain", str(mine), ["train.batch=6"]).sections.train.batch == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train\nsteps = 3", r"mine\.toml cannot be read as TOML: .*line 1"),
        ("steps = 3", r"mine\.toml: steps: write it in its section, such as \[train\]"),
        ("[train]\nstepz = 3", r"mine\.toml: train\.stepz: .*no such .*mean train\.steps\?"),
        ("[trian]\nsteps = 3", r"mine\.toml: trian: there is no such option"),
        ("[train]\nbatch = 'many'", r"mine\.toml: train\.batch: .*, not 'many'"),
        ("[data]\nscale = [1, 'x']", r"mine\.toml: data\.scale\.1: "),
        ("[evaluate]\nmode = 'slide'", r"mine\.toml: evaluate: .*needs a crop"),
        ("[method]\nwarm_start = 2", r"mine\.toml: method\.warm_start: .*, not 2"),
        ("[method]\nwarmstart = 0.5", r"mine\.toml: method\.warmstart: .*mean warm_start\?"),
        ("[method.teacher]\nmoment = 0.5", r"mine\.toml: method\.teacher\.moment: "),
    ],
)
def test_a_mistake_names_file_and_key(mine: Path, text: str, says: str) -> None:
    mine.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Recipe.of(APP, "plain", str(mine))
    assert "\n" not in str(caught.value)


def test_what_another_method_takes_is_no_mistake(mine: Path) -> None:
    mine.write_text(f"{TEXT}strength = 0.25\n")  # of `other`
    assert Recipe.of(APP, "plain", str(mine)).options.model_dump()["warm_start"] == 0.25
    assert Recipe.of(APP, "other", str(mine)).options.model_dump() == {"strength": 0.25}


def test_what_is_typed_is_not_blamed_on_the_file(mine: Path) -> None:
    with pytest.raises(UserError, match=r"^train\.batch: "):
        Recipe.of(APP, "plain", str(mine), ["train.batch=0"])
    mine.write_text("[train]\nbatch = 0\n")
    with pytest.raises(UserError, match=r"mine\.toml: train\.batch: "):
        Recipe.of(APP, "plain", str(mine), ["train.lr=1"])


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--preset no\.toml: there is no such file$"):
        recipe_path(APP.recipes, "no.toml")
    with pytest.raises(UserError, match=r"no preset 'lite' .* or FILE\.toml of your own"):
        recipe_path(APP.recipes, "lite")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.toml cannot be read as TOML"):
        Recipe.of(APP, "plain", str(tmp_path / "latin.toml"))


@pytest.mark.parametrize("text", ["train.lr", "", "=3", " = 3"])
def test_an_assignment_is_a_key_and_a_value(text: str) -> None:
    with pytest.raises(UserError, match=r"write it as section\.key=value"):
        split_assignment(text)
    assert split_assignment("a.b=c=d") == ("a.b", "c=d")


def test_a_run_goes_on_without_the_file(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "plain", "--cpu", "--most-images", "4", "--preset", str(mine)]
    assert CliRunner().invoke(program, [*words, "--out", str(out)]).exit_code == 0
    config = json.loads((out / "config.json").read_text())
    assert config["preset"] == "mine.toml" and config["options"]["train"]["steps"] == 2
    (out / "summary.json").unlink()
    mine.unlink()
    result = CliRunner().invoke(program, ["train", "--resume", str(out)])
    assert result.exit_code == 0, result.output
    assert "with preset mine.toml" in result.output
    assert "--preset" not in result.output  # what could not be typed any more
