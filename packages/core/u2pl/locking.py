"""Locks on open files, which the system releases when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def lock(file: int) -> bool | None:
    """Lock an open file for this process until it closes any descriptor of it.

    Child processes do not inherit the lock, so those that outlive this process hold nothing.

    Args:
        file: a descriptor that can be written to.

    Returns: whether it is locked now; None if neither is known, since this system or the file
    system has no locks.
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def is_at(path: Path, file: int) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False
