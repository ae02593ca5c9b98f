"""Trains every method with two connected processes, then with one; run by test_processes.py as `processes.py DATA OUT METHOD...`.

The network has no BatchNorm and no dropout, for which "2 x 4 means 1 x 8" holds exactly, apart from the order of float additions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import debug_launcher
from torch import nn

from u2pl import distributed
from u2pl.cli.console import SilentReporter
from u2pl.evaluate.run import evaluate
from u2pl.train.loop import Job, fit, make_accelerator
from u2pl_semi.app import APP
from u2pl_semi.planning import SemiRequest, make_plan

STEPS = 8


def smooth(module: nn.Module) -> nn.Module:
    """The module without BatchNorm, each one replaced by a norm that looks at one image at a time, and without kinks.

    A rounding error that turns one ReLU on or off grows a thousandfold within a few steps; it would hide what is looked for.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        else:
            smooth(child)
    return module


def train(data: str, out: Path, name: str, options: list[str]) -> None:
    """One run in `out`: journal and state."""
    accelerator = make_accelerator(cpu=True)
    plan = make_plan(APP, SemiRequest(name, "demo", tuple(options), STEPS, data=data))
    method, source = plan.build_method(), plan.source
    smooth(method)
    for role, network in method.networks().items():
        network.requires_grad_(role == "student")
    torch.manual_seed(0)
    if accelerator.is_main_process:
        out.mkdir(parents=True)
    distributed.barrier()
    job = Job(
        method=method,
        dataset=plan.build_dataset(),
        train=plan.sections.train,
        data=plan.sections.data,
        total=STEPS,
        seed=0,
        evaluate=lambda networks, progress: evaluate(
            networks, source, source.split("val"), plan.sections.evaluate, "cpu", len(source.classes), progress
        ),
        keep=lambda *_: None,
    )
    facts = fit(job, out, accelerator, SilentReporter())
    (out / f"rank{distributed.rank()}.json").write_text(json.dumps({"world": distributed.world_size(), "evaluations": facts.evaluations}))


def train_all(data: str, out: str, options: dict[str, list[str]]) -> None:
    """All methods one after the other; with two processes, both run this."""
    torch.set_num_threads(1)
    for name in options:
        train(data, Path(out) / name, name, options[name])


if __name__ == "__main__":
    data, out, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    debug_launcher(train_all, (data, str(out / "two"), options), num_processes=2)
    train_all(data, str(out / "one"), options)
