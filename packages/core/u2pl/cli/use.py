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


def evaluate_checkpoint(path: Path, data: str | None, split: str | None, changes: dict[str, Any], cpu: bool, console: Console) -> Score:
    """Print and write down the scores of a shared network."""
    network, config = load_shared(path)
    text = data or config.get("source")
    if not text:
        raise UserError(f"{path} does not say which data it was trained on: add --data")
    source, protocol, device = open_source(text), own_protocol(config, changes), choose_device(cpu)
    if tuple(source.classes) != tuple(config["classes"]):
        theirs, ours = (f"{len(names)} classes ({', '.join(names[:4])}, ...)" for names in (source.classes, config["classes"]))
        raise UserError(f"{source.name} has {theirs}; the network has {ours}")
    split = split or (config.get("split", "val") if data is None else "val")
    ids = source.split(split)
    steps = iter(track(range(len(ids)), "scoring", console=console, disable=not console.is_terminal))
    name = config.get("scores", {}).get("network", "network")
    scores = evaluate({name: network.to(device)}, source, ids, protocol, device, len(config["classes"]), lambda *_: next(steps, None))
    facts = f"split {split} ({len(ids)} images, data {source.fingerprint()})"
    console.print(f"{find_shared(path)} on {source.name}, {facts}: {protocol.describe()}", soft_wrap=True)
    console.print(score_table(config["classes"], scores, source.subsets))
    score = scores[name]
    result = {"data": source.name, "fingerprint": source.fingerprint(), "split": split, "protocol": protocol.describe(), **score._asdict()}
    result |= {"subset_miou": subset_mious(score, source.classes, source.subsets)} if source.subsets else {}
    label = re.sub(r"[^a-z0-9]+", "-", f"{source.name} {split} {protocol.describe()}".lower())
    write_json(find_shared(path) / f"evaluation-{label}.json", result)
    return score


def predict_images(path: Path, images: Sequence[Path], out: Path, changes: dict[str, Any], cpu: bool, console: Console) -> list[str]:
    """Write masks and overlays; returns a line for each image that could not be read."""
    network, config = load_shared(path)
    device = choose_device(cpu)
    shown: list[int] = []

    def progress(done: int, total: int) -> None:
        shown[:] = [done]
        if console.is_terminal:
            console.print(f"{done}/{total}", end="\r")

    failures = predict_files(network.to(device), config["palette"], images, out, own_protocol(config, changes), device, progress)
    console.print(f"{shown[0] - len(failures)} images in {out}: ids/, colour/, overlay/")
    return [failure.reason for failure in failures]
