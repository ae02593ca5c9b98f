"""Mutated files of runs, networks and predictions: refused in a line, or nothing has changed by it.

Networks, states and counts have a digest, so whatever is accepted is what was written. Of what a
person may edit, it is what stands in the file.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.mutations import Mutate, in_bytes, in_json, in_json_lines, in_safetensors
from harness.verdicts import Subject, expect
from harness.world import World, type_words
from u2pl.model.model import load
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.pretrained import load_encoder, read_weights

#: Deals with a copy of a run, in the folder of a case.
Act = Callable[[World, Path], Any]


def copied(world: World, file: str, lost: str, mutate: Mutate, draw: Random, folder: Path) -> str:
    """A copy of a run, a file of which is mutated."""
    unread = ["best", "predictions.png", "report.html"]
    left_out = unread if lost else [*unread, "resume.safetensors"]
    shutil.copytree(world.runs[0], folder / "run", ignore=shutil.ignore_patterns(*left_out))
    path = folder / "run" / file
    if lost:
        (folder / "run" / lost).unlink()
    content, words = mutate(draw, path.read_bytes())
    path.write_bytes(content)
    return words


def compare(world: World, folder: Path) -> Any:
    return type_words(
        "compare", folder / "run", world.runs[1], "--csv", folder / "scores.csv",
        "--markdown", folder / "scores.md", "--html", folder / "scores.html",
    )  # fmt: skip


def report(world: World, folder: Path) -> Any:
    return type_words("report --cpu", folder / "run")


def resume(world: World, folder: Path) -> Any:
    return type_words("train --resume", folder / "run")


def predict(world: World, folder: Path) -> Any:
    return type_words("predict --cpu", folder / "run", world.photo, "--out", folder / "to")


def evaluate(world: World, folder: Path) -> Any:
    return type_words("evaluate --cpu", folder / "run")


def export(world: World, folder: Path) -> Any:
    return type_words("export", folder / "run", "--to", folder / "exported")


def alternately(*acts: Act) -> Act:
    """One of them, as the number of the case has it."""
    return lambda world, folder: acts[int(folder.name.rpartition("-")[2]) % len(acts)](
        world, folder
    )


def nothing_but_text(folder: Path, done: Any) -> None:
    """What was printed commands no terminal."""
    said = [character for character in done.output if ord(character) < 32 and character != "\n"]
    expect(not said, f"{said} in the output")


def compared(world: World, folder: Path, done: Any) -> None:
    """The score that the summary holds, of this run alone or of both with their mean."""
    nothing_but_text(folder, done)
    if not (folder / "scores.csv").exists():
        return
    summaries = [
        json.loads((run / "summary.json").read_text()) for run in (folder / "run", world.runs[1])
    ]
    if "networks" not in summaries[0]:  # a run that was not scored
        expect("scored" in done.output, "nothing is said of the run without a score")
        summaries[0] = summaries[1]
    own, other = (each["networks"]["student"]["miou"] for each in summaries)
    found = [float(row["last"]) for row in csv.DictReader((folder / "scores.csv").open())]
    near = [abs(each - right) < 0.01 for each in found for right in (own, (own + other) / 2)]
    expect(any(near), f"{found} of {own} and {other}")


def same_network(world: World, folder: Path, done: Any) -> None:
    """It is the one that was trained."""
    nothing_but_text(folder, done)
    ours, theirs = (load_file(run / "last" / "model.safetensors") for run in
                    (folder / "run", world.runs[0]))  # fmt: skip
    expect(ours.keys() == theirs.keys(), "tensors of other names")
    expect(all(torch.equal(ours[key], theirs[key]) for key in ours), "another network")


def journal_kept(world: World, folder: Path, done: Any) -> None:
    """No line that can be read is gone, and the network is the one that was trained."""
    same_network(world, folder, done)
    now = (folder / "run" / "journal.jsonl").read_bytes()
    before = (world.runs[0] / "journal.jsonl").read_bytes()
    for line in before.splitlines():
        if line in (folder / "mutated.jsonl").read_bytes().splitlines():
            expect(line in now.splitlines(), f"a line is gone: {line!r}")


def doubted(world: World, folder: Path, done: Any) -> None:
    """A line that cannot be read is named in the comparison, or in the report."""
    compared(world, folder, done)
    page = folder / "run" / "report.html"
    said = " ".join(done.output.split()) + (page.read_text() if page.exists() else "")
    *lines, _ = (folder / "run" / "journal.jsonl").read_bytes().split(b"\n")
    for line in lines:
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            expect("cannot be read" in said, f"nothing is said of {line[:200]!r}")


def journal_with_a_copy(world: World, mutate: Mutate, draw: Random, folder: Path) -> str:
    """Of a run that goes on with its state."""
    words = copied(world, "journal.jsonl", "summary.json", mutate, draw, folder)
    shutil.copy(folder / "run" / "journal.jsonl", folder / "mutated.jsonl")
    return words


def as_the_card_says(world: World, folder: Path, done: Any) -> None:
    """Every entry of the file is that of the card; what is not there has a default."""
    nothing_but_text(folder, done)
    said = json.loads((folder / "run" / "last" / "config.json").read_text())
    card = load(folder / "run", "cpu").card.model_dump(mode="json")
    for key, value in said.items():
        expect(as_it_stands(value, card[key]), f"{key}: {value!r} is taken for {card[key]!r}")


def as_it_stands(said: Any, read: Any) -> bool:
    """Whether a value was read as it stands; a nested one may have defaults besides."""
    if isinstance(said, dict) and isinstance(read, dict):
        return all(key in read and as_it_stands(said[key], read[key]) for key in said)
    if isinstance(said, list) and isinstance(read, list):
        return len(said) == len(read) and all(map(as_it_stands, said, read))
    if isinstance(said, bool) or isinstance(read, bool):
        return said is read
    return said == read or (said is None and read == "none")  # two words for random weights


def predicted_alike(world: World, folder: Path, done: Any) -> None:
    """The mask is that of the network as it was trained."""
    nothing_but_text(folder, done)
    same = partial(np.asarray)
    ours = same(Image.open(folder / "to" / "ids" / f"{world.photo.stem}.png"))
    theirs = same(Image.open(world.predictions / "ids" / f"{world.photo.stem}.png"))
    expect(np.array_equal(ours, theirs), "another mask")


def predictions(world: World, mutate: Mutate, draw: Random, folder: Path) -> str:
    """Predictions, whose manifest is mutated, and a mask of a person's own among them."""
    shutil.copytree(world.predictions, folder / "to")
    Image.new("L", (3, 3)).save(folder / "to" / "ids" / "mine.png")
    path = folder / "to" / "predictions.jsonl"
    content, words = mutate(draw, path.read_bytes())
    path.write_bytes(content)
    return words


def predict_again(world: World, folder: Path) -> Any:
    resume = ["--resume"] if int(folder.name.rpartition("-")[2]) % 2 else []
    words = ["predict --cpu", world.runs[0], world.photo, "--out", folder / "to"]
    return type_words(*words, *resume)


def mine_is_kept(world: World, folder: Path, done: Any) -> None:
    predicted_alike(world, folder, done)
    expect(Image.open(folder / "to" / "ids" / "mine.png").size == (3, 3), "a mask is gone")
    for line in (folder / "to" / "predictions.jsonl").read_text().splitlines():
        json.loads(line)


NETWORK = NetworkConfig(
    encoder="test_resnet", encoder_weights="none", decoder="segformer", width=8, embed_dim=0
)


def encoder_file(kind: str, mutate: Mutate, draw: Random, folder: Path) -> str:
    """Weights of an encoder, mutated."""
    torch.manual_seed(1)
    state = build_segmentor(NETWORK, 3).encoder.state_dict()
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    content, words = mutate(draw, path.read_bytes())
    path.write_bytes(content)
    return words


def load_into_encoder(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.iterdir()
    torch.manual_seed(2)
    encoder = build_segmentor(NETWORK, 3).encoder
    load_encoder(encoder, read_weights(path), path.name)
    return encoder.state_dict()


def as_it_was_saved(folder: Path, found: dict[str, torch.Tensor]) -> None:
    """A file of others has no digest of ours, but one of torch has checksums."""
    (path,) = folder.iterdir()
    torch.manual_seed(1)
    saved = build_segmentor(NETWORK, 3).encoder.state_dict()
    expect(all(value.isfinite().all() for value in found.values()), "not finite")
    if path.suffix == ".safetensors":
        read = safetensors.torch.load(path.read_bytes())
        saved |= {key: value for key, value in read.items() if key in saved}
    # BatchNorm counts its batches, which old files do not say
    wrong = [key for key in saved if not key.endswith("tracked")
             and not torch.equal(found[key], saved[key].to(found[key].dtype))]  # fmt: skip
    expect(not wrong, f"other numbers in {wrong}")


#: name -> file, mutation, what is lost beforehand, what is done, what is checked, cases.
FILES: dict[str, tuple[str, Mutate, str, Act, Any, int]] = {
    "run config.json": (
        "config.json", in_json, "", alternately(compare, report, resume), compared, 6),
    "run config.json unfinished": (
        "config.json", in_json, "summary.json", alternately(resume, report), same_network, 3),
    "summary.json": ("summary.json", in_json, "", alternately(compare, report), compared, 6),
    "summary.json resumed": ("summary.json", in_json, "", resume, same_network, 3),
    "journal.jsonl": (
        "journal.jsonl", in_json_lines, "", alternately(compare, report), doubted, 6),
    "counts.safetensors": (
        "counts.safetensors", in_safetensors, "", alternately(compare, report), compared, 4),
    "model.safetensors": (
        "last/model.safetensors", in_safetensors, "", predict, predicted_alike, 6),
    "model config.json": (
        "last/config.json", in_json, "", alternately(predict, evaluate, export),
        as_the_card_says, 9),
    "resume.safetensors": (
        "resume.safetensors", in_safetensors, "summary.json", resume, same_network, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run(name: str, world: World, fuzzed: Callable[[Subject], None]) -> None:
    file, mutate, lost, act, check, cases = FILES[name]
    write = partial(copied, world, file, lost)
    fuzzed(Subject.of_file(name, write, mutate, partial(act, world), partial(check, world), cases))


def test_a_journal_that_goes_on(world: World, fuzzed: Callable[[Subject], None]) -> None:
    name, write = "journal.jsonl resumed", partial(journal_with_a_copy, world)
    act, check = partial(resume, world), partial(journal_kept, world)
    fuzzed(Subject.of_file(name, write, in_json_lines, act, check, 2))


def test_a_moment(world: World, fuzzed: Callable[[Subject], None]) -> None:
    """Pictures of a step, which the report shows."""
    (file, *_) = sorted((world.runs[0] / "moments").iterdir())
    write = partial(copied, world, f"moments/{file.name}", "")
    act = partial(report, world)
    fuzzed(Subject.of_file("moment", write, in_safetensors, act, nothing_but_text, 4))


def test_what_predict_has_written(world: World, fuzzed: Callable[[Subject], None]) -> None:
    act, check = partial(predict_again, world), partial(mine_is_kept, world)
    write = partial(predictions, world)
    fuzzed(Subject.of_file("predictions.jsonl", write, in_json_lines, act, check, 6))


@pytest.mark.parametrize(("kind", "mutate"), [("safetensors", in_safetensors), ("pth", in_bytes)])
def test_encoder_weights(kind: str, mutate: Mutate, fuzzed: Callable[[Subject], None]) -> None:
    write = partial(encoder_file, kind)
    name = f"encoder {kind}"
    fuzzed(Subject.of_file(name, write, mutate, load_into_encoder, as_it_was_saved))
