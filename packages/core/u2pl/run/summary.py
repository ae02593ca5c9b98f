"""What a finished run leaves beside its networks: a summary and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.files import write_json
from u2pl.model.model import load
from u2pl.model.pictures import picture_rows
from u2pl.report.gallery import gallery
from u2pl.run.task import Task
from u2pl.training.loop import History
from u2pl.training.provenance import circumstances
from u2pl.training.run_folder import SUMMARY

PICTURES = "predictions.png"


def write_summary(
    folder: Path, task: Task, history: History, result: str, accelerator: Accelerator
) -> None:
    """Write summary.json of a finished run; mIoU and IoU are in percent.

    Args:
        folder: of the run.
        task: what was run.
        history: what happened.
        result: role of the method's network that is its result.
        accelerator: it was run with.
    """
    summary = {
        "method": task.request.method,
        **task.facts(),
        "preset": task.recipe.preset,
        "options": task.recipe.dump(),
        "seed": task.request.seed,
        "classes": list(task.classes),
        "steps": history.step,
        "seconds": round(history.seconds, 1),
        "network": result,
        **(_scores(task, history, result) if history.evaluations else {}),
        **circumstances(accelerator),
    }
    write_json(folder / SUMMARY, summary)


def draw_pictures(folder: Path, task: Task, device: torch.device) -> None:
    """Draw image, truth and prediction of some scored images, or of any if none is scored."""
    model, source = load(folder / "last"), task.scored.source
    ids = task.scored.ids or sorted(source.ids())
    rows = picture_rows(model.network.to(device), source, ids, task.protocol, device)
    gallery(rows, source.classes, source.palette, folder / PICTURES)


def _scores(task: Task, history: History, result: str) -> dict[str, Any]:
    """The last evaluation and the best one."""
    last = history.evaluations[-1]
    networks = {name: entry for name, entry in last.items() if name != "step"}
    return {
        "miou_last": last[result]["miou"],
        "miou_best": history.best[result]["miou"],
        "step_best": history.best["step"],
        "per_class_iou": last[result]["per_class_iou"],
        "networks": networks,
        **_subsets(task, networks),
        "evaluation": task.evaluation,
    }


def _subsets(task: Task, networks: dict[str, Any]) -> dict[str, Any]:
    """mIoU over the subsets of classes that the benchmark reports, if it does."""
    source = task.scored.source
    mious = {
        name: subset_mious(Score(**entry), source.classes, source.subsets)
        for name, entry in networks.items()
    }
    return {"subset_miou": mious} if source.subsets else {}
