from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from u2pl.errors import UserError
from u2pl.training import claim
from u2pl.training.claim import Numbered, claimed
from u2pl.training.run_folder import check_same, read_config


def begin(folder: Path, config: dict[str, object]) -> None:
    """A run in a folder of its own, which is over at once."""
    with claimed(folder, config):
        pass


def go_on(folder: Path, config: dict[str, object]) -> None:
    check_same(folder, config)
    with claimed(folder, None):
        pass


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
    real = claim.locked

    def late(folder: Path) -> Any:
        (folder / "config.json").write_text('{"seed": 1}')
        return real(folder)

    monkeypatch.setattr(claim, "locked", late)
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path / "run", {"seed": 0})
    assert read_config(tmp_path / "run") == {"seed": 1}


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        begin(tmp_path / "file" / "run", {})
