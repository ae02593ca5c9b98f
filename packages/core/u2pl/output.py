"""What is printed, by work that takes longer than anybody may listen."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Enduring:
    """A text stream whose end is no error: what is written after it is dropped.

    `train | head` closes the pipe, a log file's disk gets full; the work goes on.

    Args:
        stream: None if it was closed when the program began.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost = stream is None
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self.stream.write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what was not written yet."""
        try:
            self.stream.flush()
        except OSError:
            self._lose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self) -> None:
        """Let whoever writes to the file behind it, be it Python at its exit, write to nothing."""
        self.lost = True
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


def show_what_can_be_shown() -> None:
    """Print an escape such as `\\u2713` for what the output's encoding has no bytes for.

    Otherwise a name in another script could end a command after all its work.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def outlive_output() -> None:
    """Go on when standard output or the error stream end."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Enduring):
            setattr(sys, name, Enduring(stream))


def is_output_lost() -> bool:
    """Whether something that was printed has reached nobody since `outlive_output`."""
    return any(isinstance(each, Enduring) and each.lost for each in (sys.stdout, sys.stderr))
