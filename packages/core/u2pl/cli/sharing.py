"""The commands that give a trained network to others: `export` and `push`."""

from __future__ import annotations

import shlex
from pathlib import Path

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.cli.requests import ExportRequest, PushRequest
from u2pl.errors import UserError
from u2pl.files import Content
from u2pl.model.folder import CONFIG, README, WEIGHTS, locate, save_folder
from u2pl.model.model import load
from u2pl.model.onnx_file import OnnxCheck, load_onnx, to_onnx
from u2pl.model.publish import publish, without_paths
from u2pl.run.app import App
from u2pl.run.resumption import typed
from u2pl.training.threads import choose_threads

ONNX = "model.onnx"
#: All that `export` writes, and so all that --overwrite may replace.
WRITTEN = (WEIGHTS, CONFIG, README, ONNX)


def export(app: App, request: ExportRequest) -> None:
    """Write the model folder, and the ONNX file if it is asked for: all of it, or nothing."""
    check_free(request.to, request.overwrite)
    if request.onnx:
        load_onnx()
    choose_threads()
    reporter = ConsoleReporter(standard_output())
    found = locate(request.network)
    model = load(found.folder, "cpu")
    more: dict[str, Content] = {}
    if request.onnx:
        reporter.say(f"making {ONNX} and comparing it with the network: a minute or more ...")
        more[ONNX], check = to_onnx(model.network, model.card)
        reporter.say(check_words(check))
    save_folder(request.to, model.network, without_paths(model.card), more)
    files = ", ".join((WEIGHTS, CONFIG, README, *more))
    reporter.say(f"{found.name} written to {request.to}: {files}")
    for line in next_lines(app, str(request.to)):
        reporter.say(line)


def push(app: App, request: PushRequest) -> None:
    """Publish the model on the hub."""
    reporter = ConsoleReporter(standard_output())
    found = locate(request.network)
    model = load(found.folder, "cpu")
    name = publish(model, request.name, request.private)
    reporter.say(f"{found.name} pushed to {name}: {WEIGHTS}, {CONFIG}, {README}")
    reporter.say("say on its page under which licence others may use it")
    for line in next_lines(app, name):
        reporter.say(line)


def check_free(folder: Path, overwrite: bool) -> None:
    """UserError if a folder cannot be written, or holds what is not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to {folder} is a file: choose a folder")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    others = [name for name in held if name not in WRITTEN]
    if others:
        raise UserError(
            f"--to {folder} holds what is no part of a model ({others[0]}): choose another folder"
        )
    if held and not overwrite:
        raise UserError(
            f"--to {folder} holds a model already: add --overwrite to replace it, or choose "
            "another folder"
        )


def check_words(check: OnnxCheck) -> str:
    """How the ONNX file compares with the network."""
    shapes = " and ".join("x".join(map(str, shape)) for shape in check.shapes)
    return (
        f"ONNX against PyTorch on {shapes}: probabilities differ by at most "
        f"{check.difference:.1g}, {100 * check.equal:.2f} % of the pixels are equal"
    )


def next_lines(app: App, name: str) -> list[str]:
    """What can be typed next, in a shell and in Python."""
    return [
        "next, in a shell and in Python:",
        f"{shlex.join([*typed(app.name), 'predict', name])} IMAGE_OR_FOLDER --out predictions",
        f"import u2pl; prediction = u2pl.load({name!r}).predict('IMAGE')",
    ]
