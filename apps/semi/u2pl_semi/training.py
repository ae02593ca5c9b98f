"""From a command to a finished run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from u2pl import distributed
from u2pl.cli.app import App, option_table
from u2pl.cli.console import make_reporter
from u2pl.cli.finish import show_result, write_summary
from u2pl.evaluate.run import evaluate
from u2pl.networks.sharing import save_shared
from u2pl.train.loop import Job, Stopped, fit, local_batch, make_accelerator
from u2pl.train.memory import keep_freed_memory
from u2pl.train.provenance import versions
from u2pl.train.run_folder import latest_folder, next_folder, open_folder
from u2pl_semi.planning import Plan, Request, build_dataset, build_method, check_classes, make_plan


def run(app: App, request: Request, console: Console) -> int:
    """Train as asked; returns the exit code."""
    accelerator = make_accelerator(request.cpu)
    main, device = accelerator.is_main_process, accelerator.device
    if request.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    keep_freed_memory()
    plan = make_plan(app, request)
    local_batch(plan.resolved.sections.train.batch)
    # before the folder is made: whatever cannot work leaves nothing behind
    sections, source = plan.resolved.sections, plan.source
    validation = source.split("val")
    check_classes(plan)
    method, dataset = build_method(plan), build_dataset(plan)
    folder = _folder(plan)
    distributed.barrier()  # every process has read the folders before the first one makes one
    if main:
        open_folder(folder, plan.dump(), request.resume)
        _announce(plan, folder, device, console)
    distributed.barrier()

    with make_reporter(console, main) as reporter:
        job = Job(
            method=method,
            dataset=dataset,
            train=sections.train,
            data=sections.data,
            total=plan.total,
            seed=request.seed,
            evaluate=lambda networks, progress: evaluate(
                networks, source, validation, sections.evaluate, device, len(source.classes), progress
            ),
            keep=lambda kind, network, facts: _keep(plan, folder / kind, network, facts),
        )
        try:
            facts = fit(job, folder, accelerator, reporter, request.resume)
        except Stopped as stopped:
            if main:
                console.print(f"{stopped}; go on with: u2pl-semi train ... --out {folder} --resume", soft_wrap=True)
            return 143
    if main:
        protocol = sections.evaluate
        summary = write_summary(folder, _summary_head(plan), facts, source, protocol, device)
        show_result(app.name, folder, summary, source, protocol, device, console)
    distributed.barrier()
    return 0


def _folder(plan: Plan) -> Path:
    request, stem = plan.request, f"{plan.source.name}-{plan.request.method}"
    if request.out is not None:
        return request.out
    return latest_folder(Path("runs"), stem, plan.dump()) if request.resume else next_folder(Path("runs"), stem)


def _announce(plan: Plan, folder: Path, device: torch.device, console: Console) -> None:
    """Say what is about to happen."""
    request, source, split, train = plan.request, plan.source, plan.split, plan.resolved.sections.train
    unlabeled = f"{len(split.unlabeled)} unlabelled, " if plan.kind.uses_unlabeled else ""
    lr, head_lr = train.scaled_lr, train.scaled_lr * train.head_lr_factor
    lines = [
        f"{source.name}: {len(split.labeled)} labelled ({split.protocol}), {unlabeled}{len(source.split('val'))} to score on, "
        f"{len(source.classes)} classes",
        f"{request.method} with preset {plan.preset}: {plan.total} steps, batch {train.batch}, seed {request.seed}, "
        f"on {device}{f' x {distributed.world_size()}' if distributed.world_size() > 1 else ''}",
        f"learning rate {lr:g} for the encoder, {head_lr:g} for the rest ({train.lr:g} at a batch of {train.reference_batch})",
        *(f"note: {note}" for note in (*source.notes, *plan.kind.notes(plan.resolved.method, len(source.classes)))),
        f"writing to {folder}",
    ]
    if plan.preset == "light" and request.preset is None:
        console.print(option_table(plan.resolved))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _keep(plan: Plan, folder: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network so that others can use it."""
    source, sections = plan.source, plan.resolved.sections
    info = {
        "app": "u2pl-semi",
        "method": plan.request.method,
        "network": plan.network.model_dump(mode="json"),
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "source": plan.request.data,
        "data": f"{source.name} ({plan.split.protocol}; fingerprint {source.fingerprint()})",
        "seed": plan.request.seed,
        "evaluation": f"{source.name} val, {sections.evaluate.describe()}",
        "protocol": sections.evaluate.model_dump(mode="json"),
        "crop": sections.data.crop,
        "scores": facts,
        "versions": versions(),
    }
    save_shared(folder, network, info)  # type: ignore[arg-type]


def _summary_head(plan: Plan) -> dict[str, Any]:
    """What the summary says of the request."""
    request, source, split = plan.request, plan.source, plan.split
    return {
        "method": request.method,
        "data": source.name,
        "data_fingerprint": source.fingerprint(),
        "split": split.protocol,
        "labeled": len(split.labeled),
        "unlabeled": len(split.unlabeled) if plan.kind.uses_unlabeled else 0,
        "preset": plan.preset,
        "options": plan.resolved.dump(),
        "seed": request.seed,
    }
