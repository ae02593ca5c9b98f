from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from u2pl.errors import LONGEST, SYNONYMS, did_you_mean, explain, one_line, shortened
from u2pl.methods.discovery import known_methods, load_method
from u2pl.run.app import APPS, find_app
from u2pl.run.request import flag, parameters
from u2pl.run.sections import Sections, flat_keys


@pytest.mark.parametrize(
    ("word", "words"),
    [("trian", " (did you mean train?)"), ("eval", " (did you mean evaluate?)"), ("xyz", "")],
)
def test_the_nearest_word_is_named_if_one_is_near(word: str, words: str) -> None:
    assert did_you_mean(word, iter(["train", "test", "evaluate"])) == words
    assert did_you_mean(word, []) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\nb\tc\x1b[2Jd", "a b c [2Jd"),
        ("ab\u2028c\u2029d\x85e", "ab c d e"),
        ("photo\u202egnp.exe \u2066a\u2069 \ufeffb", "photo gnp.exe  a   b"),
        ("Ωμέγα 猫 שלום 🐈\u200d⬛", "Ωμέγα 猫 שלום 🐈\u200d⬛"),
    ],
)
def test_no_name_commands_a_terminal_or_turns_a_line_round(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_line_that_is_too_long_keeps_its_beginning_and_its_end() -> None:
    assert shortened("x" * LONGEST) == "x" * LONGEST
    line = shortened(f"a.toml: key is {'x' * 10**6}: write a number")
    assert len(line) <= LONGEST and line.startswith("a.toml: key is xx")
    assert " … " in line and line.endswith("xx: write a number")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(1, gt=0)


class Outer(BaseModel):
    inner: Inner = Inner()
    name: str = ""


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"inner": {"size": 0}}, "method.inner.size: Input should be greater than 0, not 0"),
        ({"inner": {"size": "x"}, "name": 3}, "method.inner.size: Input should be a valid integer"),
        ({"inner": {"sise": 1}}, "method.inner.sise: Extra inputs are not permitted"),
    ],
)
def test_the_first_complaint_is_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer(**values)
    said = explain(caught.value, "method.")
    assert said.startswith(line) and "\n" not in said
    assert explain(caught.value) == said.removeprefix("method.")


def test_synonyms_are_real_options() -> None:
    """Each is an option of every app's methods, or of some; each flag is one of `train`."""
    for name in APPS:
        app = find_app(name)
        keys = {key for key, _ in flat_keys(app.sections)}
        own = {
            key
            for method in known_methods(app.methods)
            for key, _ in flat_keys(
                load_method(f"{app.package}.methods", app.methods, method).Config, "method."
            )
        }
        flags = {flag(word, info) for word, info in parameters(app.request).items()}
        for word, meant in SYNONYMS.items():
            if meant.startswith("--"):
                assert meant in flags, word
            elif not meant.startswith("method."):
                assert meant in keys, word
            else:
                assert meant in own or name == "weak", word  # which has no teacher
            assert word not in flags and f"--{word}" not in flags, word


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("train.learning_rate", "train.lr"), ("learning-rate", "train.lr")),
        *(("batch_size", "train.batch"), ("train.batch_size", "train.batch")),
        *(("epochs", "train.epochs"), ("image_size", "data.crop"), ("num_workers", "data.workers")),
        *(("backbone", "network.encoder"), ("pretrained", "network.encoder_weights")),
        *(("ema", "method.teacher.momentum"), ("momentum", "method.teacher.momentum")),
    ],
)
def test_a_word_of_the_field_is_near_to_what_it_means(word: str, meant: str) -> None:
    known = [key for key, _ in flat_keys(Sections)] + ["method.teacher.momentum"]
    assert did_you_mean(word, known, 0.75) == f" (did you mean {meant}?)"
    assert meant not in did_you_mean(word, ["out", "steps"])
