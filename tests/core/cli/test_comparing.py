"""What `compare` and `sweep` print, write and return."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.toy.app import program
from harness.runs import write_run
from u2pl.cli import comparing
from u2pl.run.sweep.execution import Failure, Interrupted, State
from u2pl.run.sweep.plan import Planned


def run(*words: object) -> Any:
    return CliRunner().invoke(program, [str(word) for word in words])


def test_compare_prints_and_writes_what_is_asked_for(tmp_path: Path) -> None:
    for method in ("plain", "other"):
        write_run(tmp_path / "runs" / method, method=method)
    files = {end: tmp_path / "new" / f"found.{end}" for end in ("markdown", "csv", "html")}
    options = [word for end, path in files.items() for word in (f"--{end}", path)]
    result = run("compare", tmp_path / "runs", *options)
    assert result.exit_code == 0, result.output
    assert "gain over plain" in result.stdout and "one seed" in result.stdout
    assert all(f"written: {path}" in result.stdout for path in files.values())
    assert files["markdown"].read_text().startswith("2 runs of 2 variants")
    assert files["csv"].read_text().startswith("variant,method,role")
    assert files["html"].read_text().startswith("<!doctype html>")
    result = run("compare", tmp_path / "runs", "--against", "other")
    assert "gain over other" in result.stdout and "written" not in result.stdout


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, State]]:
    """What would be trained; seed 1 of each fails, seed 9 stops the sweep."""
    asked: list[tuple[str, State]] = []

    def execute(
        app: object, runs: Sequence[tuple[Planned, State]], jobs: int, say: Callable[[str], None]
    ) -> list[Failure]:
        failures = []
        for planned, state in runs:
            asked.append((planned.name, state))
            request = planned.request
            if request.seed == 9:
                raise Interrupted(signal.SIGTERM)
            if request.seed == 1:
                failures.append(Failure(planned.name, "the images are gone"))
            elif state == "new":
                command = shlex.join(["u2pl-toy", "train", *request.words("out")])
                folder, method = planned.folder, request.method
                write_run(folder, method=method, seed=request.seed, config={"command": command})
        return failures

    monkeypatch.setattr(comparing, "execute", execute)
    return asked


def test_sweep_trains_compares_and_goes_on_when_repeated(
    tmp_path: Path, trained: list[tuple[str, State]]
) -> None:
    words = ["sweep", "--methods", "plain, other", "--seeds", "0,2", "--out", tmp_path / "out"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "4 runs: 2 variants with 2 seeds (0, 2); 4 to start; one after another, in "
    )
    names = [f"{method}-seed{seed}" for seed in (0, 2) for method in ("plain", "other")]
    assert trained == [(name, "new") for name in names]
    assert "gain over plain" in result.stdout
    assert all((tmp_path / "out" / f"compare.{end}").exists() for end in ("md", "csv", "html"))
    trained.clear()
    (tmp_path / "out" / "other-seed2" / "summary.json").unlink()
    result = run(*words, "--jobs", 2)
    assert "; 3 finished, 1 to go on with; 2 at once, in " in result.stdout
    assert trained[-1] == ("other-seed2", "unfinished")
    assert [state for _, state in trained].count("finished") == 3


@pytest.mark.usefixtures("trained")
def test_failures_are_listed_at_the_end_and_are_exit_code_1(tmp_path: Path) -> None:
    result = run("sweep", "--methods", "plain", "--seeds", "0-1", "--out", tmp_path)
    assert result.exit_code == 1 and result.exception is not None
    assert result.stdout.splitlines()[-2:] == [
        "1 of 2 runs failed; the same command tries them again:",
        "  plain-seed1: the images are gone",
    ]
    assert (tmp_path / "compare.html").exists()
    result = run("sweep", "--methods", "other", "--seeds", "1", "--out", tmp_path / "none")
    assert result.exit_code == 1 and "note: nothing is compared: " in result.stdout


@pytest.mark.usefixtures("trained")
def test_a_signal_is_its_exit_code_and_says_that_the_command_goes_on(tmp_path: Path) -> None:
    result = run("sweep", "--methods", "plain", "--seeds", "0,9", "--out", tmp_path)
    assert result.exit_code == 143
    assert result.stdout.endswith("stopped: 1 of 2 runs are finished; the same command goes on\n")


def test_a_dry_run_prints_commands_that_can_be_typed(
    tmp_path: Path, trained: list[tuple[str, State]]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'methods = ["plain"]\npreset = "light"\nset = ["train.lr=0.1"]\nseeds = "0-1"\n'
    )
    words = ["sweep", study, "--set", "train.batch=4", "--cpu", "--out", tmp_path / "my runs"]
    result = run(*words, "--dry-run")
    assert result.exit_code == 0 and trained == []
    common = "u2pl-toy train plain --preset light --set train.lr=0.1 --set train.batch=4"
    out = tmp_path / "my runs" / "plain-seed"
    assert result.stdout.splitlines() == [
        f"{common} --out '{out}0' --cpu",
        f"{common} --seed 1 --out '{out}1' --cpu",
    ]
    assert run(*words, "--seeds", "5", "--dry-run").stdout.count("--seed 5") == 1
    run(*words, "--seeds", "0")
    assert run(*words, "--dry-run").stdout.startswith(f"# finished: {common} --out")
    assert not (tmp_path / "my runs" / "plain-seed1").exists()


def test_sweep_is_no_program_for_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("sweep", "--methods", "plain", "--out", tmp_path / "a")
    assert result.exit_code == 2 and "leave accelerate launch out" in result.stderr


def test_a_sweep_trains_in_processes_of_its_own(tmp_path: Path) -> None:
    options = ["--preset", "light", "--most-images", "4", "--steps", "1", "--cpu"]
    result = run("sweep", "--methods", "plain", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "1 run of 1 variant" in result.stdout and "plain-seed0: mIoU " in result.stdout
    assert os.path.getsize(tmp_path / "out" / "plain-seed0" / "report.html") > 0
