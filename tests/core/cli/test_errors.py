from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import typer

from u2pl.cli import errors
from u2pl.cli.errors import guarded, say_error
from u2pl.errors import UserError


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


def test_our_own_mistakes_keep_their_traceback() -> None:
    for error in (ValueError("x"), OSError(errno.EACCES, "x"), AssertionError()):
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
