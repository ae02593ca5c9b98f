"""Commands of an app: their options, what they print, and a process that runs many of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from u2pl.cli.app import App

HERE = Path(__file__).parent

#: Small queues, for every method with a contrast.
QUEUES = {
    "method.contrast.queue": "20",
    "method.contrast.queue_background": "30",
    "method.contrast.anchors": "8",
    "method.contrast.negatives": "4",
}


def set_words(values: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """The `--set` options of these values; a change `train_lr` is one of train.lr."""
    values = {**values, **{key.replace("_", ".", 1): value for key, value in changes.items()}}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def faults(result: Any) -> list[str]:
    """What a `doctor` lists that is to be fixed first."""
    assert result.exit_code == 2, result.output
    return [
        line.removeprefix("  - ")
        for line in result.stdout.split("fix this first:\n")[1].splitlines()
    ]


class Launcher:
    """A process that has imported the program once and forks a child for each command: what a start costs is paid once."""

    def __init__(self, app: App, threads: int) -> None:
        # threads that wait without spinning: on a busy machine two of them are otherwise ten times slower than one
        settings = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
        }
        command = [
            sys.executable,
            str(HERE / "launcher.py"),
            str(app.folder.parent / "cli.py"),
            app.package,
        ]
        self.server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )

    def _ask(self, **request: Any) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, log: Path, *args: Any) -> int:
        """Start a command in a process group of its own, its output in `log`; returns the process id."""
        return self._ask(start=[str(arg) for arg in args], log=str(log))

    def wait(self, pid: int) -> int:
        """The exit code; of a process that a signal ended, the negative number of the signal."""
        return self._ask(wait=pid)

    def run(self, log: Path, *args: Any) -> None:
        """Run a command that must succeed."""
        code = self.wait(self.start(log, *args))
        assert code == 0, log.read_text()

    def close(self) -> None:
        """End the server."""
        self.server.communicate()
