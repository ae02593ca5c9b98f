"""Odd values of every option of every app: refused in a line, or taken as they were typed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import typer

from harness.mutations import ODD_NUMBERS, ODD_TEXTS, ODD_VALUES, as_toml
from harness.same import same
from harness.verdicts import Subject, expect
from harness.world import World, small, type_words
from u2pl.methods.discovery import load_method, method_names
from u2pl.run.recipe import Recipe, flat_values
from u2pl.run.sections import flat_keys
from u2pl_da.app import APP as DOMAIN_ADAPT
from u2pl_semi.app import APP as SEMI
from u2pl_semi.app import program
from u2pl_ws.app import APP as WEAK

#: What stands behind `--set section.key=`: numbers, texts, lists, tables, and what is none of them.
TEXTS = (
    *(*ODD_TEXTS, *map(str, ODD_NUMBERS), *map(as_toml, ODD_VALUES)),
    *("1e-3", "0x10", "1_000", "+1", "01", "١٢", "1 ", " 1", "1\nx=2", "True", "no", "[1", "1,2"),
    *("1979-05-27", '"1"', "1e400", "[0.5, 2]", "[inf, 1]", "[1, 2, 3]", "none", "auto", "on"),
)  # fmt: skip
#: What can be typed as a word of a command.
WORDS = (
    *(text for text in TEXTS if text and "\0" not in text),
    *("\udcff", "demo", "voc:x", "--help", "-", "--", "images", "val", "train", "classes.txt"),
)

#: Options of which an odd value is right, but takes minutes or the network.
SLOW = ("train.compile", "train.steps", "train.epochs", "network.encoder", "data.workers")


#: Switches of which a right use takes long, and which have no value.
LONG = ("--onnx", "--baseline")
APPS = {"semi": SEMI, "da": DOMAIN_ADAPT, "ws": WEAK}


@cache
def keys_of(name: str) -> list[tuple[str, str]]:
    """A method and an option, for all of an app."""
    app, found = APPS[name], list[tuple[str, str]]()
    for method in method_names(app.methods):
        kind = load_method(f"{app.package}.methods", app.methods, method)
        sections = flat_keys(app.sections)
        found += [(method, key) for key, _ in (*sections, *flat_keys(kind.Config, "method."))]
    return found


class Assignment(NamedTuple):
    """An option of a method, and its value as typed."""

    app: str
    method: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.app} {self.method} --set {self.key}={self.text[:50]!r}"


def drawn(draw: Random) -> Assignment:
    app = draw.choice(("semi", "semi", "da", "ws"))
    return Assignment(app, *draw.choice(keys_of(app)), draw.choice(TEXTS))


def written_down(asked: Assignment, folder: Path) -> str:
    """The assignment that is tried in a folder."""
    (folder / "assignment.json").write_text(json.dumps(asked))
    return str(asked)


def any_option(draw: Random, folder: Path) -> str:
    return written_down(drawn(draw), folder)


def assignment_in(folder: Path) -> Assignment:
    return Assignment(*json.loads((folder / "assignment.json").read_text()))


def resolved(folder: Path) -> Recipe:
    asked = assignment_in(folder)
    return Recipe.of(APPS[asked.app], asked.method, "light", [f"{asked.key}={asked.text}"])


def as_typed(folder: Path, recipe: Recipe) -> None:
    asked = assignment_in(folder)
    found = flat_values(recipe.dump())[asked.key]
    written = meant_by(asked.text)
    expect(same(written, found), f"{asked.key} is {found!r}, typed {asked.text[:80]!r}")


def meant_by(text: str) -> object:
    """A value of TOML, True or False as Python has them, or the text itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return found["value"] if list(found) == ["value"] else text


def test_every_option(fuzzed: Callable[[Subject], None]) -> None:
    fuzzed(Subject("--set", any_option, resolved, as_typed, 100))


def of_a_run(draw: Random, folder: Path) -> str:
    """An option of a run that is really begun."""
    own = [each for each in keys_of("semi") if each[0] == "u2plplus" and each[1] not in SLOW]
    return written_down(Assignment("semi", *draw.choice(own), draw.choice(TEXTS)), folder)


def trained(world: World, folder: Path) -> Any:
    asked = assignment_in(folder)
    words = ["train u2plplus --preset demo --cpu --steps 2 --data", world.data, "--out"]
    typed = ["--set", f"{asked.key}={asked.text}"]
    return type_words(*words, folder / "run", *small("u2plplus"), *typed)


def trained_as_typed(folder: Path, done: Any) -> None:
    asked = assignment_in(folder)
    options = flat_values(json.loads((folder / "run" / "config.json").read_text())["options"])
    found, written = options[asked.key], meant_by(asked.text)
    expect(same(written, found), f"{asked.key} is {found!r}, typed {asked.text[:80]!r}")
    expect((folder / "run" / "last" / "model.safetensors").exists(), "no network")


def test_runs_with_odd_options(world: World, fuzzed: Callable[[Subject], None]) -> None:
    """What is accepted can be trained with, or ends in a line."""
    act = partial(trained, world)
    fuzzed(Subject("--set of a run", of_a_run, act, trained_as_typed, 5))


def commands(world: World, folder: Path) -> dict[str, list[Any]]:
    """Commands that work, each word behind the option that it belongs to."""
    run, photo = world.runs[0], world.photo
    return {
        "train": ["suponly", "--preset", "demo", "--steps", "2", "--data", world.data, "--out",
                  folder / "run", *small()],
        "doctor": ["--method", "suponly", "--preset", "demo", "--data", world.data, *small()],
        "evaluate": [folder / "copy"],
        "predict": [run, photo, "--out", folder / "to"],
        "export": [run, "--to", folder / "exported"],
        "compare": [run, world.runs[1]],
        "report": [folder / "copy"],
        "show": ["suponly"],
        "sweep": ["--methods", "suponly", "--dry-run", "--data", world.data, "--out",
                  folder / "sweep"],
        "suggest": [run, "--count", "1"],
        "import": [run / "last" / "model.safetensors", "--to", folder / "imported"],
        "detector show": [],
    }  # fmt: skip


def typed_words(world: World, draw: Random, folder: Path) -> str:
    """A command that works, with one or two odd words more or instead."""
    known = commands(world, folder)
    name = draw.choice(sorted(known))
    words = list(map(str, known[name]))
    offered = _offered(name)
    said = []
    for _ in range(draw.choice((1, 1, 2))):
        odd = draw.choice(WORDS)
        while name in ("train", "doctor") and odd in ("255", "256", "1_000"):  # steps: minutes
            odd = draw.choice(WORDS)
        option = draw.choice([*offered, ""])
        if not option:
            place = draw.randrange(len(words) + 1)
            words[place : place + draw.randrange(2)] = [odd]
            said.append(f"{odd[:50]!r} at {place}")
        else:
            words += [option] if option in _switches(name) else [option, odd]
            said.append(f"{option} {odd[:50]!r}")
    line = [*name.split(), *words, *(["--cpu"] if "--cpu" in _switches(name) else [])]
    (folder / "words.json").write_text(json.dumps(line))
    if name in ("evaluate", "report"):
        _copy(world.runs[0], folder / "copy")
    return f"{name} with {' and '.join(said)}"


def _copy(run: Path, to: Path) -> None:
    for path in run.rglob("*"):
        if path.is_file() and path.name != "resume.safetensors" and path.parent.name != "best":
            copy = to / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


@cache
def _parameters(name: str) -> list[Any]:
    found: Any = typer.main.get_command(program)
    for word in name.split():
        found = found.commands[word]
    return list(found.params)


def _offered(name: str) -> list[str]:
    found = [each.opts[-1] for each in _parameters(name) if each.opts[-1] not in LONG]
    return [option for option in found if option.startswith("--")]


def _switches(name: str) -> list[str]:
    return [each.opts[-1] for each in _parameters(name) if getattr(each, "is_flag", False)]


def run_words(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """In a folder below that of the case, for paths that lead upwards."""
    here = folder / "a" / "b"
    here.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.chdir(here)
        return type_words("", *json.loads((folder / "words.json").read_text()))


def said_as_typed(folder: Path, done: Any) -> None:
    """What was printed commands no terminal, and numbers are written down as they were typed."""
    said = [letter for letter in done.output if ord(letter) < 32 and letter != "\n"]
    expect(not said, f"{said} in the output")
    words = json.loads((folder / "words.json").read_text())
    typed = dict(pairwise(words))
    begun = folder / "run" / "config.json"
    if begun.exists():
        config = json.loads(begun.read_text())
        expect(config["seed"] == int(typed.get("--seed", 0)), f"seed {config['seed']}")
        expect(config["steps"] == int(typed["--steps"]), f"{config['steps']} steps")
    for path in folder.rglob("predictions.jsonl"):
        settings = json.loads(path.read_text().splitlines()[0])["settings"]
        below = float(typed.get("--ignore-below", 0))
        expect(settings["ignore_below"] == below, f"below {settings['ignore_below']}")
        window = settings["window"]
        expect(window == (int(typed["--window"]) if "--window" in typed else None), window)


NAMES = (
    *("train", "doctor", "evaluate", "predict", "export", "compare", "report", "show", "sweep"),
    *("suggest", "detector show"),
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_command_without_an_odd_word_is_accepted(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a refusal of everything would pass for one of what is odd."""
    _copy(world.runs[0], tmp_path / "copy")
    words = [*name.split(), *map(str, commands(world, tmp_path)[name])]
    (tmp_path / "words.json").write_text(json.dumps(words))
    done = run_words(monkeypatch, tmp_path)
    assert done.exit_code == 0, done.output
    said_as_typed(tmp_path, done)


def test_every_command(
    world: World, fuzzed: Callable[[Subject], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, act = partial(typed_words, world), partial(run_words, monkeypatch)
    fuzzed(Subject("command line", prepare, act, said_as_typed, 30))
