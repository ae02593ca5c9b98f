"""From a command to a finished run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from u2pl import distributed
from u2pl.cli.app import option_table
from u2pl.cli.console import make_reporter
from u2pl.cli.finish import show_result, write_summary
from u2pl.cli.plan import Plan, Request
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.run import check_scored, evaluate
from u2pl.networks.sharing import save_shared
from u2pl.train.loop import Job, Stopped, fit, local_batch, make_accelerator
from u2pl.train.memory import keep_freed_memory
from u2pl.train.provenance import precision, versions
from u2pl.train.run_folder import latest_folder, next_folder, open_folder


def run(request: Request, make_plan: Callable[[], Plan], console: Console) -> int:
    """Train as asked; returns the exit code."""
    accelerator = make_accelerator(request.cpu)
    main, device = accelerator.is_main_process, accelerator.device
    if request.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    keep_freed_memory()
    plan = make_plan()
    local_batch(plan.sections.train.batch)
    if plan.protocol.crf:
        load_crf()
    # before the folder is made: whatever cannot work leaves nothing behind
    ids = plan.scored_ids
    if ids:
        check_scored(plan.scored, ids)
    plan.check()
    method, dataset = plan.build_method(), plan.build_dataset()
    folder = _folder(plan)
    distributed.barrier()  # every process has read the folders before the first one makes one
    if main:
        open_folder(folder, plan.dump(), request.resume)
        _announce(plan, len(ids), folder, accelerator, console)
    distributed.barrier()

    with make_reporter(console, main) as reporter:
        job = Job(
            method=method,
            dataset=dataset,
            train=plan.sections.train,
            data=plan.sections.data,
            total=plan.total,
            seed=request.seed,
            evaluate=partial(_evaluate, plan, ids, device) if ids else None,
            keep=lambda kind, network, facts: _keep(plan, folder / kind, network, facts),
        )
        try:
            facts = fit(job, folder, accelerator, reporter, request.resume)
        except Stopped as stopped:
            if main:
                console.print(f"{stopped}; go on with: {plan.app.name} train ... --out {folder} --resume", soft_wrap=True, markup=False)
            return 143
    if main:
        summary = write_summary(folder, plan, facts, next(iter(method.networks())), accelerator)
        show_result(folder, plan, summary, device, console)
    distributed.barrier()
    return 0


def _evaluate(
    plan: Plan, ids: list[str], device: torch.device, networks: dict[str, nn.Module], progress: Callable[[int, int], None]
) -> dict[str, Score]:
    return evaluate(networks, plan.scored, ids, plan.protocol, device, len(plan.scored.classes), progress)


def _folder(plan: Plan) -> Path:
    request, stem = plan.request, f"{plan.name}-{plan.request.method}"
    if request.out is not None:
        return request.out
    return latest_folder(Path("runs"), stem, plan.dump()) if request.resume else next_folder(Path("runs"), stem)


def _announce(plan: Plan, scored: int, folder: Path, accelerator: Accelerator, console: Console) -> None:
    """Say what is about to happen."""
    request, source, train = plan.request, plan.scored, plan.sections.train
    lr, head_lr = train.scaled_lr, train.scaled_lr * train.head_lr_factor
    images = ", ".join(f"{count} {name}" for name, count in plan.streams.items())
    lines = [
        f"{plan.described}: {images}, {scored} to score on, {len(source.classes)} classes",
        f"{request.method} with preset {plan.recipe.preset}: {plan.total} steps, batch {train.batch}, seed {request.seed}, "
        f"on {accelerator.device}{f' x {distributed.world_size()}' if distributed.world_size() > 1 else ''}, {precision(accelerator)}",
        f"learning rate {lr:g} for the encoder, {head_lr:g} for the rest ({train.lr:g} at a batch of {train.reference_batch})",
        *(f"note: {note}" for note in plan.notes()),
        f"writing to {folder}",
    ]
    if plan.recipe.preset == "light" and request.preset is None:
        console.print(option_table(plan.recipe.resolved))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _keep(plan: Plan, folder: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network so that others can use it."""
    source = plan.scored
    info = {
        "app": plan.app.name,
        "method": plan.request.method,
        "options": plan.options.model_dump(mode="json"),
        "network": plan.network.model_dump(mode="json"),
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "source": plan.scored_as,
        "split": plan.scored_split,
        "data": plan.described,
        "seed": plan.request.seed,
        "evaluation": f"{source.name} {plan.scored_split}, {plan.protocol.describe()}",
        "protocol": plan.protocol.model_dump(mode="json"),
        "crop": plan.sections.data.crop,
        "scores": facts,
        "versions": versions(),
    }
    save_shared(folder, network, info)  # type: ignore[arg-type]
