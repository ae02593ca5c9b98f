"""What a finished run leaves: a summary, pictures, and a few lines for the person who waited for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from u2pl.data.source import Source
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.protocol import Protocol
from u2pl.evaluate.run import picture_rows
from u2pl.networks.sharing import load_shared
from u2pl.report.gallery import gallery
from u2pl.report.tables import score_table
from u2pl.train.files import write_json
from u2pl.train.loop import Facts
from u2pl.train.provenance import circumstances
from u2pl.train.run_folder import SUMMARY


def write_summary(
    folder: Path, head: dict[str, Any], facts: Facts, source: Source, protocol: Protocol, device: torch.device
) -> dict[str, Any]:
    """Write summary.json and return it.

    Args:
        head: what the app says of method, data, split, seed and options.
        facts: of the finished run; mIoU and IoU are in percent.
        source: what was scored on, its split val.
    """
    last = facts.evaluations[-1]
    result = next(name for name in last if name != "step")
    summary = {
        **head,
        "classes": list(source.classes),
        "steps": facts.step,
        "seconds": round(facts.seconds, 1),
        "network": result,
        "miou_last": last[result]["miou"],
        "miou_best": facts.best[result]["miou"],
        "step_best": facts.best["step"],
        "per_class_iou": last[result]["per_class_iou"],
        "networks": {name: entry for name, entry in last.items() if name != "step"},
        "evaluation": f"{source.name} val, {protocol.describe()}",
        **circumstances(device),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def show_result(
    app: str, folder: Path, summary: dict[str, Any], source: Source, protocol: Protocol, device: torch.device, console: Console
) -> None:
    """Draw predictions.png, print the table of scores, and say what can be typed next."""
    network, _ = load_shared(folder / "last")
    rows = picture_rows(network.to(device), source, source.split("val"), protocol, device)
    gallery(rows, source.classes, source.palette, folder / "predictions.png")
    scores = {name: Score(**entry) for name, entry in summary["networks"].items()}
    lines = [
        f"mIoU of the {summary['network']}: last {summary['miou_last']:.2f}, best {summary['miou_best']:.2f} (step {summary['step_best']})",
        f"pictures: {folder / 'predictions.png'}",
        f"next: {app} predict {folder} IMAGE_OR_FOLDER --out predictions",
    ]
    console.print(
        f"\n{summary['evaluation']}, {summary['split']}, after {summary['steps']} steps and {summary['seconds']:.0f} s:", highlight=False
    )
    console.print(score_table(source.classes, scores))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
