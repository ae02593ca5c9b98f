from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

import u2pl
from core.toy.app import APP
from core.toy.app import program as toy
from u2pl.cli.errors import begin, say_starting
from u2pl.cli.program import OneLineErrors, command
from u2pl.errors import UserError
from u2pl.run.app import APPS


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request with every kind of field."""

    dish: Annotated[str, typer.Argument(help="what to eat")]
    plates: Annotated[int, typer.Option(min=1, help="how many")] = 1
    mode: Annotated[Literal["here", "away"] | None, typer.Option()] = None
    add: Annotated[list[float] | None, typer.Option(help="grams, repeatable")] = None
    in_a_hurry: Annotated[bool, typer.Option("--fast")] = False
    to: Annotated[Path | None, typer.Option()] = None
    by: Annotated[list[Path] | None, typer.Option()] = None


class Kitchen:
    """A program with the command `order`, and what was ordered."""

    def __init__(self, **options: Any) -> None:
        self.orders: list[Order] = []
        self.code: int | None = None
        self.program = typer.Typer(cls=OneLineErrors, no_args_is_help=True)

        @command(self.program, Order, **options)
        def order(request: Order) -> int | None:
            """Order a dish."""
            self.orders.append(request)
            return self.code

        @command(self.program, Order, left_out=("dish",), instead={"plates": Annotated[str, 0]})
        def other(request: Order) -> None:
            """Never called."""

    def run(self, *words: str) -> Any:
        return CliRunner().invoke(self.program, list(words))


def test_a_command_is_made_from_the_fields() -> None:
    kitchen = Kitchen()
    assert kitchen.run("order", "soup").exit_code == 0
    words = ["--plates", "3", "--mode", "away", "--add", "2", "--add", "0.5", "--fast"]
    assert kitchen.run("order", *words, "cake").exit_code == 0
    assert kitchen.orders == [
        Order(dish="soup"),
        Order(dish="cake", plates=3, mode="away", add=[2.0, 0.5], in_a_hurry=True),
    ]
    text = kitchen.run("order", "--help").output
    assert "Order a dish." in text and "what to eat" in text and "grams, repeatable" in text
    assert "--fast" in text and "--in-a-hurry" not in text


def test_paths_are_those_that_a_shell_would_have_made_of_them() -> None:
    kitchen = Kitchen()
    result = kitchen.run("order", "soup", "--to=~/x", "--by=~/y", "--by", "z~")
    assert result.exit_code == 0, result.output
    home = Path.home()
    assert kitchen.orders == [Order(dish="soup", to=home / "x", by=[home / "y", Path("z~")])]
    for option in ("--to", "--by"):
        line = refused(kitchen.run("order", "soup", option, "~nobody-of-this-name/x"))
        assert line == "error: ~nobody-of-this-name/x: there is no such user on this machine"


def test_a_command_may_offer_less_and_say_it_another_way() -> None:
    told = Annotated[str, typer.Option(help="from the menu")]
    kitchen = Kitchen(left_out=("mode", "in_a_hurry"), instead={"dish": told})
    assert kitchen.run("order", "--dish", "soup").exit_code == 0
    assert kitchen.orders == [Order(dish="soup")]
    assert "--mode" not in kitchen.run("order", "--help").output
    assert kitchen.run("order", "--dish", "soup", "--fast").exit_code == 2


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (143, 143)])
def test_what_the_body_returns_is_the_exit_code(returned: int | None, code: int) -> None:
    kitchen = Kitchen()
    kitchen.code = returned
    assert kitchen.run("order", "soup").exit_code == code


def refused(result: Any) -> str:
    """The one line on standard error of a command that exits with code 2."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and not result.stdout
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["order"], "Missing argument 'dish'"),
        (["order", "soup", "--plates", "0"], "Invalid value for '--plates'"),
        (["order", "soup", "--plates", "many"], "Invalid value for '--plates'"),
        (["order", "soup", "--plates"], "'--plates' requires an argument"),
        (["order", "soup", "--mode", "x"], "'x' is not one of 'here', 'away'"),
        (["order", "soup", "--add", "much"], "Invalid value for '--add'"),
        (["order", "soup", "--plate", "2"], "No such option: --plate (Possible options: "),
        (["order", "soup", "cake"], "(cake)"),
        (["ordr", "soup"], "No such command 'ordr'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_one_line(words: list[str], says: str) -> None:
    kitchen = Kitchen()
    assert says in refused(kitchen.run(*words))
    assert kitchen.orders == []


def test_an_error_in_the_body_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen()
    monkeypatch.setattr(kitchen, "orders", None)
    assert isinstance(kitchen.run("order", "soup").exception, AttributeError)  # our own mistake
    kitchen.orders = _SoldOut()  # type: ignore[assignment]
    assert refused(kitchen.run("order", "soup")) == "error: sold out"


class _SoldOut:
    def append(self, order: Order) -> None:
        raise UserError("sold out")


def test_without_words_there_is_help() -> None:
    result = Kitchen().run()
    assert result.exit_code == 2 and "Order a dish." in result.output
    assert "error" not in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--steps", "0"], "Invalid value for '--steps'"),
        (["train", "--stepz", "3"], "No such option: --stepz"),
        (["train", "nothing"], "no method 'nothing'; there are other, plain"),
        (["train", "plain", "--set", "train.ler=1"], "did you mean train.lr?"),
        (["train", "plain", "--data", "demx"], "demx has no images/ folder"),
        (["doctor", "--method", "plain", "--resume"], "No such option: --resume"),
        (["doctor", "plain"], "(plain)"),
        (["evaluate"], "Missing argument 'checkpoint'"),
        (["evaluate", "nowhere"], "no trained network at nowhere"),
        (["evaluate", "nowhere", "--mode", "x"], "'x' is not one of 'whole', 'center-crop'"),
        (["compare"], "Missing argument 'runs'"),
        (["compare", "nowhere"], "there is no folder nowhere"),
        (["sweep"], "there is nothing to train: name methods"),
        (["sweep", "--methods", "plain"], "name a folder for the runs with --out"),
        (["sweep", "--methods", "plan", "--out", "a"], "no method 'plan' (did you mean plain?)"),
        (["sweep", "--methods", "plain", "--seeds", "a", "--out", "a"], "--seeds: write seeds as"),
        (["sweep", "nowhere.toml"], "nowhere.toml cannot be read as a sweep"),
        (["sweep", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["sweep", "--seed", "0"], "No such option: --seed"),
        (["predict", "nowhere", "a.png"], "Missing option '--out'"),
        (["predict", "nowhere", "--out", "a"], "Missing argument 'images'"),
        (["predict", "nowhere", "", "--out", "a"], "an argument is empty: a variable of the shell"),
        (
            ["train", "plain", "--steps", "2", "--set", "train.steps=3"],
            "--steps and --set train.steps both",
        ),
        (["export", "nowhere"], "Missing option '--to'"),
        (["export", "nowhere", "--to", "a"], "no trained network at nowhere: no such folder"),
        (["export", "nowhere", "--best", "--to", "a"], "--best: nowhere has no best/"),
        (["push", "nowhere"], "Missing argument 'name'"),
        (["push", "nowhere", "me/net"], "no trained network at nowhere: no such folder"),
        (["train", "plain", "--init", "nowhere"], "no trained network at nowhere: no such folder"),
        (["train", "plain", "--init=~nobody-of-this-name/m"], "there is no such user"),
        (
            ["train", "plain", "--set", "network.encoder_weights=~nobody-of-this-name/w.pth"],
            "encoder weights: ~nobody-of-this-name/w.pth: there is no such user",
        ),
        (["show"], "Missing argument 'method'"),
        (["show", "plain", "--preset", "lite"], "no preset 'lite' (did you mean light?)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_command_of_an_app_refuses_in_one_line(words: list[str], says: str) -> None:
    assert says in refused(CliRunner().invoke(toy, words))


def test_an_app_has_these_commands() -> None:
    text = CliRunner().invoke(toy, ["--help"]).output
    names = ("train", "doctor", "report", "compare", "sweep", "evaluate", "predict", "export")
    names += ("push", "methods", "presets", "show")
    assert all(f" {name} " in text for name in names)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, u2pl, u2pl_semi.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train plain", ["checked", "u2pl-toy train"]),
        ("doctor --method plain", ["checked", "u2pl-toy doctor"]),
        ("evaluate x", ["starting"]),
        ("predict x y --out z", ["starting"]),
        ("export x --to y", ["starting"]),
        ("push x y", ["starting"]),
        ("compare x", ["starting"]),
        ("sweep --methods x", ["starting"]),
    ],
)
def test_a_person_reads_a_word_before_anything_heavy_is_loaded(
    command: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands import torch; what they are is a module that notes what was said by then."""
    said: list[str] = []
    monkeypatch.setattr("u2pl.cli.program.say_starting", lambda: said.append("starting"))
    monkeypatch.setattr("u2pl.cli.program.begin", said.append)
    monkeypatch.setattr("u2pl.run.early.check_early", lambda *_: said.append("checked"))

    class Bodies(ModuleType):
        def __getattr__(self, name: str) -> Any:
            assert said == expected, name
            return lambda *_: None

    for module in (
        "u2pl.cli.commands",
        "u2pl.cli.sharing",
        "u2pl.cli.comparing",
        "u2pl.cli.predicting",
    ):
        monkeypatch.setitem(sys.modules, module, Bodies(module))
    result = CliRunner().invoke(toy, command.split())
    assert result.exit_code == 0 and said == expected


def test_a_file_gets_the_first_line_of_a_long_command_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("u2pl-toy train")  # torch is loaded here: nothing to wait for
    assert capsys.readouterr() == ("", "")
    monkeypatch.delitem(sys.modules, "torch")
    begin("u2pl-toy train")
    assert capsys.readouterr() == ("u2pl-toy train: loading PyTorch ...\n", "")
    monkeypatch.setenv("RANK", "1")
    begin("u2pl-toy train")
    assert capsys.readouterr() == ("", "")


#: What is wrong, and what the line says, of a command that does not load torch to say it.
EARLY = {
    "train nothing": "no method 'nothing'",
    "doctor --method nothing": "no method 'nothing'",
    "train plain --data nowhere": "the folder itself does not exist",
    "doctor --method plain --data {bare}": "classes.txt does not exist",
    "train plain --data folder:{bare}": "classes.txt does not exist",
    "train plain --preset lite": "did you mean light?",
    "train plain --preset lite.toml": "there is no such file",
    "train plain --set train.lr": "write it as section.key=value",
    "train plain --set train.stepz=3": "no such option (did you mean train.steps?)",
    "train plain --set trian.steps=3": "no such option (did you mean train.steps?)",
    "train plain --set lr=3": "no such option (did you mean train.lr?)",
    "train --method-file mine.py": "it does not exist",
    "train plain --data unheard:of": "unknown data source 'unheard'",
    "train --resume runs/none": "there is no run runs/none",
    "train --resume {bare}": "holds no run: it has no config.json",
    "train --resume {run} --seed 4": "everything is taken from its config.json: leave --seed out",
    "train plain --out {run}": "is not empty; add --resume",
    "train plain --out {bare}/images/a.png": "is a file: choose another --out",
    "train plain --out {bare} --resume": "holds no run; leave --resume out",
    "train plain --out {run} --resume": 'another method_name ("other" there, "plain" here)',
    "train other --out {run} --resume --seed 4": "another seed (3 there, 4 here)",
    "show": "Missing argument 'method'",
}


def test_what_can_be_seen_early_does_not_wait_for_torch(tmp_path: Path) -> None:
    """In one process of its own: torch must not be there after all these mistakes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    run = tmp_path / "run"
    run.mkdir()
    options: dict[str, object] = {"preset": "light", "steps": 9, "options": {}, "data": "demo"}
    config = {"app": APP.name, "method_name": "other", "seed": 3, **options}
    (run / "config.json").write_text(json.dumps(config))
    lines = [words.format(bare=tmp_path, run=run) for words in EARLY]
    code = f"""
import sys
from core.toy.app import program
for words in {lines!r}:
    try:
        program(words.split())
    except SystemExit as end:
        assert end.code == 2, words
    assert "torch" not in sys.modules, words
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(EARLY) and not done.stdout
    for line, says in zip(errors, EARLY.values(), strict=True):
        assert line.startswith("error: ") and says in line


def test_the_words_of_other_programs_are_understood() -> None:
    expected = {
        "--lr": "--set train.lr=VALUE",
        "--learning-rate": "--set train.lr=VALUE",
        "--batch": "--set train.batch=VALUE",
        "--epochs": "--set train.epochs=VALUE",
        "--model": "--set network.encoder=VALUE",
        "--config": "--preset",
        "--output": "--out",
    }
    for typed, meant in expected.items():
        line = refused(CliRunner().invoke(toy, ["train", "plain", typed, "3"]))
        assert line == f"error: No such option: {typed} (did you mean {meant}?)"
    line = refused(CliRunner().invoke(toy, ["evaluate", "x", "--lr", "3"]))
    assert "train.lr" not in line  # that command has no --set
    line = refused(CliRunner().invoke(toy, ["train", "plain", "--set", "optim.learning_rate=1"]))
    assert "(did you mean train.lr?)" in line
    line = refused(CliRunner().invoke(toy, ["train", "plain", "--set", "ema=0.9"]))
    assert "(did you mean method.teacher.momentum?)" in line


@pytest.mark.parametrize("name", APPS)
def test_help_is_short_too_and_versions_are_said(name: str) -> None:
    program = import_module(APPS[name]).program
    groups = [[], ["train"], ["doctor"], ["show"], *([["detector", "train"]] * (name == "semi"))]
    for words in groups:
        texts = [CliRunner().invoke(program, [*words, flag]) for flag in ("-h", "--help")]
        assert texts[0].exit_code == 0 and texts[0].output == texts[1].output
        assert "Usage" in texts[0].output
    said = CliRunner().invoke(program, ["--version"])
    assert said.exit_code == 0
    assert said.output.startswith(f"u2pl {u2pl.__version__}, torch {version('torch')}, ")
    assert said.output.rstrip().endswith(f"Python {platform.python_version()}")


def test_only_a_person_on_the_first_process_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    say_starting()
    assert capsys.readouterr().err == "loading PyTorch ...\n"
    monkeypatch.setenv("RANK", "1")
    say_starting()
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    say_starting()
    assert capsys.readouterr().err == ""
