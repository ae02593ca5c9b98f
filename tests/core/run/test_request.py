from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from core.toy.app import ToyRequest
from u2pl.cli.program import OneLineErrors, command
from u2pl.cli.requests import EvaluateRequest, PredictRequest
from u2pl.errors import UserError
from u2pl.run.request import Request, default_of, parameters


def test_what_is_not_said_has_the_options_default() -> None:
    request = ToyRequest.of()
    assert request == ToyRequest()
    assert (request.method, request.data, request.set, request.steps) == (
        "u2plplus",
        "demo",
        [],
        None,
    )
    assert ToyRequest.of().set is not ToyRequest.of().set


def test_python_values_are_those_of_the_command_line() -> None:
    request = ToyRequest.of(
        method="plain", data=Path("my") / "photos", out="runs/a", steps=3, set=["train.lr=1"]
    )
    assert request == ToyRequest(
        method="plain", data="my/photos", out=Path("runs/a"), steps=3, set=["train.lr=1"]
    )
    assert ToyRequest.of(out="~/a").out == Path.home() / "a"


def test_options_may_be_a_mapping() -> None:
    values = {
        "train.lr": 1e-3,
        "train.optimizer": "adamw",
        "data.flip": False,
        "data.scale": (0.5, 2),
        "network.encoder_weights": Path("a/b.pth"),
    }
    assert ToyRequest.of(set=values).set == [
        "train.lr=0.001",
        "train.optimizer=adamw",
        "data.flip=false",
        "data.scale=[0.5, 2]",
        'network.encoder_weights="a/b.pth"',
    ]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"stepz": 3},
            r"no option 'stepz' \(did you mean steps\?\); there are method, preset, data",
        ),
        ({"xyzzy": 3}, r"no option 'xyzzy'; there are"),
        (
            {"learning_rate": 3},
            r"no option .* \(did you mean set=\{\"train\.lr\": \.\.\.\}\?\); there",
        ),
        ({"output_dir": 3}, r"no option 'output_dir' \(did you mean out\?\); there are"),
        ({"steps": "many"}, r"^steps: .*integer.*, not 'many'$"),
        ({"steps": 2.5}, r"^steps: .*integer.*, not 2\.5$"),
        ({"seed": None}, r"^seed: .*integer.*, not None$"),
        ({"steps": True}, "^steps: write a number or a text, not True$"),
        ({"cpu": 1}, "^cpu: write true or false, not 1$"),
        ({"cpu": "yes"}, "^cpu: write true or false, not 'yes'$"),
        ({"set": "train.lr=1"}, r"^set: .*list.*, not 'train.lr=1'$"),
        ({"set": [1]}, r"^set\.0: .*string.*, not 1$"),
        ({"method": None}, r"^method: .*string.*, not None$"),
        ({"steps": 0}, r"^steps: 0 is below the smallest possible value, 1$"),
        ({"seed": -1}, r"^seed: -1 is below the smallest possible value, 0$"),
        ({"seed": 2**32}, r"^seed: 4294967296 is above the largest possible value, 4294967295$"),
        ({"most_images": 0}, r"^most_images: 0 is below the smallest possible value, 1$"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        ToyRequest.of(**values)
    assert "\n" not in str(caught.value)


def test_an_apps_fields_name_its_data_and_follow_method_and_preset() -> None:
    assert Request.data_fields() == []
    assert ToyRequest.data_fields() == ["data", "most_images"]
    assert ToyRequest.of(data="x").data_values == {"data": "x", "most_images": None}
    common = [each.name for each in dataclasses.fields(Request)][2:]
    assert {"set", "steps", "seed", "out", "resume"} <= set(common)
    assert list(parameters(ToyRequest)) == ["method", "preset", "data", "most_images", *common]
    assert list(parameters(Request)) == ["method", "preset", *common]
    assert next(iter(parameters(PredictRequest))) == "checkpoint"


def test_defaults_can_be_asked_for() -> None:
    assert default_of(ToyRequest, "data") == "demo" and default_of(ToyRequest, "set") == []
    assert default_of(EvaluateRequest, "crop") is None
    assert default_of(EvaluateRequest, "checkpoint") is dataclasses.MISSING


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "u2plplus"),
        ({"method": "plain", "seed": 0, "steps": None}, "plain"),
        ({"cpu": True, "resume": True}, "u2plplus --resume --cpu"),
        (
            {"set": ["a.b=1", "c.d=[1, 2]"], "data": "my photos", "most_images": 4},
            "u2plplus --data 'my photos' --most-images 4 --set a.b=1 --set 'c.d=[1, 2]'",
        ),
        (
            {"preset": "light", "steps": 5, "seed": 7, "out": Path("a b/c"), "deterministic": True},
            "u2plplus --preset light --steps 5 --seed 7 --out 'a b/c' --deterministic",
        ),
    ],
    ids=str,
)
def test_its_words_make_the_same_request(values: dict[str, Any], words: str) -> None:
    """On the command line, and nothing that is left out there."""
    parsed: list[ToyRequest] = []
    program = typer.Typer(cls=OneLineErrors)

    @command(program, ToyRequest)
    def train(request: ToyRequest) -> None:
        parsed.append(request)

    @program.command()
    def another() -> None:
        """A program with one command takes no name for it."""

    request = ToyRequest.of(**values)
    assert shlex.join(request.words()) == words
    result = CliRunner().invoke(program, ["train", *request.words()])
    assert result.exit_code == 0, result.output
    assert parsed == [request]


def test_words_can_be_left_out() -> None:
    request = ToyRequest.of(method="plain", steps=3, out="a", resume=True)
    assert request.words("out", "resume") == ["plain", "--steps", "3"]
