from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from core.toy.app import program as toy
from u2pl.cli.errors import say_starting
from u2pl.cli.program import OneLineErrors, command
from u2pl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request with every kind of field."""

    dish: Annotated[str, typer.Argument(help="what to eat")]
    plates: Annotated[int, typer.Option(min=1, help="how many")] = 1
    mode: Annotated[Literal["here", "away"] | None, typer.Option()] = None
    add: Annotated[list[float] | None, typer.Option(help="grams, repeatable")] = None
    in_a_hurry: Annotated[bool, typer.Option("--fast")] = False


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
        (["export", "nowhere"], "Missing option '--to'"),
        (["export", "nowhere", "--to", "a"], "no trained network at nowhere: no such folder"),
        (["export", "nowhere", "--best", "--to", "a"], "--best: nowhere has no best/"),
        (["push", "nowhere"], "Missing argument 'name'"),
        (["push", "nowhere", "me/net"], "no trained network at nowhere: no such folder"),
        (["train", "plain", "--init", "nowhere"], "no trained network at nowhere: no such folder"),
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
    "command",
    [
        "train",
        "doctor",
        "evaluate x",
        "predict x y --out z",
        "export x --to y",
        "push x y",
        "compare x",
        "sweep --methods x",
    ],
)
def test_a_person_reads_a_word_before_anything_heavy_is_loaded(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands import torch; what they are is a module that notes what was said by then."""
    said: list[str] = []
    monkeypatch.setattr("u2pl.cli.program.say_starting", lambda: said.append("starting"))

    class Bodies(ModuleType):
        def __getattr__(self, name: str) -> Any:
            assert said == ["starting"], name
            return lambda *_: None

    for module in ("u2pl.cli.commands", "u2pl.cli.sharing", "u2pl.cli.comparing"):
        monkeypatch.setitem(sys.modules, module, Bodies(module))
    assert CliRunner().invoke(toy, command.split()).exit_code == 0


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
