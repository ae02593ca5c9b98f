from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from harness.holder import held
from u2pl.errors import DiskError, UserError
from u2pl.training import run_lock
from u2pl.training.run_lock import LOCK, locked


def test_the_refusal_names_who_writes_and_changes_nothing(tmp_path: Path) -> None:
    with held(tmp_path) as holder:
        before = (tmp_path / LOCK).read_bytes()
        with pytest.raises(UserError) as refused, locked(tmp_path):
            pass
        assert re.fullmatch(
            rf"{tmp_path} is being written by process {holder.pid} on \S+, since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: wait for it, end it, or choose another --out",
            str(refused.value),
        )
        assert (tmp_path / LOCK).read_bytes() == before and os.listdir(tmp_path) == [LOCK]
        # what it says of itself is printed, so it may command nothing
        (tmp_path / LOCK).write_bytes(b"\x1b[2J\nmine\xff")
        with pytest.raises(UserError, match=r"is being written by \[2J mine.: wait"):
            locked(tmp_path).__enter__()


def test_a_program_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with held(tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert (tmp_path / LOCK).exists()  # it could not clear away
        with locked(tmp_path) as note:
            assert note == ""
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
        assert os.listdir(tmp_path) == []


def test_what_is_over_leaves_nothing(tmp_path: Path) -> None:
    with held(tmp_path) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        holder.stdout.readline()
        assert os.listdir(tmp_path) == []
        with locked(tmp_path):
            pass


def test_a_file_that_its_holder_has_just_removed_is_not_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before, locked afterwards: another program may have made a new one meanwhile."""
    real, seen = run_lock.lock, list[int]()

    def late(file: int) -> bool | None:
        seen.append(file)
        if len(seen) == 1:
            (tmp_path / LOCK).unlink()
        return real(file)

    monkeypatch.setattr(run_lock, "lock", late)
    with locked(tmp_path):
        assert len(seen) == 2 and os.listdir(tmp_path) == [LOCK]


def test_a_program_refuses_itself_too(tmp_path: Path) -> None:
    """The system would not: to it a lock of one's own is no hindrance."""
    refused: list[str] = []

    def again() -> None:
        try:
            locked(tmp_path).__enter__()
        except UserError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
        assert (tmp_path / LOCK).exists()
    assert "is being written by this program" in refused[0]
    with locked(tmp_path):
        pass


def test_where_there_are_no_locks_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "lock", lambda _: None)
    with locked(tmp_path) as note:
        assert note.startswith(f"locks do not work where {tmp_path} is: nothing keeps another")
        with pytest.raises(UserError, match="this program"):
            locked(tmp_path).__enter__()


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(DiskError, match=r"cannot write .*\.lock: "):
        locked(tmp_path).__enter__()
    assert (tmp_path / "mine").read_text() == "dear"
