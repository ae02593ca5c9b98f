"""What a process loads before it forks, so that its children need not."""

from __future__ import annotations

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
