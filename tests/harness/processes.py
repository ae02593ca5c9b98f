"""Trains with two connected processes, then with one; run by `following.train_both` as `processes.py JOB OUT`.

The networks have no BatchNorm and no dropout, for which "2 x 4 means 1 x 8" holds exactly, apart from the order of float additions.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import debug_launcher
from timm.layers import DropPath
from torch import nn

from u2pl import distributed
from u2pl.cli.console import SilentReporter
from u2pl.evaluate.scoring import evaluate
from u2pl.training.loop import Job, fit, make_accelerator

STEPS = 8


def smooth(module: nn.Module) -> nn.Module:
    """The module without BatchNorm, each one replaced by a norm that looks at one image at a time, and without kinks.

    A rounding error that turns one ReLU on or off grows a thousandfold within a few steps; it would hide what is looked for.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(
                module,
                name,
                nn.GroupNorm(1, child.num_features).requires_grad_(child.weight.requires_grad),
            )
        elif isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        elif isinstance(child, DropPath):
            setattr(module, name, nn.Identity())  # each process would drop others
        else:
            smooth(child)
    return module


def train(job: dict[str, Any], case: str, out: Path) -> None:
    """One run in `out`: journal and state."""
    accelerator = make_accelerator(cpu=True)
    app, planning = (
        import_module(f"{job['package']}.app").APP,
        import_module(f"{job['package']}.planning"),
    )
    method_name, options = job["cases"][case]
    plan = planning.make_plan(
        app,
        getattr(planning, job["request"])(
            method_name, "demo", tuple(options), STEPS, **job["data"]
        ),
    )
    method, source = plan.build_method(), plan.scored
    smooth(method)
    torch.manual_seed(0)
    if accelerator.is_main_process:
        out.mkdir(parents=True)
    distributed.barrier()
    run = Job(
        method=method,
        dataset=plan.build_dataset(),
        train=plan.sections.train,
        data=plan.sections.data,
        total=STEPS,
        seed=0,
        evaluate=lambda networks, progress: evaluate(
            networks,
            source,
            source.split("val"),
            plan.sections.evaluate,
            "cpu",
            len(source.classes),
            progress,
        ),
        keep=lambda *_: None,
    )
    facts = fit(run, out, accelerator, SilentReporter())
    (out / f"rank{distributed.rank()}.json").write_text(
        json.dumps({"world": distributed.world_size(), "evaluations": facts.evaluations})
    )


def train_all(job: dict[str, Any], out: str) -> None:
    """All cases one after the other; with two processes, both run this."""
    torch.set_num_threads(1)
    for case in job["cases"]:
        train(job, case, Path(out) / case)


if __name__ == "__main__":
    job, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    debug_launcher(train_all, (job, str(out / "two")), num_processes=2)
    train_all(job, str(out / "one"))
