"""What is mutated: data, a finished run, predictions; and how many cases there are of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.verdicts import Subject, Verdict, judge_cases, judge_untouched
from harness.world import World

#: How often each verdict was given, by subject.
COUNTED = pytest.StashKey[dict[str, Counter[Verdict]]]()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def fuzzed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Subject], None]:
    """Judges the cases of a subject; fails if one is wrong or a crash."""
    monkeypatch.setattr("u2pl.cli.console.SOON", 1e9)  # or progress stands before an error
    config = request.config
    counted = config.stash.setdefault(COUNTED, {})

    def run(subject: Subject) -> None:
        if subject.untouched is not None:  # or a refusal of everything would pass for one of damage
            whole = judge_untouched(subject, tmp_path / "untouched-0")
            assert whole.verdict is Verdict.EQUAL, (subject.name, whole)
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
