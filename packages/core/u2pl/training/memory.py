"""Reusing freed memory on CPUs."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Make glibc reuse large freed blocks instead of returning them to the system.

    Every step allocates and frees the same large tensors; once returned, each of their pages causes
    a page fault again. Does nothing except on Linux with glibc. Returns whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # older versions accept no more than 32 MiB
    kept = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)
    return bool(kept and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
