from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from u2pl.errors import UserError
from u2pl.training import run_folder
from u2pl.training.run_folder import (
    CHANGES,
    Numbered,
    accept_changes,
    check_same,
    claimed,
    differences,
    forget_unbegun,
    latest_folder,
    next_folder,
    read_config,
)


def begin(folder: Path, config: dict[str, object]) -> None:
    """A run in a folder of its own, which is over at once."""
    with claimed(folder, config):
        pass


def go_on(folder: Path, config: dict[str, object]) -> None:
    check_same(folder, config)
    with claimed(folder, None):
        pass


def test_folders_are_numbered_after_the_highest(tmp_path: Path) -> None:
    assert next_folder(tmp_path / "runs", "a") == tmp_path / "runs" / "a-1"
    for name in ("a-2", "a-10", "a-b-11", "b-12", "a-x", "xa-13"):
        (tmp_path / name).mkdir()
    assert next_folder(tmp_path, "a") == tmp_path / "a-11"


def test_the_newest_run_of_the_same_config_is_found(tmp_path: Path) -> None:
    for number, seed in ((2, 0), (9, 1), (10, 0), (11, 1)):
        begin(tmp_path / f"a-{number}", {"seed": seed})
    (tmp_path / "a-12").mkdir()  # killed before it wrote anything
    assert latest_folder(tmp_path, "a", {"seed": 0}) == tmp_path / "a-10"
    with pytest.raises(UserError, match="was started with this command"):
        latest_folder(tmp_path, "a", {"seed": 2})


def test_what_changes_no_result_may_differ() -> None:
    one = {
        "seed": 0,
        "data": {"workers": 1, "crop": 3, "name": "x"},
        "train": {"log_every": 1, "checkpoint_every": 5},
    }
    two = {
        "seed": 0,
        "data": {"workers": 2, "crop": 4, "name": "x"},
        "train": {"log_every": 2, "checkpoint_every": 6},
        "new": 1,
    }
    assert differences(one, two) == ["data.crop", "new"]
    assert differences({"a": (1, 2)}, {"a": [1, 2]}) == []  # as JSON writes it


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for left in (".config.json.01234567.part", ".lock"):  # by a kill
        (tmp_path / "run" / left).write_text("{")
    begin(tmp_path / "run", {"seed": 0})
    assert read_config(tmp_path / "run") == {"seed": 0}
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path / "run", {"seed": 0})
    go_on(tmp_path / "run", {"seed": 0})
    with pytest.raises(UserError, match="with another seed"):
        go_on(tmp_path / "run", {"seed": 1})
    with pytest.raises(UserError, match="holds no run"):
        go_on(tmp_path, {"seed": 1})
    assert read_config(tmp_path / "run") == {"seed": 0}


def test_what_is_claimed_holds_no_lock_afterwards_and_is_as_it_was_when_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path / "mine", {})
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["letter"]
    begin(tmp_path / "run", {})
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_numbered_folder_is_the_first_that_nobody_else_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run takes the number between the look and the making."""
    runs, real = tmp_path / "runs", Path.mkdir

    def overtaken(self: Path, *args: Any, **options: Any) -> None:
        if self.name in ("a-1", "a-2") and not self.exists():
            real(self, parents=True)
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with claimed(Numbered(runs, "a"), {"seed": 0}) as (folder, note):
        assert folder == runs / "a-3" and read_config(folder) == {"seed": 0} and not note
        assert sorted(entry.name for entry in runs.iterdir()) == ["a-1", "a-2", "a-3"]


def test_a_folder_that_is_taken_while_it_is_looked_at_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run begins and ends in it between the first look and the lock."""
    real = run_folder.locked

    def late(folder: Path) -> Any:
        (folder / "config.json").write_text('{"seed": 1}')
        return real(folder)

    monkeypatch.setattr(run_folder, "locked", late)
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path / "run", {"seed": 0})
    assert read_config(tmp_path / "run") == {"seed": 1}


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        begin(tmp_path / "file" / "run", {})


def test_a_run_that_failed_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    for name, lines in (("none", None), ("empty", ""), ("begun", '{"step": 0}\n')):
        folder = tmp_path / name
        begin(folder, {"seed": 0})
        if lines is not None:
            (folder / "journal.jsonl").write_text(lines)
        forget_unbegun(folder)
        assert folder.exists() == (name == "begun")


def test_a_refused_resume_names_option_and_values(tmp_path: Path) -> None:
    many = list(range(50))
    there = {"options": {"train": {"lr": 0.1, "list": many}, "data": {}}, "seed": 0}
    begin(tmp_path / "run", there)
    cases = {
        "train.lr (0.1 there, 0.2 here)": {"train": {"lr": 0.2, "list": many}, "data": {}},
        "train.list;": {"train": {"lr": 0.1, "list": [1]}, "data": {}},
        "data.new (not known there: ": {"train": {"lr": 0.1, "list": many}, "data": {"new": 1}},
    }
    for words, options in cases.items():
        with pytest.raises(UserError) as caught:
            go_on(tmp_path / "run", there | {"options": options})
        assert words in str(caught.value)


def test_changed_data_is_accepted_when_told_so_and_written_down(tmp_path: Path) -> None:
    def config(fingerprint: str, **others: object) -> dict[str, object]:
        return {"data_fingerprint": fingerprint, "steps": 9, "seed": 0, **others}

    folder = tmp_path / "run"
    begin(folder, config("a"))
    with pytest.raises(UserError, match=r"the data has changed .* add --accept-changed-data"):
        check_same(folder, config("b"))
    with pytest.raises(UserError, match=r"another .* seed \(0 there, 1 here\)"):
        check_same(folder, config("b", seed=1), data_may_differ=True)
    for now, step in ((config("b"), 4), (config("c", steps=8), 6)):
        changed = check_same(folder, now, data_may_differ=True)
        accept_changes(folder, now, changed, step)
    assert check_same(folder, config("c", steps=8)) == []  # nothing has changed since
    assert read_config(folder) == {
        **config("c", steps=8),
        CHANGES: [
            {"until_step": 4, "data_fingerprint": "a"},
            {"until_step": 6, "data_fingerprint": "b", "steps": 9},
        ],
    }
