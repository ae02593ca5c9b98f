"""Record the losses of every method on its app's demo, step by step, to compare two versions.

    python tests/golden/record.py OUT [--steps N] [--brief]

A refactor changes none of these numbers: record before and after it, and compare the files.
`--brief` makes `losses.json`, the reference of `test_losses.py`. Record it again only if a number
is meant to change, and say so in the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch

from u2pl.counting import silently
from u2pl.files import write_json
from u2pl.methods.discovery import method_names
from u2pl.run.app import APPS, find_app
from u2pl.run.train import Silent, make_task
from u2pl.training.journal import read_journal
from u2pl.training.loop import Job, fit, make_accelerator
from u2pl.training.run_folder import JOURNAL

#: The numbers of one step: the loss, its unweighted terms, and the learning rate.
Step = dict[str, float]

#: An encoder with self-attention, which AFA needs.
ATTENTION = {"network.encoder": "mit_b0", "network.encoder_weights": "none"}

#: Steps of a brief run.
FEW = 4
#: Options of every brief run. SGD, because AdamW amplifies rounding errors: its first steps follow
#: the signs of the gradients.
SMALL: Mapping[str, object] = {
    "data.crop": 48,
    "train.batch": 4,
    "train.reference_batch": 4,
    "train.optimizer": "sgd",
    "train.lr": 0.01,
}
#: A teacher whose momentum grows from 0.
RAMP = {"method.teacher.ramp": True}
#: A warm start of one step of four.
WARM = {"method.warm_start": 0.25, **RAMP}
#: Further options of brief runs: thresholds that are reached within the first steps, so that no
#: term of a loss is zero, and schedules that change within them.
TRUSTING: Mapping[str, object] = {"method.unsupervised.confidence": 0.1}
EARLY: Mapping[str, Mapping[str, object]] = {
    "semi cutmix": {"method.confidence": 0.1, **WARM},
    "semi mean_teacher": {"method.ramp": 1.0, **WARM},
    "semi esl": {"method.part_contrast.confidence": 0.1, **WARM},
    "semi ael": WARM,
    "semi augseg": {"method.confidence": 0.1},
    "semi fixmatch": {"method.confidence": 0.1},
    "semi unimatch": {"method.confidence": 0.1},
    "semi unimatch_v2": {"method.confidence": 0.1, **WARM},
    "semi u2pl": {"method.contrast.delta_p": 0.05, **TRUSTING, **WARM},
    "semi u2plplus": {"method.contrast.delta_p": 0.05, **TRUSTING, **WARM},
    "domain_adapt daformer": {"method.pseudo.threshold": 0.1, **RAMP},
    "domain_adapt u2plplus": {
        "method.pseudo.threshold": 0.1,
        "method.contrast.delta_p": 0.05,
        **RAMP,
    },
}


@dataclass(frozen=True)
class Case:
    """A method on the demo of its app, with options beyond the demo's."""

    app: str
    method: str
    options: Mapping[str, object] = field(default_factory=dict)


def cases(brief: bool = False) -> dict[str, Case]:
    """Every method of every app, by name; a new file in a folder of methods is a new case.

    Args:
        brief: with the options of `SMALL` and `EARLY`.
    """
    found = {
        f"{app} {method}": Case(app, method)
        for app in APPS
        for method in method_names(find_app(app).methods)
    }
    found["weak afa"] = Case("weak", "afa", ATTENTION)
    found["weak u2plplus on afa"] = Case("weak", "u2plplus", ATTENTION | {"method.host": "afa"})
    if not brief:
        return found
    return {
        name: replace(case, options={**case.options, **SMALL, **EARLY.get(name, {})})
        for name, case in found.items()
    }


def train(case: Case, steps: int) -> list[Step]:
    """The numbers of each step of a run with seed 0, without evaluations, in a temporary folder."""
    app = find_app(case.app)
    options = {"data.workers": 0, "train.log_every": 1, "train.evaluations": 1, **case.options}
    request = app.request.of(
        method=case.method, preset="demo", steps=steps, seed=0, cpu=True, set=options
    )
    task = make_task(app, request, silently)
    method, losses = task.build_method(), list[float]()
    task.prepare(method)
    method.register_forward_hook(lambda _module, _inputs, result: losses.append(result.loss.item()))
    job = Job(
        method=method,
        dataset=task.dataset(),
        train=task.recipe.sections.train,
        data=task.recipe.sections.data,
        total=task.total,
        seed=request.seed,
        evaluate=None,
        keep=lambda *_: None,
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(job, Path(folder), make_accelerator(cpu=True), Silent())
        lines = [line for line in read_journal(Path(folder) / JOURNAL).lines if "lr" in line]
    return [
        {"loss": loss, "lr": line["lr"]}
        | {name: value for name, value in line.items() if name.startswith("loss/")}
        for loss, line in zip(losses, lines, strict=True)
    ]


def main() -> None:
    """Train every case and write its steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--steps", type=int, help=f"steps of each run (default: 50, or {FEW} with --brief)"
    )
    parser.add_argument("--brief", action="store_true", help="small crops, low thresholds")
    args = parser.parse_args()
    steps = args.steps or (FEW if args.brief else 50)
    torch.set_num_threads(1)
    recorded: dict[str, list[Step]] = {}
    for name, case in cases(args.brief).items():
        begin = time.monotonic()
        recorded[name] = train(case, steps)
        last, seconds = json.dumps(recorded[name][-1]), time.monotonic() - begin
        print(f"{name}: {steps} steps in {seconds:.1f} s; last step: {last}", flush=True)
        write_json(args.out, recorded)  # after each case, in case the rest is interrupted


if __name__ == "__main__":
    main()
