"""What a finished run leaves: a summary, pictures, and a few lines for the person who waited for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from u2pl.cli.plan import Plan
from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.evaluate.run import picture_rows
from u2pl.networks.sharing import load_shared
from u2pl.report.gallery import gallery
from u2pl.report.tables import score_table
from u2pl.train.files import write_json
from u2pl.train.loop import Facts
from u2pl.train.provenance import circumstances
from u2pl.train.run_folder import SUMMARY


def write_summary(folder: Path, plan: Plan, facts: Facts, device: torch.device) -> dict[str, Any]:
    """Write summary.json of a finished run and return it; mIoU and IoU are in percent."""
    last, source = facts.evaluations[-1], plan.scored
    result = next(name for name in last if name != "step")
    networks = {name: entry for name, entry in last.items() if name != "step"}
    summary = {
        "method": plan.request.method,
        **plan.facts(),
        "preset": plan.recipe.preset,
        "options": plan.recipe.resolved.dump(),
        "seed": plan.request.seed,
        "classes": list(source.classes),
        "steps": facts.step,
        "seconds": round(facts.seconds, 1),
        "network": result,
        "miou_last": last[result]["miou"],
        "miou_best": facts.best[result]["miou"],
        "step_best": facts.best["step"],
        "per_class_iou": last[result]["per_class_iou"],
        "networks": networks,
        **_subsets(plan, networks),
        "evaluation": f"{source.name} {plan.scored_split}, {plan.protocol.describe()}",
        **circumstances(device),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def _subsets(plan: Plan, networks: dict[str, Any]) -> dict[str, Any]:
    """mIoU over the subsets of classes that the benchmark names, where it names some."""
    source = plan.scored
    mious = {name: subset_mious(Score(**entry), source.classes, source.subsets) for name, entry in networks.items()}
    return {"subset_miou": mious} if source.subsets else {}


def show_result(folder: Path, plan: Plan, summary: dict[str, Any], device: torch.device, console: Console) -> None:
    """Draw predictions.png, print the table of scores, and say what can be typed next."""
    network, source = load_shared(folder / "last")[0], plan.scored
    rows = picture_rows(network.to(device), source, source.split(plan.scored_split), plan.protocol, device)
    gallery(rows, source.classes, source.palette, folder / "predictions.png")
    scores = {name: Score(**entry) for name, entry in summary["networks"].items()}
    lines = [
        f"mIoU of the {summary['network']}: last {summary['miou_last']:.2f}, best {summary['miou_best']:.2f} (step {summary['step_best']})",
        f"pictures: {folder / 'predictions.png'}",
        f"next: {plan.app.name} predict {folder} IMAGE_OR_FOLDER --out predictions",
    ]
    console.print(
        f"\n{summary['evaluation']}, {summary['split']}, after {summary['steps']} steps and {summary['seconds']:.0f} s:", highlight=False
    )
    console.print(score_table(source.classes, scores, source.subsets))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
