"""What `convert` does."""

from __future__ import annotations

import shlex
from pathlib import Path

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.cli.requests import ConvertRequest
from u2pl.data.conversion import Converted
from u2pl.data.conversion import convert as write
from u2pl.data.opening import open_source
from u2pl.run.app import App
from u2pl.run.resumption import typed


def convert(app: App, request: ConvertRequest) -> None:
    """Write a source as a folder, and say what was understood of it."""
    reporter = ConsoleReporter(standard_output())
    source = open_source(request.source, reporter.counting)
    done = write(source, request.to, request.copy, reporter.counting)
    for note in (*source.scoring_notes(), *done.notes):
        reporter.say(f"note: {note}")
    reporter.say(result_line(request.to, done))
    words = [*typed(app.name), "doctor", f"--{app.request.SOURCES[0]}", str(request.to)]
    reporter.say(f"next: {shlex.join(words)}")


def result_line(folder: Path, done: Converted) -> str:
    """What lies where."""
    links = {0: "no links", done.images: "links"}.get(done.links, f"{done.links} of them links")
    return f"{folder}: {done.images} images ({links}), {done.masks} masks in the classes' colours"
