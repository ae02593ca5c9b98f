from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.files import replace_file
from u2pl.methods.method import Method, MethodConfig
from u2pl.tensor_file import tensor_file
from u2pl.training.checkpoint import (
    FILE,
    FIRST,
    FORMAT,
    SECOND,
    Loaded,
    load_checkpoint,
    save_checkpoint,
    saved_step,
)

Run = tuple[Method[Any], torch.optim.Optimizer]
#: Changes the tensors of a state.
Change = Callable[[dict[str, Tensor]], object]


class Line(Method[Any]):
    """One layer that is trained, and one that never has a gradient."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), nn.Linear(3, 2), 2)
        self.unused = nn.Linear(1, 1)
        self.register_buffer("seen", torch.zeros(4, dtype=torch.int64))

    def forward(self, batch: Any, progress: Any) -> Any:
        raise NotImplementedError


MAKE: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": torch.optim.AdamW,
}


def trained(seed: int, optimizer: str = "adamw") -> Run:
    torch.manual_seed(seed)
    method = Line()
    update = MAKE[optimizer](method.parameters())
    step((method, update))
    return method, update


def step(run: Run) -> None:
    method, optimizer = run
    optimizer.zero_grad()
    method.student(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def assert_equal(one: Run, other: Run) -> None:
    for step_ in (0, 1):  # now, and after another step
        theirs = other[0].state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in one[0].state_dict().items()), step_
        step(one)
        step(other)


@pytest.mark.parametrize("optimizer", MAKE)
def test_a_state_is_loaded_into_another_run(tmp_path: Path, optimizer: str) -> None:
    one, other = trained(0, optimizer), trained(1, optimizer)
    save_checkpoint(tmp_path, *one, {"step": 1})
    assert saved_step(tmp_path) == 1
    assert load_checkpoint(tmp_path, *other) == Loaded({"step": 1}, "")
    assert_equal(one, other)


def rewrite(path: Path, change: Change, checked: bool = False, **facts: str) -> None:
    """Write a state with other tensors: as a version without digests did, or with a new digest."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    change(tensors)
    if checked:
        replace_file(path, tensor_file(tensors, metadata | facts))
    else:
        save_file(tensors, path, metadata | {"format": FIRST} | facts)


def test_a_state_of_an_older_version_is_loaded_with_a_note(tmp_path: Path) -> None:
    one, other = trained(0), trained(1)
    save_checkpoint(tmp_path, *one, {"step": 1})
    rewrite(tmp_path / FILE, lambda _: None)
    facts, note = load_checkpoint(tmp_path, *other)
    assert facts == {"step": 1} and "has no digest, so damage cannot be told" in note
    assert_equal(one, other)


class Shared(Line):
    """The trained layer has a second name, as a frozen encoder has in a teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.student


def shared(seed: int) -> Run:
    torch.manual_seed(seed)
    method = Shared()
    update = MAKE["sgd"](method.parameters())
    step((method, update))
    return method, update


def test_a_tensor_of_two_names_is_written_once(tmp_path: Path) -> None:
    one, other = shared(0), shared(1)
    save_checkpoint(tmp_path, *one, {"step": 1})
    held = load_file(tmp_path / FILE)
    assert {"method.again.weight", "method.student.weight"} <= {
        f"method.{name}" for name in one[0].state_dict()
    }
    assert len({"method.again.weight", "method.student.weight"} & held.keys()) == 1
    load_checkpoint(tmp_path, *other)
    assert_equal(one, other)

    def as_before(tensors: dict[str, Tensor]) -> None:
        tensors |= {f"method.{name}": value for name, value in one[0].state_dict().items()}

    one, other = shared(0), shared(1)
    rewrite(tmp_path / FILE, as_before, checked=True, format=SECOND)
    load_checkpoint(tmp_path, *other)
    assert_equal(one, other)


@pytest.mark.parametrize("said", ["{", "[1]", '{"method.x": 3}', '{"method.x": "method.y"}'])
def test_a_second_name_of_nothing_is_one_line(tmp_path: Path, said: str) -> None:
    save_checkpoint(tmp_path, *trained(0), {"step": 1})
    rewrite(tmp_path / FILE, lambda _: None, checked=True, shared=said)
    refuse(tmp_path, "damaged")


WEIGHT, AVERAGE = "method.student.weight", "optimizer.0.exp_avg"

CHANGES: dict[str, tuple[Change, str]] = {
    "NaN": (lambda t: t[WEIGHT].fill_(torch.nan), "damaged .*not finite, in 1 tensors; first"),
    "infinity": (lambda t: t[AVERAGE].fill_(torch.inf), "the optimizer holds numbers that are not"),
    "half precision": (
        lambda t: t.update({WEIGHT: t[WEIGHT].half()}),
        r"of another network or method: .*student.weight \(F16 \[2, 3\], not F32 \[2, 3\]",
    ),
    "another shape": (
        lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()}),
        r"of another network or method: .*\(F32 \[3, 2\], not F32 \[2, 3\]\)",
    ),
    "a tensor less": (lambda t: t.pop(WEIGHT), "another network or method: .*student.weight"),
    "a tensor more": (lambda t: t.update({"method.x": torch.ones(1)}), "first: x$"),
    "a tensor of nothing": (lambda t: t.update(x=torch.ones(1)), "x is of neither method nor opt"),
    "no optimizer": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("optimizer.")],
        "tensors of the optimizer are missing",
    ),
    "one average less": (lambda t: t.pop(AVERAGE), "tensors of the optimizer are missing"),
    "an average of whole numbers": (
        lambda t: t.update({AVERAGE: t[AVERAGE].long()}),
        "optimizer.0.exp_avg is of no parameter",
    ),
    "an average of another shape": (
        lambda t: t.update({AVERAGE: torch.ones(5)}),
        "optimizer.0.exp_avg is of no parameter",
    ),
    "an average of another parameter": (
        lambda t: t.update({"optimizer.9.exp_avg": torch.ones(5)}),
        "optimizer.9.exp_avg is of no parameter",
    ),
    "an average of none": (
        lambda t: t.update({"optimizer.x": torch.ones(1)}),
        "damaged .ValueError",
    ),
}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("what", CHANGES)
def test_a_state_with_other_tensors_is_one_line_and_nothing_is_loaded(
    what: str, checked: bool, tmp_path: Path
) -> None:
    """Whether a digest agrees, or none is there."""
    change, says = CHANGES[what]
    save_checkpoint(tmp_path, *trained(0), {"step": 1})
    rewrite(tmp_path / FILE, change, checked)
    refuse(tmp_path, says)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"format": FORMAT}, "damaged .*its digest is missing"),
        ({"format": "u2pl-resume-4"}, r"not a state of this version of u2pl \(u2pl-resume-3\)"),
        ({"facts": "{"}, "damaged .JSONDecodeError"),
        ({"facts": "[" * 100_000}, "damaged .*nested too deep"),
        ({"facts": "[1]"}, "damaged .*its facts are none"),
    ],
    ids=["no digest", "newer", "no JSON", "too deep", "a list"],
)
def test_a_state_that_says_something_else_is_one_line(
    facts: dict[str, str], says: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, *trained(0), {"step": 1})
    rewrite(tmp_path / FILE, lambda _: None, **facts)
    refuse(tmp_path, says)


def test_other_facts_without_another_digest_are_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *trained(0), {"step": 1})
    tensors = load_file(tmp_path / FILE)
    with safe_open(tmp_path / FILE, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, tmp_path / FILE, metadata | {"facts": json.dumps({"step": 9})})
    refuse(tmp_path, "cannot be read .its content is not what was written there")


def refuse(folder: Path, says: str) -> None:
    """The state is refused, and what was to go on with it is as it was."""
    other, same = trained(1), trained(1)
    with pytest.raises(UserError, match=says) as refused:
        load_checkpoint(folder, *other)
    assert "\n" not in str(refused.value)
    assert_equal(other, same)
