"""The report of a run: one HTML file that explains it to a person, without any other file."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import torch

from u2pl.counting import Counting, silently
from u2pl.data.classes import IGNORE_COLOUR
from u2pl.errors import UserError
from u2pl.methods.discovery import load_method
from u2pl.model.folder import WEIGHTS
from u2pl.report.curves import POINTS, figures, score_figure
from u2pl.report.page import render, write_page
from u2pl.run.app import App
from u2pl.run.recipe import OptionRow, flat_values
from u2pl.run.report.finding import Finding
from u2pl.run.report.images import gallery, moments, moments_text
from u2pl.run.report.scores import confusions, notes, score_table, tiles
from u2pl.run.sections import flat_keys
from u2pl.training.run_folder import CONFIG, read_config

REPORT = "report.html"


def write_report(
    app: App, folder: Path, device: torch.device, counting: Counting = silently
) -> Path:
    """Write report.html of a run, finished or still going on, and return its path.

    Args:
        app: that trained it.
        folder: of the run.
        device: that the last network predicts the pictures on.
        counting: told how far opening the data and drawing pictures are.

    Raises:
        UserError: The folder holds no run or one of another app, or something in it cannot be
            read.
    """
    if (folder / WEIGHTS).exists():
        raise UserError(f"{folder} is a network, not a run: give the folder above it")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run: it has no {CONFIG}; give the folder of a run")
    run, path = Finding(app, folder, device), folder / REPORT
    began = read_config(folder).get("app", app.name)
    if began != app.name:
        raise UserError(
            f"{folder} is a run of {began}, not of {app.name}; type "
            f"{began} report {shlex.quote(str(folder))}"
        )
    write_page(path, render("run.html.j2", contents(run, counting)))
    return path


def contents(run: Finding, counting: Counting = silently) -> dict[str, object]:
    """What the template shows of a run."""
    shown, gallery_text, unread = gallery(run, counting)
    model, warm = run.model, run.warm_steps
    palette = model.palette if model is not None else None
    classes = model.classes if model is not None else ()
    key = (
        [*zip(classes, palette.tolist(), strict=True), ("no label", list(IGNORE_COLOUR))]
        if palette is not None
        else []
    )
    drawn = [*score_figure(run.journal, warm), *figures(run.journal, classes, warm)]
    logged = sum("lr" in line for line in run.journal)
    return {
        "title": f"{run.config['method_name']} on {run.data}",
        "subtitle": _subtitle(run),
        "tiles": tiles(run),
        "notes": [*notes(run), *unread],
        "scores": score_table(run),
        "figures": drawn,
        "averaged": math.ceil(logged / POINTS) if logged > POINTS else 0,
        "warm": _warming(run) if warm else "",
        "confusion": confusions(run),
        "gallery": shown,
        "gallery_text": gallery_text,
        "key": key,
        "moments": moments(run, palette) if palette is not None else [],
        "moments_text": moments_text(run),
        "command": run.config.get("command"),
        "facts": _facts(run),
        "options": described_options(run),
        "program": run.app.name,
        "folder": run.folder.name,
    }


def described_options(run: Finding) -> list[OptionRow]:
    """Every option with its meaning, as far as this version knows it."""
    app, name = run.app, str(run.config["method_name"])
    meanings = dict(flat_keys(app.sections))
    try:
        kind = load_method(f"{app.package}.methods", app.methods, name)
        meanings |= dict(flat_keys(kind.Config, "method."))
    except UserError:  # a method from elsewhere
        pass
    values = flat_values(run.config["options"])
    return [OptionRow(key, str(value), meanings.get(key, "")) for key, value in values.items()]


def _subtitle(run: Finding) -> str:
    config, summary = run.config, run.summary
    evaluation = summary.get("evaluation") or (run.model.card.evaluation if run.model else "")
    words = [
        f"{run.app.name}, preset {config['preset']}, seed {config['seed']}, {config['split']}",
        f"scored on {evaluation}" if evaluation else "not scored",
    ]
    return "; ".join(words)


def _warming(run: Finding) -> str:
    try:
        kind = load_method(
            f"{run.app.package}.methods", run.app.methods, str(run.config["method_name"])
        )
    except UserError:
        return "labels alone"
    return kind.warming.removeprefix("on ") if kind.warming != "supervised only" else "labels alone"


def _facts(run: Finding) -> list[tuple[str, str]]:
    """What identifies the run, in words."""
    config, summary = run.config, run.summary
    weights = summary.get("encoder_weights")
    rows: dict[str, object] = {
        "data": f"{run.data}, fingerprint {config.get('data_fingerprint')}",
        "split": config.get("split"),
        "training images": summary
        and f"{summary['labeled']} with masks, {summary['unlabeled']} without",
        "pretrained encoder": weights and f"{weights['name']}, sha256 {weights['sha256'][:12]}",
        "device": summary.get("device"),
        "processes": summary
        and f"{summary.get('world_size')}, threads of each: {summary.get('threads')}",
        "precision": summary.get("precision"),
        "peak GPU memory": summary.get("peak_gpu_bytes")
        and f"{summary['peak_gpu_bytes'] / 2**30:.1f} GiB",
        "versions": ", ".join(f"{k} {v}" for k, v in summary.get("versions", {}).items()),
        "commit": summary.get("commit"),
    }
    return [(name, str(value)) for name, value in rows.items() if value]
