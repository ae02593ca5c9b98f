"""Two processes with 4 + 4 images each follow one with 8 + 8."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from u2pl.cli.discovery import method_names
from u2pl_semi.app import APP

METHODS = sorted(method_names(APP.methods))
#: Rounding differs between the two, and a pixel whose entropy lies on the threshold may fall on the other side; a wrong mean, a missing
#: key or another draw shows in the first digits.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def runs(folder: Path, tiny: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders two/METHOD and one/METHOD; a process of its own, for `debug_launcher` forks."""
    out = tmp_path_factory.mktemp("processes")
    # SGD, since AdamW's first steps are the signs of gradients and so turn the last digit of one near zero into a whole step
    common = {"train_batch": 8, "train_reference_batch": 8, "train_optimizer": "sgd", "train_lr": 0.01, "network_dropout": 0}
    options = {
        name: tiny(name, **common, **({} if name == "suponly" else {"method_warm_start": 0.25}), **MORE.get(name, {}))[1::2]
        for name in METHODS
    }
    script = Path(__file__).with_name("processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(out), json.dumps(options)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


#: An untrained network is nowhere sure of a class: without these no pixel would count and the terms would be zero.
MORE = {
    "cutmix": {"method_confidence": 0},
    "u2pl": {"method_contrast.delta_p": 0, "method_lambda_c": 1, "method_mix.probability": 1},
    "u2plplus": {"method_contrast.delta_p": 0, "method_lambda_c": 1, "method_mix.probability": 1},
}


def journal(folder: Path) -> list[dict[str, float | list[float] | None]]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_log_what_one_logs(name: str, runs: Path) -> None:
    one, two = journal(runs / "one" / name), journal(runs / "two" / name)
    assert len(one) == len(two) > 8
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"evaluation"}:
            ours, theirs = (np.array(line[key], dtype=float) for line in (left, right))  # None, for not a number, becomes NaN
            np.testing.assert_allclose(theirs, ours, rtol=TOLERANCE, atol=3e-4, err_msg=f"step {left['step']}, {key}")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_end_with_the_state_of_one(name: str, runs: Path) -> None:
    one, two = (load_file(runs / world / name / "resume.safetensors") for world in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        difference = torch.linalg.vector_norm(two[key].double() - value.double()) / torch.linalg.vector_norm(value.double()).clamp(min=1e-6)
        assert difference < TOLERANCE, key
    if name in ("u2pl", "u2plplus"):
        assert (one["method.contrast.queue.filled"] > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_term_took_part(name: str, runs: Path) -> None:
    terms = {key: value for key, value in journal(runs / "one" / name)[-2].items() if key.startswith("loss/")}
    assert len(terms) == {"suponly": 1, "u2pl": 3, "u2plplus": 3}.get(name, 2)
    assert all(value > 1e-4 for value in terms.values()), terms


@pytest.mark.parametrize("name", METHODS)
def test_both_processes_know_the_score_of_all_images(name: str, runs: Path) -> None:
    one, left, right = (
        json.loads((runs / path).read_text()) for path in (f"one/{name}/rank0.json", f"two/{name}/rank0.json", f"two/{name}/rank1.json")
    )
    assert (one["world"], left["world"], right["world"]) == (1, 2, 2)
    assert left["evaluations"] == right["evaluations"]
    for a, b in zip(one["evaluations"], left["evaluations"], strict=True):
        for role in a.keys() - {"step"}:
            assert a[role]["miou"] == pytest.approx(b[role]["miou"], abs=0.2)
            assert a[role]["pixel_accuracy"] == pytest.approx(b[role]["pixel_accuracy"], abs=0.2)
