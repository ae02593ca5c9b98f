"""Commands of an app: what they print, and a process that runs many of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def faults(result: Any) -> list[str]:
    """What a `doctor` lists that is to be fixed first."""
    assert result.exit_code == 2, result.output
    listed = result.stdout.split("fix this first:\n")[1]
    return [line.removeprefix("  - ") for line in listed.splitlines()]


def journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's journal, without how long they took."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def logged_steps(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's journal that are of steps."""
    return [line for line in journal(folder) if "lr" in line]


def losses(entry: dict[str, Any]) -> set[str]:
    """Names of the terms of the loss in a line of a journal."""
    return {key.removeprefix("loss/") for key in entry if key.startswith("loss/")}


class Launcher:
    """A process that has imported the apps once and forks a child for each program.

    What a start costs is paid once.
    """

    def __init__(self) -> None:
        # threads that wait without spinning: on a busy machine two of them are otherwise ten times
        # slower than one
        settings = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "launcher.py")],
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

    def start(
        self,
        log: Path,
        file: Path,
        *args: Any,
        threads: int = 1,
        dies: tuple[int, float] | None = None,
    ) -> int:
        """Start a program in a process group of its own; returns its id.

        Args:
            log: where its output goes.
            file, args: of the program.
            threads: that it computes on.
            dies: in which of the files that it writes it dies, from 1, and at what share of it.
        """
        words = [str(file), *map(str, args)]
        return self._ask(start=words, threads=threads, log=str(log), dies=dies)

    def wait(self, pid: int) -> int:
        """The exit code; the negative number of a signal, if one ended the process."""
        return self._ask(wait=pid)

    def run(self, log: Path, file: Path, *args: Any, threads: int = 1) -> None:
        """Run a program that must succeed."""
        code = self.wait(self.start(log, file, *args, threads=threads))
        assert code == 0, log.read_text()[-3000:]

    def close(self) -> None:
        """End the server."""
        self.server.communicate()
