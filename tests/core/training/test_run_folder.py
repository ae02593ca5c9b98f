from __future__ import annotations

from pathlib import Path

import pytest

from u2pl.errors import UserError
from u2pl.files import write_json
from u2pl.training.run_folder import (
    CHANGES,
    accept_changes,
    check_same,
    differences,
    forget_unbegun,
    latest_folder,
    next_folder,
    read_config,
)


def begin(folder: Path, config: dict[str, object]) -> None:
    """A run that has written nothing but its config."""
    folder.mkdir()
    write_json(folder / "config.json", config)


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
            check_same(tmp_path / "run", there | {"options": options})
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
