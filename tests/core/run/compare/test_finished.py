from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.runs import write_run
from u2pl.errors import UserError
from u2pl.run.compare.finished import find_runs, network_of, read_run


@pytest.mark.parametrize(
    ("names", "student", "average"),
    [
        (["student", "ema"], "student", "ema"),
        (["teacher", "student"], "student", "teacher"),
        (["student", "second", "average"], "student", "average"),
        (["student"], "student", None),
        (["own"], "own", None),
        (["teacher"], None, "teacher"),
    ],
)
def test_networks_have_roles(names: list[str], student: str | None, average: str | None) -> None:
    assert network_of("student", names) == student
    assert network_of("average", names) == average


def test_a_run_knows_its_scores(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", method="other", seed=3, averaged="teacher"))
    assert (run.method, run.seed, run.minutes) == ("other", 3, 1.5)
    assert run.network("average") == "teacher"
    for role in ("student", "average"):
        score, counts = run.score(role), run.counts(role)
        assert score is not None and counts is not None and counts.score() == score
        assert run.curve(role) == {10: score.miou - 10, 20: score.miou}
        assert run.best(role) == score.miou
    assert run.draws("student") is run.draws("student")


def test_without_a_journal_the_best_of_the_result_is_known(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", summary={"miou_best": 77.0})
    (folder / "journal.jsonl").unlink()
    run = read_run(folder)
    assert run.best("student") == 77.0 and run.best("average") is None
    assert run.curve("student") == {}


def test_folders_of_runs_are_looked_into_each_run_once(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write_run(tmp_path / "runs" / f"a-{number}", seed=number)
    write_run(tmp_path / "runs" / "a-3", seed=3, finished=False)
    write_run(tmp_path / "runs" / "b", summary={"networks": {}})
    detector = tmp_path / "runs" / "detector"
    detector.mkdir()
    (detector / "config.json").write_text('{"app": "u2pl-semi detector"}')
    (tmp_path / "runs" / "notes").mkdir()
    found = find_runs([tmp_path / "runs" / "a-10", tmp_path / "runs"])
    assert [run.folder.name for run in found.runs] == ["a-10", "a-1", "a-2"]
    assert [folder.name for folder in found.unfinished] == ["a-3"]
    assert [folder.name for folder in found.unscored] == ["b"]


def test_what_holds_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a network, not a run: give the folder above"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no config", "is damaged: it has no config.json"),
        ("half a config", "is damaged: config.json cannot be read"),
        ("no options", r"is damaged \(KeyError: 'options'\)"),
        ("half a summary", "summary.json cannot be read .*; delete it, and train --resume"),
        ("an odd score", r"is not the summary of a run: networks\.student\."),
        ("no seconds", r"is damaged \(KeyError: 'seconds'\)"),
        ("half the counts", "counts.safetensors cannot be read as pixel counts"),
    ],
)
def test_a_damaged_run_is_one_line_and_never_left_out(
    tmp_path: Path, damage: str, says: str
) -> None:
    folder = write_run(tmp_path / "runs" / "run")
    config, summary = folder / "config.json", folder / "summary.json"
    held, done = json.loads(config.read_text()), json.loads(summary.read_text())
    if damage == "no config":
        (folder / "last").mkdir()
        config.unlink()
    if damage == "half a config":
        config.write_text(config.read_text()[:40])
    if damage == "no options":
        config.write_text(json.dumps({k: v for k, v in held.items() if k != "options"}))
    if damage == "half a summary":
        summary.write_text(summary.read_text()[:40])
    if damage == "an odd score":
        done["networks"]["student"] = {"quality": 1}
        summary.write_text(json.dumps(done))
    if damage == "no seconds":
        summary.write_text(json.dumps({k: v for k, v in done.items() if k != "seconds"}))
    if damage == "half the counts":
        counts = folder / "counts.safetensors"
        counts.write_bytes(counts.read_bytes()[:-9])
    with pytest.raises(UserError, match=says) as refused:
        _ = find_runs([tmp_path / "runs"]).runs[0].counted
    assert "\n" not in str(refused.value)
    shutil.rmtree(folder)
