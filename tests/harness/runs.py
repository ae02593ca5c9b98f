"""Folders of runs that were never trained: what `compare` reads of a run, with scores as wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from u2pl.evaluate.counts import COUNTS, Counts, save_counts
from u2pl.files import write_json

CLASSES = ("background", "cat", "dog")


def counts_of(right: float, images: int = 12, pixels: int = 4000) -> Counts:
    """Counts of a network that is right on a share of the pixels, and on which differs by image.

    What is wrong is spread over the other classes.
    """
    classes = len(CLASSES)
    generator = torch.Generator().manual_seed(0)  # the images are the same for every network
    rows, whole = [], torch.zeros(classes, classes, dtype=torch.int64)
    for hard in torch.rand(images, generator=generator).tolist():
        one = torch.zeros(classes, classes, dtype=torch.int64)
        for truth in range(classes):
            hits = round(pixels * min(1.0, right * (0.8 + 0.4 * hard)))
            one[truth] = (pixels - hits) // (classes - 1)
            one[truth, truth] = hits
        whole += one
        rows.append(torch.stack([one.diagonal(), one.sum(1), one.sum(0)]))
    return Counts(whole, torch.stack(rows))


def write_run(
    folder: Path,
    *,
    method: str = "plain",
    seed: int = 0,
    student: float = 0.6,
    average: float | None = 0.62,
    averaged: str = "ema",
    app: str = "u2pl-toy",
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    images: int = 12,
    counted: bool = True,
    finished: bool = True,
) -> Path:
    """Write what training would leave, but for networks and pictures; returns the folder.

    Args:
        folder: of the run.
        method, seed, app: of the run.
        student, average: share of pixels on which the networks are right; no average if None.
        averaged: what the method calls its average.
        options: that differ from those of any other run, by their dotted names.
        config, summary: entries of these files that differ from those of any other run.
        images: that are scored.
        counted: whether the counts are kept.
        finished: whether there is a summary.
    """
    nested: dict[str, Any] = {
        "network": {"encoder": "test_resnet", "encoder_weights": "none"},
        "data": {"crop": 32, "workers": 0},
        "train": {"steps": 0, "batch": 2, "lr": 0.001, "log_every": 10},
        "evaluate": {"mode": "whole"},
        "method": {"warm_start": 0.25},
    }
    for key, value in (options or {}).items():
        section, _, name = key.partition(".")
        nested[section][name] = value
    networks = {"student": counts_of(student, images)}
    if average is not None:
        networks[averaged] = counts_of(average, images)
    scores = {name: counts.score()._asdict() for name, counts in networks.items()}
    begun = {
        "app": app,
        "command": f"{app} train {method} --seed {seed}",
        "method_name": method,
        "preset": "light",
        "data": "demo",
        "data_fingerprint": "0123456789ab",
        "split": "train",
        "seed": seed,
        "steps": 20,
        "options": nested,
        **(config or {}),
    }
    folder.mkdir(parents=True)
    write_json(folder / "config.json", begun)
    early = {name: {**score, "miou": score["miou"] - 10} for name, score in scores.items()}
    lines = [
        {"step": 0, "lr": 0.1},
        {"step": 9, "evaluation": {"step": 10, **early}},
        {"step": 19, "evaluation": {"step": 20, **scores}},
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if counted:
        save_counts(folder / COUNTS, [f"image {i}" for i in range(images)], networks)
    if finished:
        done = {
            **{key: begun[key] for key in ("data_fingerprint", "split", "seed", "options")},
            "method": method,
            "data": "demo",
            "labeled": 4,
            "unlabeled": 0,
            "classes": list(CLASSES),
            "steps": begun["steps"],
            "seconds": 90.0,
            "network": "student",
            "encoder_weights": None,
            "miou_last": scores["student"]["miou"],
            "miou_best": scores["student"]["miou"],
            "step_best": begun["steps"],
            "networks": scores,
            "evaluation": "demo val, whole image, single scale",
            "world_size": 1,
            "threads": 1,
            "device": "a CPU",
            "precision": "float32",
            "versions": {"torch": "2.15.0"},
            "commit": "0123456789abcdef",
            **(summary or {}),
        }
        write_json(folder / "summary.json", done)
    return folder
