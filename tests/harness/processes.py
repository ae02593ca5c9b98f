"""Trains with two connected processes, then with one.

Run by a launcher as `processes.py JOB OUT`. The networks of the first pass have no BatchNorm and no
dropout, so that "2 x 2 means 1 x 4" holds exactly, apart from the order of float additions. The
second pass, which only two processes make, takes the networks as they are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import debug_launcher
from timm.layers import DropPath
from torch import nn

from u2pl import distributed
from u2pl.counting import silently
from u2pl.evaluate.scoring import evaluate
from u2pl.memory.teacher import batch_norms
from u2pl.methods.method import Method
from u2pl.run.app import find_app
from u2pl.run.task import Task
from u2pl.run.train import Silent, make_task
from u2pl.training.history import History
from u2pl.training.loop import Job, fit, make_accelerator

#: Steps of the first pass, and of the second.
STEPS, AS_IT_IS = 8, 6


def smooth(module: nn.Module) -> nn.Module:
    """The module without kinks, each BatchNorm replaced by a norm that looks at one image alone.

    A rounding error that turns one ReLU on or off grows a thousandfold within a few steps; it would
    hide what is looked for.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(1, child.num_features)
            setattr(module, name, norm.requires_grad_(child.weight.requires_grad))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        elif isinstance(child, DropPath):
            setattr(module, name, nn.Identity())  # each process would drop others
        else:
            smooth(child)
    return module


def task_of(job: dict[str, Any], case: str, steps: int) -> Task:
    """The task of a case."""
    app = find_app(job["package"])
    method, options = job["cases"][case]
    request = app.request(method=method, preset="demo", set=options, steps=steps, **job["data"])
    return make_task(app, request, silently)


def train(task: Task, method: Method[Any], out: Path, scored: bool) -> History:
    """A run in `out`: journal and state."""
    accelerator = make_accelerator(cpu=True)
    torch.manual_seed(0)
    if accelerator.is_main_process:
        out.mkdir(parents=True)
    distributed.barrier()
    part, sections = task.scored, task.recipe.sections

    def score(networks: dict[str, nn.Module], progress: Any) -> Any:
        classes = len(task.classes)
        counts = evaluate(networks, part.source, part.ids, task.protocol, "cpu", classes, progress)
        return {name: count.score() for name, count in counts.items()}

    run = Job(
        method=method,
        dataset=task.dataset(),
        train=sections.train,
        data=sections.data,
        total=task.total,
        seed=0,
        evaluate=score if scored else None,
        keep=lambda *_: None,
    )
    return fit(run, out, accelerator, Silent())


def write(out: Path, **facts: Any) -> None:
    """What this process knows."""
    (out / f"rank{distributed.rank()}.json").write_text(json.dumps(facts))


def digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()


def smoothly(job: dict[str, Any], case: str, out: Path) -> None:
    """The first pass."""
    task = task_of(job, case, STEPS)
    method = task.build_method()
    task.prepare(method)
    smooth(method)
    history = train(task, method, out, scored=True)
    write(out, world=distributed.world_size(), evaluations=history.dump()["evaluations"])


def as_it_is(job: dict[str, Any], case: str, out: Path) -> None:
    """The second pass: digests of the state, and names of the buffers that normalise."""
    task = task_of(job, case, AS_IT_IS)
    method = task.build_method()
    task.prepare(method)
    before = {key: digest(value) for key, value in method.state_dict().items()}
    train(task, method, out, scored=False)
    norms = {id(buffer) for norm in batch_norms(method) for buffer in norm.buffers()}
    state = method.state_dict(keep_vars=True)
    write(
        out,
        world=distributed.world_size(),
        state={key: digest(value) for key, value in state.items()},
        moved=[key for key, value in state.items() if digest(value) != before[key]],
        statistics=[key for key, value in state.items() if id(value) in norms],
    )


def train_all(job: dict[str, Any], out: str) -> None:
    """All cases one after the other; with two processes, both run this."""
    torch.set_num_threads(1)
    for case in job["cases"]:
        smoothly(job, case, Path(out) / case)
        if distributed.world_size() > 1:
            as_it_is(job, case, Path(out) / "as it is" / case)


if __name__ == "__main__":
    job, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    debug_launcher(train_all, (job, str(out / "two")), num_processes=2)
    train_all(job, str(out / "one"))
