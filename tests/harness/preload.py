"""What a process does before and after it forks: loads what its children need, and runs in them."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import small_mit

from u2pl.methods.discovery import load_method, method_names
from u2pl.networks.encoder import families
from u2pl.networks.registry import decoder_file, decoder_names
from u2pl.run.app import APPS, find_app


def everything() -> None:
    """Load what a training run loads, and make the small encoder known."""
    small_mit.register()
    for name in decoder_names():
        decoder_file(name)
    list(families())
    for app in map(find_app, APPS):
        app.task_module  # noqa: B018
        for name in method_names(app.methods):
            load_method(f"{app.package}.methods", app.methods, name)


def execute(words: Sequence[str]) -> NoReturn:
    """Run a program, its file and its arguments, and end this process as it ends."""
    sys.argv, code = list(words), 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # taking everything down would be a third of the child's time
    os._exit(code)
