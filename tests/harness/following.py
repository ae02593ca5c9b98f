"""Two processes with 4 + 4 images each follow one with 8 + 8."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.methods import EveryMethod

#: Rounding differs between the two, and a pixel whose entropy lies on the threshold may fall on the other side; a wrong mean, a missing
#: key or another draw shows in the first digits.
TOLERANCE = 1e-3

# SGD, since AdamW's first steps are the signs of gradients and so turn the last digit of one near zero into a whole step
OPTIONS = {
    "train_batch": 8,
    "train_reference_batch": 8,
    "train_optimizer": "sgd",
    "train_lr": 0.01,
    "network_dropout": 0,
}


def train_both(
    package: str,
    request: str,
    data: dict[str, str],
    cases: Mapping[str, tuple[str, list[str]]],
    out: Path,
) -> Path:
    """Folders two/CASE and one/CASE in `out`; by a process of its own, for `debug_launcher` forks.

    Args:
        package: of the app.
        request: name of its class of requests.
        data: what of the request names the data.
        cases: method and assignments by name.
        out: a folder.
    """
    job = {"package": package, "request": request, "data": data, "cases": cases}
    script = Path(__file__).with_name("processes.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(job), str(out)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def journal(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class TwoProcesses(EveryMethod):
    """Needs a fixture `runs` that returns the folder of `train_both`."""

    #: Terms of the loss of each case; where it does not say, 2.
    terms: ClassVar[Mapping[str, int]] = {}

    def test_two_processes_log_what_one_logs(self, name: str, runs: Path) -> None:
        one, two = journal(runs / "one" / name), journal(runs / "two" / name)
        assert len(one) == len(two) > 8
        for left, right in zip(one, two, strict=True):
            assert left.keys() == right.keys()
            for key in left.keys() - {"evaluation"}:
                ours, theirs = (
                    np.array(line[key], dtype=float) for line in (left, right)
                )  # None, for not a number, becomes NaN
                np.testing.assert_allclose(
                    theirs, ours, rtol=TOLERANCE, atol=3e-4, err_msg=f"step {left['step']}, {key}"
                )

    def test_two_processes_end_with_the_state_of_one(self, name: str, runs: Path) -> None:
        one, two = (
            load_file(runs / world / name / "resume.safetensors") for world in ("one", "two")
        )
        assert one.keys() == two.keys()
        for key, value in one.items():
            difference = torch.linalg.vector_norm(two[key].double() - value.double())
            assert (
                difference / torch.linalg.vector_norm(value.double()).clamp(min=1e-6) < TOLERANCE
            ), key
        assert (one.get("method.contrast.queue.filled", torch.ones(1)) > 0).all()

    def test_every_term_took_part(self, name: str, runs: Path) -> None:
        terms = {
            key: value
            for key, value in journal(runs / "one" / name)[-2].items()
            if key.startswith("loss/")
        }
        assert len(terms) == self.terms.get(name, 2)
        assert all(value > 1e-4 for value in terms.values()), terms

    def test_both_processes_know_the_score_of_all_images(self, name: str, runs: Path) -> None:
        one, left, right = (
            json.loads((runs / path).read_text())
            for path in (
                f"one/{name}/rank0.json",
                f"two/{name}/rank0.json",
                f"two/{name}/rank1.json",
            )
        )
        assert (one["world"], left["world"], right["world"]) == (1, 2, 2)
        assert left["evaluations"] == right["evaluations"]
        for a, b in zip(one["evaluations"], left["evaluations"], strict=True):
            for role in a.keys() - {"step"}:
                assert a[role]["miou"] == pytest.approx(b[role]["miou"], abs=0.2)
                assert a[role]["pixel_accuracy"] == pytest.approx(
                    b[role]["pixel_accuracy"], abs=0.2
                )
