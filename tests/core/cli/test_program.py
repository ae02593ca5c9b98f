import errno
from typing import Any

import pytest
import typer

from u2pl.cli import app
from u2pl.errors import UserError


def failing(error: BaseException) -> Any:
    @app.one_line_errors
    def command() -> None:
        raise error

    return command


def test_what_a_user_got_wrong_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (
        UserError("that is wrong"),
        OSError(errno.ENOSPC, "No space left on device", "/disk/file"),
    ):
        with pytest.raises(typer.Exit) as exit:
            failing(error)()
        assert exit.value.exit_code == 2
    assert (
        capsys.readouterr().err
        == "error: that is wrong\nerror: the disk is full (/disk/file); free some space, then --resume\n"
    )


def test_our_own_mistakes_keep_their_traceback() -> None:
    for error in (ValueError("x"), OSError(errno.EACCES, "x"), AssertionError()):
        with pytest.raises(type(error)):
            failing(error)()


def test_an_interrupt_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exit:
        failing(KeyboardInterrupt())()
    assert exit.value.exit_code == 130
    assert capsys.readouterr().err == ""


def test_another_process_lets_the_first_one_speak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(app.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(typer.Exit):
        failing(UserError("only I know"))()
    assert waited == [app.GRACE]
    assert capsys.readouterr().err == "error: only I know\n"
