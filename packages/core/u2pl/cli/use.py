"""What can be done with a trained network: score it, predict with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from u2pl.cli.config import explain
from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.predict import predict_files
from u2pl.evaluate.protocol import Protocol
from u2pl.evaluate.run import evaluate
from u2pl.networks.sharing import find_shared, load_shared
from u2pl.report.tables import score_table
from u2pl.train.files import write_json


def choose_device(cpu: bool) -> torch.device:
    """A GPU where there is one and it is wanted."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def own_protocol(config: dict[str, Any], changes: dict[str, Any]) -> Protocol:
    """The protocol a network was trained with, and what a command changes in it; UserError where that makes no sense."""
    values = dict(config.get("protocol", {}))
    values.setdefault("crop", None)
    values |= {key: value for key, value in changes.items() if value is not None}
    if values["crop"] is None:
        values["crop"] = config.get("crop")
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error)) from error


def evaluate_checkpoint(
    path: Path, data: str | None, split: str | None, ways: Sequence[dict[str, Any]], cpu: bool, console: Console
) -> dict[str, Score]:
    """Print and write down the scores of a shared network, a column for each way to show images to it; by protocol."""
    network, config = load_shared(path)
    text = data or config.get("source")
    if not text:
        raise UserError(f"{path} does not say which data it was trained on: add --data")
    source, device = open_source(text), choose_device(cpu)
    if tuple(source.classes) != tuple(config["classes"]):
        theirs, ours = (f"{len(names)} classes ({', '.join(names[:4])}, ...)" for names in (source.classes, config["classes"]))
        raise UserError(f"{source.name} has {theirs}; the network has {ours}")
    split = split or (config.get("split", "val") if data is None else "val")
    ids, protocols = source.split(split), _possible([own_protocol(config, way) for way in ways], console)
    steps = iter(track(range(len(ids) * len(protocols)), "scoring", console=console, disable=not console.is_terminal))
    network.to(device)
    scores = {
        protocol.describe(): evaluate(
            {"network": network}, source, ids, protocol, device, len(config["classes"]), lambda *_: next(steps, None)
        )["network"]
        for protocol in protocols
    }
    name = config.get("scores", {}).get("network", "network")
    console.print(
        f"{find_shared(path)} ({name}) on {source.name}, split {split} ({len(ids)} images, data {source.fingerprint()}):",
        soft_wrap=True,
        markup=False,
    )
    console.print(score_table(config["classes"], scores, source.subsets))
    for words, score in scores.items():
        result = {"data": source.name, "fingerprint": source.fingerprint(), "split": split, "protocol": words, **score._asdict()}
        result |= {"subset_miou": subset_mious(score, source.classes, source.subsets)} if source.subsets else {}
        label = re.sub(r"[^a-z0-9]+", "-", f"{source.name} {split} {words}".lower())
        write_json(find_shared(path) / f"evaluation-{label}.json", result)
    return scores


def _possible(protocols: list[Protocol], console: Console) -> list[Protocol]:
    """The protocols without those whose dense CRF cannot be had, which is said; UserError when none is left."""
    if not any(protocol.crf for protocol in protocols):
        return protocols
    try:
        load_crf()
    except UserError as error:
        plain = [protocol for protocol in protocols if not protocol.crf]
        if not plain:
            raise
        console.print(f"left out: {error}", soft_wrap=True, highlight=False, markup=False)
        return plain
    return protocols


def predict_images(path: Path, images: Sequence[Path], out: Path, changes: dict[str, Any], cpu: bool, console: Console) -> list[str]:
    """Write masks and overlays; returns a line for each image that could not be read."""
    network, config = load_shared(path)
    device, protocol = choose_device(cpu), own_protocol(config, changes)
    if protocol.crf:
        load_crf()
    shown: list[int] = []

    def progress(done: int, total: int) -> None:
        shown[:] = [done]
        if console.is_terminal:
            console.print(f"{done}/{total}", end="\r")

    failures = predict_files(network.to(device), config["palette"], images, out, protocol, device, progress)
    console.print(f"{shown[0] - len(failures)} images in {out}: ids/, colour/, overlay/", markup=False)
    return [failure.reason for failure in failures]
