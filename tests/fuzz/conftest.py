"""What is mutated: data, a finished run, predictions; and how many cases there are of each kind."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.blocks import make_folder
from harness.tiny import Tiny
from harness.verdicts import Subject, Verdict, judge_cases
from u2pl_semi.app import APP, program

#: Options of a run that is trained in a moment, besides those that `Tiny` knows of.
SMALL = {
    "network.decoder": "segformer",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.width": 8,
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.evaluations": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
}

#: How often each verdict was given, by subject.
COUNTED = pytest.StashKey[dict[str, Counter[Verdict]]]()


def type_words(*words: Any) -> Any:
    """The result of a command; the first argument may be several words."""
    first, *others = map(str, words)
    return CliRunner().invoke(program, [*shlex.split(first), *others])


def small(method: str = "suponly", **changes: Any) -> list[str]:
    """The options of a small run."""
    return Tiny(APP, SMALL)(method, **changes)


class World:
    """What cases begin with; they take copies of it."""

    def __init__(self, root: Path) -> None:
        self.data = make_folder(root / "data")
        self.runs = [root / "runs" / f"run{seed}" for seed in range(2)]
        for seed, run in enumerate(self.runs):
            self.train(run, "--seed", seed)
        self.predictions = root / "predictions"
        done = type_words("predict --cpu", self.runs[0], self.photo, "--out", self.predictions)
        assert done.exit_code == 0, done.output

    @property
    def photo(self) -> Path:
        """A scored one."""
        return self.data / "images" / "1.png"

    def train(self, out: Path, *more: Any) -> None:
        """A run of four steps."""
        words = ["train suponly --preset demo --cpu --steps 4 --data", self.data, *small()]
        done = type_words(*words, "--out", out, *more)
        assert done.exit_code == 0, done.output


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def fuzzed(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Subject], None]:
    """Judges the cases of a subject; fails if one is wrong or a crash."""
    config = request.config
    counted = config.stash.setdefault(COUNTED, {})

    def run(subject: Subject) -> None:
        asked, alone = config.getoption("--fuzz"), config.getoption("--fuzz-case")
        numbers = range(subject.cases if asked is None else asked)
        if alone:
            name, _, number = alone.rpartition(":")
            if name != subject.name:
                pytest.skip("another case is asked for")
            numbers = range(int(number), int(number) + 1)
        counts, faults = judge_cases(subject, numbers, tmp_path)
        counted[subject.name] = counts
        if faults:
            said = "\n".join(map(str, faults[:20]))
            pytest.fail(f"{len(faults)} of {len(numbers)} cases\n{said}", pytrace=False)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How many cases there were, by verdict."""
    counted = config.stash.get(COUNTED, {})
    if not counted or config.getoption("--fuzz") is None:
        return
    terminalreporter.section("mutations")
    total = sum(counted.values(), Counter[Verdict]())
    for name, counts in [*counted.items(), ("in all", total)]:
        said = ", ".join(f"{counts[each]} {each.value}" for each in Verdict if counts[each])
        terminalreporter.write_line(f"{name}: {counts.total()} cases: {said}")
