"""What a finished run leaves beside its networks: a summary and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.evaluate.counts import COUNTS, load_counts
from u2pl.evaluate.statistics import bootstrap_interval
from u2pl.files import write_json
from u2pl.methods.method import AnyMethod
from u2pl.model.model import load
from u2pl.model.pictures import picture_rows
from u2pl.report.gallery import gallery
from u2pl.run.start import read_origin
from u2pl.run.task import Task
from u2pl.training.history import History
from u2pl.training.provenance import circumstances
from u2pl.training.run_folder import CHANGES, SUMMARY, read_config

PICTURES = "predictions.png"


def write_summary(
    folder: Path, task: Task, history: History, method: AnyMethod, accelerator: Accelerator
) -> None:
    """Write summary.json of a finished run; mIoU and IoU are in percent.

    Args:
        folder: of the run.
        task: what was run.
        history: what happened.
        method: that was trained.
        accelerator: it was run with.
    """
    result, weights = next(iter(method.networks())), method.student.encoder.weights
    origin, changes = read_origin(folder), read_config(folder).get(CHANGES)
    summary = {
        "method": task.request.method,
        **task.facts(),
        "scored": len(task.scored.ids),
        "preset": task.recipe.preset,
        "options": task.recipe.dump(),
        "seed": task.request.seed,
        "classes": list(task.classes),
        "steps": history.step,
        "seconds": round(history.seconds, 1),
        "network": result,
        "encoder_weights": weights._asdict() if weights else None,
        "origin": origin.model_dump(mode="json") if origin else None,
        **({CHANGES: changes} if changes else {}),
        **(_scores(folder, task, history, result) if history.evaluations else {}),
        **circumstances(accelerator),
    }
    write_json(folder / SUMMARY, summary)


def draw_pictures(folder: Path, task: Task, device: torch.device) -> None:
    """Draw image, truth and prediction of some scored images, or of any if none is scored."""
    model, source = load(folder / "last"), task.scored.source
    ids = task.scored.ids or sorted(source.ids())
    rows = picture_rows(model.network.to(device), source, ids, task.protocol, device)
    gallery(rows, source.classes, source.palette, folder / PICTURES)


def _scores(folder: Path, task: Task, history: History, result: str) -> dict[str, object]:
    """The last evaluation and the best one."""
    last, best = history.evaluations[-1], history.best
    assert best is not None
    counts = load_counts(folder / COUNTS).networks[result]
    return {
        "miou_last": last.scores[result].miou,
        "miou_interval": bootstrap_interval(counts.images),
        "miou_best": best.scores[result].miou,
        "step_best": best.step,
        "per_class_iou": last.scores[result].per_class_iou,
        "networks": {name: score._asdict() for name, score in last.scores.items()},
        **_subsets(task, last.scores),
        "evaluation": task.evaluation,
    }


def _subsets(task: Task, scores: dict[str, Score]) -> dict[str, object]:
    """mIoU over the subsets of classes that the benchmark reports, if it does."""
    source = task.scored.source
    mious = {
        name: subset_mious(score, source.classes, source.subsets) for name, score in scores.items()
    }
    return {"subset_miou": mious} if source.subsets else {}
