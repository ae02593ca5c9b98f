from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import typer

from u2pl.cli import errors
from u2pl.cli.errors import guarded, say_error
from u2pl.errors import LostError, UserError


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def test_what_a_user_got_wrong_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (
        UserError("that is wrong"),
        OSError(errno.ENOSPC, "No space left on device", "/disk/file"),
    ):
        with pytest.raises(typer.Exit) as exit:
            guarded(raising(error))
        assert exit.value.exit_code == 2
    assert capsys.readouterr().err == (
        "error: that is wrong\n"
        "error: the disk is full (/disk/file); free some space and start again\n"
    )


def test_names_of_files_cannot_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("a\nb\x1b[2J.png is broken\u2028here")
    assert capsys.readouterr().err == "error: a b [2J.png is broken here\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9), "xxxxxxxxx: File name too"),
        (RuntimeError("x: can't allocate memory: you tried 9 bytes"), "there is not enough memory"),
        (MemoryError(), "there is not enough memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "there is not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit:
        guarded(raising(error))
    said = capsys.readouterr().err
    assert exit.value.exit_code == 2
    assert said.startswith(f"error: {says}") and said.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback() -> None:
    for error in (ValueError("x"), RuntimeError("x"), OSError(errno.EACCES, "x"), AssertionError()):
        with pytest.raises(type(error)):
            guarded(raising(error))


def test_an_interrupt_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exit:
        guarded(raising(KeyboardInterrupt()))
    assert exit.value.exit_code == 130
    assert capsys.readouterr().err == ""


def test_another_process_lets_the_first_one_speak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(typer.Exit):
        guarded(raising(UserError("only I know")))
    assert waited == [errors.GRACE]
    assert capsys.readouterr().err == "error: only I know\n"
    with pytest.raises(typer.Exit):  # the first may be the one that is gone
        guarded(raising(LostError("another has ended")))
    assert waited == [errors.GRACE]
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(typer.Exit):
        guarded(raising(LostError("another has ended")))
    assert waited == [errors.GRACE] * 2
