"""What a finished run leaves: a summary, pictures, and a few lines for the person who waited for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
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


def write_summary(folder: Path, plan: Plan, facts: Facts, result: str, accelerator: Accelerator) -> dict[str, Any]:
    """Write summary.json of a finished run and return it; mIoU and IoU are in percent.

    Args:
        folder: of the run.
        plan: what was run.
        facts: what happened.
        result: the method's network that counts.
        accelerator: it was run with.
    """
    summary = {
        "method": plan.request.method,
        **plan.facts(),
        "preset": plan.recipe.preset,
        "options": plan.recipe.resolved.dump(),
        "seed": plan.request.seed,
        "classes": list(plan.scored.classes),
        "steps": facts.step,
        "seconds": round(facts.seconds, 1),
        "network": result,
        **(_scores(plan, facts, result) if facts.evaluations else {}),
        **circumstances(accelerator),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def _scores(plan: Plan, facts: Facts, result: str) -> dict[str, Any]:
    """What the last evaluation and the best one say."""
    last = facts.evaluations[-1]
    networks = {name: entry for name, entry in last.items() if name != "step"}
    return {
        "miou_last": last[result]["miou"],
        "miou_best": facts.best[result]["miou"],
        "step_best": facts.best["step"],
        "per_class_iou": last[result]["per_class_iou"],
        "networks": networks,
        **_subsets(plan, networks),
        "evaluation": f"{plan.scored.name} {plan.scored_split}, {plan.protocol.describe()}",
    }


def _subsets(plan: Plan, networks: dict[str, Any]) -> dict[str, Any]:
    """mIoU over the subsets of classes that the benchmark names, where it names some."""
    source = plan.scored
    mious = {name: subset_mious(Score(**entry), source.classes, source.subsets) for name, entry in networks.items()}
    return {"subset_miou": mious} if source.subsets else {}


def show_result(folder: Path, plan: Plan, summary: dict[str, Any], device: torch.device, console: Console) -> None:
    """Draw predictions.png, print the table of scores, and say what can be typed next."""
    network, source = load_shared(folder / "last")[0], plan.scored
    rows = picture_rows(network.to(device), source, plan.scored_ids or sorted(source.ids()), plan.protocol, device)
    gallery(rows, source.classes, source.palette, folder / "predictions.png")
    spent = f"after {summary['steps']} steps and {summary['seconds']:.0f} s"
    lines = [
        f"pictures: {folder / 'predictions.png'}",
        f"next: {plan.app.name} predict {folder} IMAGE_OR_FOLDER --out predictions",
    ]
    if "networks" in summary:
        scores = {name: Score(**entry) for name, entry in summary["networks"].items()}
        console.print(f"\n{summary['evaluation']}, {summary['split']}, {spent}:", highlight=False)
        console.print(score_table(source.classes, scores, source.subsets))
        best = f"best {summary['miou_best']:.2f} (step {summary['step_best']})"
        lines.insert(0, f"mIoU of the {summary['network']}: last {summary['miou_last']:.2f}, {best}")
    else:
        lines.insert(0, f"\n{summary['split']}, {spent}; not scored: no image of {source.name} has a mask")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
