"""`accelerate launch`, but for how its processes start: they are forked from this one.

Run by a launcher as `accelerated.py OPTIONS FILE ARGUMENTS`. Each would otherwise load torch anew,
which takes longer than all that it does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import preload
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from u2pl.training.loading import STOPPING


class Forked:
    """What the launcher needs of a `Popen`.

    Args:
        words: an interpreter, its option, a file and arguments.
        environment: of the process.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for each in STOPPING:
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.clear()
            os.environ.update(environment)
            preload.execute(words[2:])

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.01)


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "1"
    SubprocessHandler._popen = lambda self, words, environment: Forked(words, environment)  # type: ignore
    launch_command(launch_command_parser().parse_args(sys.argv[1:]))
