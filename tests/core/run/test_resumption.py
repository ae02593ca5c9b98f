"""Going on with a run by its folder alone."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from core.toy.app import APP, ToyRequest, program
from core.toy.methods.plain import Plain
from harness.holder import held
from u2pl.errors import DiskError, UserError
from u2pl.files import replace_file
from u2pl.methods.discovery import known_methods
from u2pl.model.model import load
from u2pl.run.resumption import Resumption, find_resumption, resume_command, typed
from u2pl.run.train import train
from u2pl.tensor_file import read_tensors, tensor_file
from u2pl.training.checkpoint import FILE
from u2pl.training.loop import Interrupted
from u2pl.training.run_folder import read_config

#: A score of a network.
ZERO = {"per_class_iou": [0.0, 0.0, 0.0], "miou": 0.0, "pixel_accuracy": 0.0}
#: A run of five steps, whose state is written after each.
WORDS = [
    *("train", "plain", "--cpu", "--preset", "demo", "--most-images", "4", "--seed", "3"),
    *("--set", "train.checkpoint_every=1", "--set", "train.log_every=1"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert CliRunner().invoke(program, [*WORDS, "--out", str(out)]).exit_code == 0
    return out


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """`at_step(2, error)` raises it in the third step, once."""

    def set_trap(step: int, error: BaseException) -> None:
        real, sprung = Plain.forward, []

        def forward(self: Plain, batch: Any, progress: Any) -> Any:
            if progress.step == step and not sprung:
                sprung.append(step)
                raise error
            return real(self, batch, progress)

        monkeypatch.setattr(Plain, "forward", forward)

    return set_trap


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("resume.safetensors", "last/model.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_ctrl_c_says_from_which_step_and_its_line_can_be_pasted(
    whole: Path,
    at_step: Callable[[int, BaseException], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    at_step(2, KeyboardInterrupt())
    result = CliRunner().invoke(program, [*WORDS, "--out", "my runs/it's one"])
    assert result.exit_code == 130
    line = result.stdout.splitlines()[-1]
    said, command = line.split("; go on with: ")
    assert said == "interrupted; the last state is that after step 2"
    assert shlex.split(command) == ["u2pl-toy", "train", "--resume", "my runs/it's one"]
    result = CliRunner().invoke(program, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "note: going on after step 2 of 5" in result.stdout
    assert_same_run(whole, tmp_path / "my runs" / "it's one")


def test_what_does_not_fit_in_memory_is_one_line_and_leaves_nothing_behind(
    at_step: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    at_step(0, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"))
    result = CliRunner().invoke(program, [*WORDS, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is not enough memory: ")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_before_the_first_state_begins_again(
    whole: Path, at_step: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    at_step(0, KeyboardInterrupt())
    result = CliRunner().invoke(program, [*WORDS, "--out", str(tmp_path / "run")])
    said = result.stdout.splitlines()[-1]
    assert said.startswith("interrupted; no state was saved yet, so it begins again; go on with: ")
    typed_again = shlex.split(said.partition("go on with: ")[2])[1:]
    assert CliRunner().invoke(program, typed_again).exit_code == 0
    assert_same_run(whole, tmp_path / "run")


def test_python_gets_an_interrupt_and_a_full_disk_with_the_same_words(
    at_step: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    values = {"method": "plain", "preset": "demo", "most_images": 4, "cpu": True}
    at_step(1, KeyboardInterrupt())
    with pytest.raises(Interrupted, match=r"go on with: u2pl-toy train --resume .*/one$"):
        train(APP, ToyRequest.of(**values, out=tmp_path / "one"))
    at_step(1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk"))
    with pytest.raises(DiskError, match=r"disk is full \(/disk\).*; go on with: .* --resume .*two"):
        train(APP, ToyRequest.of(**values, out=tmp_path / "two"))
    run = train(APP, ToyRequest.of(resume=tmp_path / "two"))
    assert run.summary["steps"] == 5
    with pytest.raises(UserError, match="leave method out"):
        ToyRequest.of(method="plain", resume=tmp_path / "two")


def test_a_finished_run_is_one_line_and_its_result(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    result = CliRunner().invoke(program, ["train", "--resume", str(whole)])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{whole} is finished: there is nothing to go on with"
    assert any(line.startswith("mIoU of the student") for line in lines)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def copied(whole: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of a run that is not finished, with another config.json."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "summary.json").unlink()
    config = json.loads((copy / "config.json").read_text()) | changes
    text = {key: value for key, value in config.items() if value is not ...}
    (copy / "config.json").write_text(json.dumps(text))
    return copy


def with_facts(run: Path, **changes: Any) -> None:
    """Other facts in a state, with a digest that says that they are right."""
    tensors, facts, _ = read_tensors(run / FILE)
    facts["facts"] = json.dumps(json.loads(facts["facts"]) | changes)
    replace_file(run / FILE, tensor_file(tensors, facts))


def refused(run: Path) -> str:
    """The one line of a run that does not go on, in which nothing is changed."""
    before = content(run)
    result = CliRunner().invoke(program, ["train", "--resume", str(run)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert content(run) == before
    return line


def content(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"step": -1}, "no history of a run (step: "),
        ({"evaluations": None}, "no history of a run (evaluations: "),
        ({"step": 10**9}, "is that after step 1000000000, but the run has 5"),
        (
            {"evaluations": [{"step": 5, "x": ZERO}], "best": {"step": 5, "x": ZERO}},
            "scores of other networks than the method's",
        ),
    ],
    ids=["negative", "null", "10^9", "another network"],
)
def test_a_state_that_says_what_cannot_be_is_one_line(
    whole: Path, tmp_path: Path, facts: dict[str, Any], says: str
) -> None:
    run = copied(whole, tmp_path)
    with_facts(run, **facts)
    assert says in refused(run)


def test_a_flipped_bit_in_a_state_or_a_network_is_one_line(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path)
    flip(run / FILE)
    assert "resume.safetensors cannot be read (its content is not what was written" in refused(run)
    flip(run / "last" / "model.safetensors")
    with pytest.raises(UserError, match=r"safetensors is damaged or truncated \(its content"):
        load(run)


def flip(path: Path) -> None:
    """One bit, in the middle."""
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def test_another_program_in_the_folder_is_named_and_nothing_is_changed(
    whole: Path, tmp_path: Path
) -> None:
    run = copied(whole, tmp_path)
    typed_again = [*WORDS, "--out", str(run), "--resume"]
    with held(run) as holder:
        line = refused(run)
        assert f"{run} is being written by process {holder.pid} on " in line
        again = CliRunner().invoke(program, typed_again)
        assert again.exit_code == 2 and again.stderr.strip() == line
    assert CliRunner().invoke(program, typed_again).exit_code == 0
    assert_same_run(whole, run)
    assert not (run / ".lock").exists()


def test_a_run_does_not_begin_where_another_one_does(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with held(run):
        result = CliRunner().invoke(program, [*WORDS, "--out", str(run)])
        assert result.exit_code == 2 and "is being written by process" in result.stderr
        assert [entry.name for entry in run.iterdir()] == [".lock"]


def test_where_there_are_no_locks_a_run_says_so_and_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2pl.training.run_lock.lock", lambda _: None)
    result = CliRunner().invoke(program, [*WORDS, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"note: locks do not work where {tmp_path / 'run'} is" in result.stdout
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("by_folder", [True, False])
def test_a_finished_run_needs_no_state(whole: Path, tmp_path: Path, by_folder: bool) -> None:
    run = shutil.copytree(whole, tmp_path / "copy")
    (run / FILE).unlink()
    before, words = content(run), [*WORDS, "--out", str(run), "--resume"]
    result = CliRunner().invoke(program, ["train", "--resume", str(run)] if by_folder else words)
    assert result.exit_code == 0, result.output
    assert f"{run} is finished: there is nothing to go on with" in result.stdout
    assert content(run) == before
    other = CliRunner().invoke(program, [*words, "--set", "train.lr=0.5"])
    assert other.exit_code == 2 and "was started with another train.lr (" in other.stderr


def test_a_run_that_has_lost_its_state_keeps_its_networks(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path)
    (run / FILE).unlink()
    assert "was trained to its end, but its state is gone" in refused(run)
    # before its end there is not so much to lose
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(lines[:3]))
    result = CliRunner().invoke(program, ["train", "--resume", str(run)])
    assert "note: no state was saved yet: the run begins again" in result.stdout
    assert_same_run(whole, run)


def test_a_damaged_line_of_the_journal_is_named_and_kept_and_the_run_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    run = copied(whole, tmp_path)
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    damaged = [lines[0], "{\n", *lines[2:]]
    (run / "journal.jsonl").write_text("".join([*damaged, '{"st']))
    result = CliRunner().invoke(program, ["train", "--resume", str(run)])
    assert result.exit_code == 0, result.output
    for line, what in ((2, "kept"), (len(lines) + 1, "dropped")):
        note = rf"note: .*journal\.jsonl: line {line} cannot be read .*, and is {what}\n"
        assert re.search(note, result.stdout), result.stdout
    assert (run / "journal.jsonl").read_text() == "".join(damaged)
    assert "line 2 cannot be read" in (run / "report.html").read_text()
    assert_same_run(whole, run)


def test_a_run_that_was_cut_short_in_its_report_gets_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("u2pl.run.train.write_report", interrupted)
        result = CliRunner().invoke(program, [*WORDS, "--out", str(tmp_path / "run")])
    assert result.exit_code == 130
    assert (tmp_path / "run" / "predictions.png").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    command = result.stdout.splitlines()[-1].partition("go on with: ")[2]
    assert CliRunner().invoke(program, shlex.split(command)[1:]).exit_code == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize(("barrier", "going_on"), [(1, False), (2, True)])
def test_another_process_may_be_gone_before_and_after_the_training_too(
    barrier: int,
    going_on: bool,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = iter(range(1, 3))

    def wait() -> None:
        if next(waiting) == barrier:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")

    run = copied(whole, tmp_path)
    monkeypatch.setattr("u2pl.distributed.barrier", wait)
    monkeypatch.setattr("u2pl.distributed.is_peer_lost", lambda error: "gloo" in str(error))
    result = CliRunner().invoke(program, ["train", "--resume", str(run)])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: another process of this run has ended or does not answer; ")
    assert line.endswith(f"go on with: u2pl-toy train --resume {run}") == going_on


def test_a_run_whose_other_process_is_gone_before_the_first_state_goes_on(
    whole: Path, tmp_path: Path, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(0, RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"))
    monkeypatch.setattr("u2pl.distributed.is_peer_lost", lambda error: "gloo" in str(error))
    result = CliRunner().invoke(program, [*WORDS, "--out", str(run)])
    assert result.exit_code == 2
    command = result.stderr.partition("go on with: ")[2]
    assert CliRunner().invoke(program, shlex.split(command)[1:]).exit_code == 0
    assert_same_run(whole, run)


def test_whoever_may_read_a_run_may_go_on_with_it(whole: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in whole.iterdir() if path.is_file()}
    assert modes["resume.safetensors"] == modes["config.json"]


def options(whole: Path, **train_options: Any) -> dict[str, Any]:
    found: Any = read_config(whole)["options"]
    values = found["train"] | train_options
    return found | {"train": {key: value for key, value in values.items() if value is not ...}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"app": "u2pl-semi"}, "is a run of u2pl-semi: u2pl-semi train --resume "),
        ({"options": ...}, "does not say options: it is not complete"),
        ({"options": [1]}, "is not the config of a run: options is [1]; train it again"),
        ({"steps": ..., "seed": ...}, "does not say seed, steps: it is not complete"),
        ({"method_name": "gone"}, "no method 'gone'"),
        ({"data": "nowhere"}, "nowhere has no images/ folder"),
        ({"seed": "x"}, 'is not the config of a run: seed is "x"'),
        ({"deterministic": "x"}, "config.json cannot be used: deterministic: "),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_one_line(
    whole: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    result = CliRunner().invoke(
        program, ["train", "--resume", str(copied(whole, tmp_path, **changes))]
    )
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert says in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unheard_of": 1}, r"another version of the options \(train\.unheard_of: "),
        (
            {"clip_norm": ...},
            r"another train\.clip_norm \(not known there: .*older version\); go on with that ver",
        ),
        ({"lr": "high"}, r"another version of the options \(train\.lr: .*, not 'high'"),
    ],
    ids=str,
)
def test_options_of_another_version_are_one_line(
    whole: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    copy = copied(whole, tmp_path, options=options(whole, **changes))
    with pytest.raises(UserError, match=says):
        train(APP, ToyRequest.of(resume=copy))


def test_a_damaged_config_is_one_line(whole: Path, tmp_path: Path) -> None:
    copy = copied(whole, tmp_path)
    for text in ("", "{", "[1]"):
        (copy / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json (cannot be read|is not the config)"):
            find(resume=True, method=str(copy))


def find(**values: Any) -> Resumption | None:
    return find_resumption(APP.name, ToyRequest(**values), known_methods(APP.methods))


def test_everything_is_taken_from_the_folder(whole: Path) -> None:
    found = find(resume=True, method=str(whole))
    assert found is not None and found.folder == whole and found.finished
    assert found.request == ToyRequest(
        method="plain", most_images=4, seed=3, cpu=True, out=whole, resume=True
    )
    recipe = found.recipe(APP)
    assert recipe.preset == "demo" and recipe.sections.train.checkpoint_every == 1
    assert recipe.dump() == read_config(whole)["options"]


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"seed": 1}, "--seed"),
        ({"steps": 9}, "--steps"),
        ({"preset": "light"}, "--preset"),
        ({"most_images": 5}, "--most-images"),
        ({"out": Path("x")}, "--out"),
        ({"set": ["train.lr=1"]}, "--set train.lr"),
    ],
    ids=str,
)
def test_more_than_the_folder_is_refused(whole: Path, values: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=rf"from its config\.json.*: leave {flag} out"):
        find(resume=True, method=str(whole), **values)


def test_what_changes_no_result_may_be_typed(whole: Path, tmp_path: Path) -> None:
    copy = copied(whole, tmp_path)
    words = ["--set", "train.log_every=2", "--set", "data.workers=0"]
    result = CliRunner().invoke(program, ["train", "--resume", str(copy), *words])
    assert result.exit_code == 0, result.output
    summary = json.loads((copy / "summary.json").read_text())
    assert summary["options"]["train"]["log_every"] == 2


def test_data_that_was_moved_is_named_and_other_data_refused(
    whole: Path, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    data = make_folder({"a": [0, 1, 2], "b": [0, 1, 2]}, val="a\n", train="b\n")
    base = ["train", "plain", "--cpu", "--preset", "demo", "--steps", "2", "--set", "train.batch=1"]
    out = tmp_path / "run"
    assert (
        CliRunner().invoke(program, [*base, "--data", str(data), "--out", str(out)]).exit_code == 0
    )
    (out / "summary.json").unlink()
    moved = data.rename(tmp_path / "moved")
    resume = ["train", "--resume", str(out)]
    result = CliRunner().invoke(program, resume)
    assert result.exit_code == 2 and "the folder itself does not exist" in result.stderr
    other = shutil.copytree(moved, tmp_path / "other")
    (other / "classes.txt").write_text("sky\ncat\ndog\n")
    result = CliRunner().invoke(program, [*resume, "--data", str(other)])
    assert result.exit_code == 2 and "add --accept-changed-data" in result.stderr
    result = CliRunner().invoke(program, [*resume, "--data", str(moved)])
    assert result.exit_code == 0, result.output
    assert read_config(out)["data"] == str(data)  # as it began


def test_a_method_and_a_folder_are_told_apart(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(method="plain") is find(method="plain", resume=True) is None
    assert find(method="nothing") is None  # said where methods are looked up
    with pytest.raises(UserError, match=r"--resume: there is no run nothing$"):
        find(method="nothing", resume=True)
    with pytest.raises(UserError, match=r"there is no run plian \(did you mean plain\?\)"):
        find(method="plian", resume=True)
    shutil.copytree(whole, tmp_path / "runs" / "toy-1")
    with pytest.raises(UserError, match=r"no run runs/toy-2 \(did you mean runs/toy-1\?\)"):
        find(method="runs/toy-2", resume=True)
    with pytest.raises(UserError, match=r"runs holds no run: it has no config\.json"):
        find(method="runs", resume=True)
    with pytest.raises(UserError, match=r"is a run, not a method; .* train --resume runs/toy-1$"):
        find(method="runs/toy-1")
    # an existing run is meant, even if it is called like a method
    shutil.copytree(whole, tmp_path / "plain")
    found = find(method="plain", resume=True)
    assert found is not None and found.folder == Path("plain")
    assert find(method="plain") is None


def test_commands_are_typed_as_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("runs/a b")
    assert resume_command("u2pl-semi", folder) == "u2pl-semi train --resume 'runs/a b'"
    assert typed("u2pl-semi detector") == ["u2pl-semi", "detector"]
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert typed("u2pl-semi") == ["uv", "run", "u2pl-semi"]
    (tmp_path / "cli.py").write_text("")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "cli.py"), "train"])
    assert typed("u2pl-semi detector") == ["python", str(tmp_path / "cli.py"), "detector"]
