from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from u2pl.errors import did_you_mean, explain


@pytest.mark.parametrize(
    ("word", "words"),
    [("trian", " (did you mean train?)"), ("eval", " (did you mean evaluate?)"), ("xyz", "")],
)
def test_the_nearest_word_is_named_if_one_is_near(word: str, words: str) -> None:
    assert did_you_mean(word, iter(["train", "test", "evaluate"])) == words
    assert did_you_mean(word, []) == ""


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
