"""What is mutated: data, finished runs and predictions, and the program that reads them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from harness.blocks import make_folder
from harness.tiny import QUEUES, Tiny
from u2pl_semi.app import APP, program

#: Options of a run that is trained in a moment, besides those that `Tiny` knows of.
SMALL = {
    "network.decoder": "segformer",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.width": 8,
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.evaluations": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "network.embed_dim": 8,
    **QUEUES,
}


def type_words(*words: Any) -> Any:
    """The result of a command; the first argument may be several words."""
    first, *others = map(str, words)
    return CliRunner().invoke(program, [*shlex.split(first), *others])


def small(method: str = "suponly", **changes: Any) -> list[str]:
    """The options of a small run."""
    return Tiny(APP, SMALL)(method, **changes)


class World:
    """What cases begin with; they take copies of it."""

    def __init__(self, root: Path) -> None:
        self.data = make_folder(root / "data")
        self.runs = [root / "runs" / f"run{seed}" for seed in range(2)]
        for seed, run in enumerate(self.runs):
            self.train(run, "--seed", seed)
        self.predictions = root / "predictions"
        done = type_words("predict --cpu", self.runs[0], self.photo, "--out", self.predictions)
        assert done.exit_code == 0, done.output

    @property
    def photo(self) -> Path:
        """A scored one."""
        return self.data / "images" / "1.png"

    def train(self, out: Path, *more: Any) -> None:
        """A run of four steps."""
        words = ["train suponly --preset demo --cpu --steps 4 --data", self.data, *small()]
        done = type_words(*words, "--out", out, *more)
        assert done.exit_code == 0, done.output
