from __future__ import annotations

from typer.testing import CliRunner

from core.toy.app import APP, program
from u2pl.run.recipe import Recipe


def printed(*words: str) -> list[list[str]]:
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_each_method_is_listed_with_what_it_is() -> None:
    assert printed("methods")[1:] == [
        ["other", "Something", "else."],
        ["plain", "Labelled", "images", "alone."],
    ]


def test_each_preset_is_listed_with_its_header() -> None:
    assert printed("presets")[1:] == [
        ["demo", "For", "the", "demo."],
        ["large", "For", "VOC."],
        ["light", "In", "a", "moment."],
        ["Learns", "nothing."],
    ]


def test_every_option_is_shown_as_it_would_be_used() -> None:
    rows = {row[0]: row[1:] for row in printed("show", "plain", "--set", "train.batch=7") if row}
    assert rows["train.batch"][0] == "7" and rows["method.warm_start"][0] == "0.25"
    assert rows["method.warm_start"][1:] == ["share", "of", "the", "steps"]
    assert {row.key for row in Recipe.of(APP, "plain", "light").rows()} <= rows.keys()
