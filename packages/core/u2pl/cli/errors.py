"""What goes to the error stream: a word at the start, and mistakes in one line, exit code 2."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import typer

from u2pl.errors import UserError, one_line, out_of_memory, shortened

LOADING = "loading PyTorch ..."
#: What a system says of a path that a user has named or owns.
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
    *(errno.EDQUOT, errno.ESTALE),
)
#: Seconds that the other processes wait for the launcher to end them after rank 0 has exited.
GRACE = 5.0


def guarded(body: Callable[[], int | None]) -> int | None:
    """Run a command's body; what a user can get wrong becomes one line and exit code 2."""
    try:
        return body()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            fail(f"the disk is full ({error.filename or error}); free some space and start again")
        if error.errno not in _REFUSED or not error.filename:
            raise
        fail(f"{error.filename}: {error.strerror}; mend that, or choose another place")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fail(
            "there is not enough memory: a smaller data.crop, train.batch or network, smaller "
            "images, or evaluate and predict with --mode slide need less"
        )


def fail(message: str) -> NoReturn:
    """Print an error line and exit with code 2; of several processes only rank 0 prints."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE)
    say_error(message)
    raise typer.Exit(2)


def say_starting() -> None:
    """Tell a person that something happens: loading torch and timm takes seconds."""
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print(LOADING, file=sys.stderr, flush=True)


def begin(command: str) -> None:
    """The first line of a long command, wherever it goes; nothing if torch is loaded already."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        print(f"{command}: {LOADING}", flush=True)


def say_error(message: str) -> None:
    """The line that every error ends in."""
    print(shortened(f"error: {one_line(message)}"), file=sys.stderr)
