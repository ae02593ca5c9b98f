"""A folder of tiny images, the options that make a run on them small, and programs to run it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

HERE = Path(__file__).parent
CLI = HERE.parents[1] / "apps" / "semi" / "cli.py"

NETWORK = {
    "network.decoder": "deeplabv3plus_light", "network.encoder": "test_resnet", "network.encoder_weights": "none",
    "network.output_stride": "16", "network.atrous_rates": "[1,2,3]", "network.embed_dim": "16",
}  # fmt: skip
TINY = NETWORK | {
    "data.crop": "32", "data.workers": "0", "train.batch": "2", "train.reference_batch": "2",
    "train.log_every": "1", "train.evaluations": "2",
}  # fmt: skip
QUEUES = {
    "method.contrast.queue": "20",
    "method.contrast.queue_background": "30",
    "method.contrast.anchors": "8",
    "method.contrast.negatives": "4",
}


def assignments(method: str, **changes: Any) -> list[str]:
    """The `--set` options of a tiny run; `train_lr=1` changes train.lr."""
    values = (
        TINY | (QUEUES if method in ("u2pl", "u2plplus") else {}) | {key.replace("_", ".", 1): str(value) for key, value in changes.items()}
    )
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def make_folder(root: Path, classes: int = 4, images: int = 10, size: tuple[int, int] = (40, 36)) -> Path:
    """A data folder of blocks of colour: images 0-2 are val, 3-6 are labelled, the others have no mask."""
    rng = np.random.default_rng(classes)
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        mask = np.kron(rng.integers(classes, size=(3, 3)), np.ones((16, 16), np.int64))[: size[1], : size[0]].astype(np.uint8)
        colour = (40 + 50 * np.stack([mask, classes - mask, mask % 2], axis=-1) + rng.integers(20, size=(*mask.shape, 3))).astype(np.uint8)
        Image.fromarray(colour).save(root / "images" / f"{number}.png")
        if number < 7:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "splits" / "val.txt").write_text("0\n1\n2\n")
    (root / "splits" / "labeled.txt").write_text("3\n4\n5\n6\n")
    (root / "classes.txt").write_text("".join(f"class{index}\n" for index in range(classes)))
    return root


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    """The function `assignments`."""
    return assignments


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Path]:
    """The function `make_folder`."""
    return make_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder that most tests only read."""
    return make_folder(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="session")
def command() -> Callable[..., Any]:
    """Run `u2pl-semi` in this process; the result has exit_code, stdout and stderr."""
    from u2pl_semi.app import program

    return lambda *args: CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture(scope="session")
def refused(command: Callable[..., Any]) -> Callable[..., str]:
    """Run `u2pl-semi` and expect exit code 2 and one line that starts with "error:"; returns the line."""

    def run(*args: Any) -> str:
        result = command(*args)
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: "), result.stderr
        return lines[0]

    return run


class Launcher:
    """A process that has imported the program once and forks a child for each command: what a start costs is paid once."""

    def __init__(self, threads: int) -> None:
        # threads that wait without spinning: on a busy machine two of them are otherwise ten times slower than one
        settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        command = [sys.executable, str(HERE / "launcher.py"), str(CLI)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings)

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


@pytest.fixture(scope="session", params=[1, 2], ids=["1-thread", "2-threads"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """A launcher for each number of threads."""
    made = Launcher(request.param)
    yield made
    made.close()
