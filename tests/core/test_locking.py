from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from u2pl import locking
from u2pl.locking import is_at, lock

#: Locks a file, says whether it could, and waits; a child of its own outlives it.
HOLD = """
import os, sys, time
from u2pl.locking import lock

file = os.open(sys.argv[1], os.O_RDWR)
print(lock(file), flush=True)
if os.fork() == 0:
    time.sleep(2)
    os._exit(0)
time.sleep(60)
"""


def test_a_lock_is_held_against_others_until_its_process_ends_whatever_becomes_of_its_children(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.touch()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, open(path, "r+b") as file:
        assert holder.stdout.readline() == b"True\n"
        assert lock(file.fileno()) is False
        holder.kill()
        holder.wait()
        assert lock(file.fileno()) is True


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_nothing_is_known(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(locking.fcntl, "lockf", none)
    with open(tmp_path / "file", "wb") as file:
        assert lock(file.fileno()) is None


def test_an_open_file_may_have_lost_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        assert is_at(path, file.fileno())
        path.unlink()
        assert not is_at(path, file.fileno())
        path.touch()
        assert not is_at(path, file.fileno())
