"""One program at a time writes into the folder of a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from u2pl.errors import DiskError, UserError, one_line
from u2pl.locking import is_at, lock

#: File of a run's folder that is locked while a program writes there; it says which one.
LOCK = ".lock"
#: Bytes that are read of it.
_LONG = 200
#: Locked by this process: the system does not refuse a process its own locks.
_OWN: set[Path] = set()


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Keep other programs from writing into a folder, and yield a note, empty if that works.

    The system ends the lock when this process ends, however it ends.

    Args:
        folder: that exists.

    Raises UserError if another program, or another thread, writes there.
    """
    path = folder.resolve() / LOCK
    if path in _OWN:
        raise _refusal(folder, "this program")
    file, note = _take(path, folder)
    _OWN.add(path)
    try:
        yield note
    finally:
        _OWN.discard(path)
        with suppress(OSError):  # one that stays, or went with the folder, does no harm
            path.unlink()  # before it is free: afterwards it may be another one's
        os.close(file)


def _take(path: Path, folder: Path) -> tuple[int, str]:
    """The open and locked file, and a note if it cannot be locked."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise DiskError(
                f"cannot write {path}: {error.strerror}; mend that, or choose another folder"
            ) from error
        taken = lock(file)
        if taken is False:
            holder = os.read(file, _LONG).decode(errors="replace")
            os.close(file)
            raise _refusal(folder, one_line(holder).strip() or "another program")
        # the one who had it before removes it: then it is no longer the folder's
        if taken is None or is_at(path, file):
            break
        os.close(file)
    os.truncate(file, 0)
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {began}\n".encode())
    if taken is None:
        return file, (
            f"locks do not work where {folder} is: nothing keeps another program from going on "
            "with this run at the same time"
        )
    return file, ""


def _refusal(folder: Path, holder: str) -> UserError:
    return UserError(
        f"{folder} is being written by {holder}: wait for it, end it, or choose another --out"
    )
