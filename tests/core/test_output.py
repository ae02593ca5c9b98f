from __future__ import annotations

import io
import os
import sys

import pytest

from u2pl.output import Enduring, is_output_lost, outlive_output, show_what_can_be_shown


class Ended(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_what_is_written_after_the_end_is_dropped() -> None:
    stream = Enduring(Ended())
    assert not stream.lost
    stream.flush()
    assert stream.lost
    assert stream.write("x") == 1 and not stream.isatty()
    closed = Enduring(None)
    assert closed.lost and closed.write("x") == 1


def test_what_is_behind_the_end_of_a_pipe_is_nothing() -> None:
    """Python itself writes there at its exit."""
    reading, writing = os.pipe()
    stream = Enduring(os.fdopen(writing, "w"))
    os.close(reading)
    stream.write("x" * 10)
    stream.flush()
    assert stream.lost
    stream.stream.write("y" * 100_000)
    stream.stream.close()


def test_only_lost_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not is_output_lost()
    outlive_output()
    print("heard")
    assert not is_output_lost() and sys.stdout.getvalue() == "heard\n"
    wrapped = sys.stdout
    outlive_output()  # twice is once
    assert sys.stdout is wrapped
    monkeypatch.setattr(wrapped, "stream", Ended())
    print("unheard", flush=True)
    assert is_output_lost()


def test_what_an_encoding_has_no_bytes_for_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_alone = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_alone)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # of any kind
    show_what_can_be_shown()
    print("Ω \udcff …", flush=True)
    assert ascii_alone.buffer.getvalue() == b"\\u03a9 \\udcff \\u2026\n"
