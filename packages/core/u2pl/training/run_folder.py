"""What a run leaves on disk, and how a later one finds it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from u2pl.errors import UserError
from u2pl.files import write_json

CONFIG, JOURNAL, SUMMARY = "config.json", "journal.jsonl", "summary.json"
#: What must be equal for a run to be continued; the rest (steps between log lines, workers, ...) may change.
FREE = ("workers", "log_every", "checkpoint_every")


def next_folder(parent: Path, stem: str) -> Path:
    """A folder `parent/stem-<n>` that does not exist yet, one number after the highest."""
    return parent / f"{stem}-{max(_numbers(parent, stem), default=0) + 1}"


def latest_folder(parent: Path, stem: str, config: dict[str, Any]) -> Path:
    """The newest `parent/stem-<n>` that was started with the same config; UserError when there is none."""
    for number in sorted(_numbers(parent, stem), reverse=True):
        folder = parent / f"{stem}-{number}"
        if (folder / CONFIG).is_file() and not differences(read_config(folder), config):
            return folder
    raise UserError(
        f"--resume: no run {parent / stem}-<n> was started with this command; name its folder with --out, or start anew"
    )


def open_folder(folder: Path, config: dict[str, Any], resume: bool) -> None:
    """Claim a folder for a run, or make sure that it holds this one; UserError otherwise, and nothing is changed."""
    if resume:
        if not (folder / CONFIG).is_file():
            raise UserError(
                f"--resume: {folder} holds no run; leave --resume out to start one there"
            )
        changed = differences(read_config(folder), config)
        if changed:
            raise UserError(
                f"--resume: {folder} was started with another {', '.join(changed[:3])}; use the same command, or another --out"
            )
        return
    # a file that a kill left half written is nothing that could be lost
    if folder.exists() and (
        not folder.is_dir() or any(not entry.name.endswith(".part") for entry in folder.iterdir())
    ):
        raise UserError(
            f"{folder} is not empty; add --resume to go on with the run in it, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; choose another --out"
        ) from error
    write_json(folder / CONFIG, config)


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run; UserError when it is damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / CONFIG} cannot be read ({error}); start again with another --out"
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            f"{folder / CONFIG} is not the config of a run; start again with another --out"
        )
    return config


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the entries in which two configs differ, apart from those that change no result."""
    changed = []
    for key in sorted({*one, *other} - set(FREE)):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += differences(a, b, f"{prefix}{key}.")
        elif json.dumps(a) != json.dumps(b):
            changed.append(f"{prefix}{key}")
    return changed


def _numbers(parent: Path, stem: str) -> list[int]:
    if not parent.is_dir():
        return []
    found = (re.fullmatch(re.escape(stem) + r"-(\d+)", entry.name) for entry in parent.iterdir())
    return [int(match[1]) for match in found if match]
