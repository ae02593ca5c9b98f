"""A run that was stopped or killed goes on as if nothing had happened."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from harness.commands import Launcher
from harness.pages import ROOT, commands
from harness.resuming import (
    ENDED,
    GONE,
    Commands,
    ResumedRuns,
    Train,
    Whole,
    assert_same,
    run_of,
    wait_for,
)
from u2pl_semi.app import APP


def documented(rank: int, port: int) -> list[str]:
    """Options of `accelerate launch` on a machine, as docs/gpus.md has them.

    A machine there has four GPUs; here it has one process on a CPU.
    """
    (found,) = (
        each.launcher
        for each in commands(ROOT / "docs" / "gpus.md")
        if each.launcher and f"--machine_rank {rank}" in each.text
    )
    here = {"node0": "127.0.0.1", "29500": str(port), "8": "2", "bf16": "no"}
    assert here.keys() <= {*found}
    return [here.get(word, word) for word in found]


class TestResumedRuns(ResumedRuns):
    app = APP
    turn = 0
    steps = 10
    processes = (2, 1)

    def test_two_machines_train_what_two_processes_do_and_one_that_is_gone_ends_the_other(
        self,
        launcher: Launcher,
        train: Train,
        whole: Callable[..., Whole],
        tmp_path: Path,
    ) -> None:
        """Two launchers on this machine, each with a process of its own."""
        out, logs = tmp_path / "run", [tmp_path / "log0", tmp_path / "log1"]
        words = train(self.everything, out, **self.changes(2), train_checkpoint_every=1)

        def start(*more: Any) -> list[tuple[Commands, int]]:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            own = [Commands(launcher, APP, 1, documented(rank, port)) for rank in (0, 1)]
            return [
                (each, each.start(log, *words, *more)) for each, log in zip(own, logs, strict=True)
            ]

        (first, one), (second, other) = start()
        wait_for(out / "journal.jsonl", 3)
        left = psutil.Process(one).children()
        for each in (psutil.Process(other), *psutil.Process(other).children()):
            each.kill()
        assert second.wait(other) == -signal.SIGKILL
        _, alive = psutil.wait_procs(left, ENDED)
        assert first.wait(one) == 1 and not alive
        said = [line for line in logs[0].read_text().splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and said[0].startswith(GONE)
        assert said[0].endswith(f"go on with: python {first.file} train --resume {out}")

        for log, (own, pid) in zip(logs, start("--resume"), strict=True):
            assert own.wait(pid) == 0, log.read_text()
        assert_same(run_of(whole(self.everything, 2).folder), run_of(out))
