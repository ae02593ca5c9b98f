"""How work that takes a while tells how far it is, without knowing who listens; times in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Called with (done, to do); between two of what is counted, `done` may have a fraction.
OnProgress = Callable[[float, int], object]

#: Opens a counter for a piece of work that is named in words.
Counting = Callable[[str], AbstractContextManager[OnProgress]]


@contextmanager
def silently(what: str) -> Iterator[OnProgress]:
    """Nobody listens."""
    yield lambda done, total: None


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def amount(size: int | float) -> str:
    """Bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.0f} kB"
