"""What goes to the error stream: a word at the start, and mistakes in one line, exit code 2."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer

from u2pl.errors import LostError, UserError, one_line, out_of_memory, shortened

LOADING = "loading PyTorch ..."
#: What a system says of a path that a user has named or owns.
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
    *(errno.EDQUOT, errno.ESTALE),
)
#: Seconds that processes which need not speak wait for the launcher to end them.
GRACE = 5.0


def guarded(body: Callable[[], int | None]) -> int | None:
    """Run a command's body; what a user can get wrong becomes one line and exit code 2."""
    try:
        return body()
    except LostError as error:
        fail(str(error), speakers=("0", "1"))  # the first may be the one that is gone
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


def fail(message: str, speakers: Sequence[str] = ("0",)) -> NoReturn:
    """Print an error line and exit with code 2.

    Args:
        message: the line.
        speakers: ranks that print it at once; the others wait for the launcher to end them.
    """
    if os.environ.get("RANK", "0") not in speakers:
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
