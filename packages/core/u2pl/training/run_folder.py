"""The folder of a run: choosing it, and finding it again. Loads no torch."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from u2pl.errors import UserError
from u2pl.files import PART, parse_json, write_json
from u2pl.training.run_lock import LOCK

CONFIG, JOURNAL, SUMMARY = "config.json", "journal.jsonl", "summary.json"
#: Folders of the network that was scored last, and of the best one.
LAST, BEST = "last", "best"
#: The entry that lists what the data was before, each with the step until which it held.
CHANGES = "data_changes"
#: Entries that may change when a run is resumed; all others must be equal. What a run began with
#: (`origin`) is in its state.
FREE = (
    *("command", "origin", "cpu", "deterministic", "track", "method_file", CHANGES),
    *("workers", "log_every", "checkpoint_every"),
)
#: Entries that follow from what the data holds.
OF_DATA = ("data_fingerprint", "tags_fingerprint", "split", "boxes")
#: Types of entries that are computed with, where a config has them.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("app", "method_name", "preset", "split", "data_fingerprint"), str),
    **dict.fromkeys(("seed", "steps"), int),
    "options": dict,
}
#: Characters of a value that is said in a line.
LONG = 40
#: Stands for an entry that a config does not have.
ABSENT: Any = object()


def next_folder(parent: Path, stem: str) -> Path:
    """The name of a new folder `parent/stem-<n>`, numbered after the highest existing one."""
    return parent / f"{stem}-{max(_numbers(parent, stem), default=0) + 1}"


def latest_folder(parent: Path, stem: str, config: dict[str, object]) -> Path:
    """The newest `parent/stem-<n>` started with the same config; UserError if there is none."""
    for number in sorted(_numbers(parent, stem), reverse=True):
        folder = parent / f"{stem}-{number}"
        if (folder / CONFIG).is_file() and not differences(read_config(folder), config):
            return folder
    raise UserError(
        f"--resume: no run {parent / stem}-<n> was started with this command; name its folder, "
        "--resume FOLDER alone, or start a new run"
    )


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, but for what a kill may have left that is not worth keeping."""
    names = (entry.name for entry in folder.iterdir())
    return all(name == LOCK or name.endswith(PART) for name in names)


def check_empty(folder: Path) -> None:
    """UserError if there is something where a new run is to be."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --out")
    if folder.exists() and not holds_nothing(folder):
        raise UserError(
            f"{folder} is not empty; add --resume to continue the run in it, or choose another "
            "--out"
        )


def check_same(folder: Path, config: dict[str, object], data_may_differ: bool = False) -> list[str]:
    """Check that a folder holds the run that is asked for.

    Args:
        folder: of the run.
        config: of the run as it is asked for.
        data_may_differ: whether its data may have changed since.

    Returns: the entries that differ because the data has changed, see `accept_changes`.
    Raises UserError if there is no run, or one with another config.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: {folder} holds no run; leave --resume out to start one there")
    there = read_config(folder)
    changed = differences(there, config)
    # the steps of a run may follow from the number of images
    if changed and all(name in (*OF_DATA, "steps") for name in changed):
        if data_may_differ:
            return changed
        if "data_fingerprint" in changed:
            raise UserError(
                f"--resume: the data has changed since {folder} was started; if images or masks "
                "were repaired, added or removed, add --accept-changed-data, else choose another "
                "--out"
            )
    if changed:
        words = ", ".join(_difference(there, config, name) for name in changed[:3])
        new = [name for name in changed if _value(there, name) is ABSENT]
        advice = (
            "go on with that version"
            if new == changed
            else "to go on as it began name the folder alone, --resume FOLDER"
        )
        raise UserError(
            f"--resume: {folder} was started with another {words}; {advice}, or choose another "
            "--out"
        )
    return []


def accept_changes(folder: Path, config: dict[str, object], changed: list[str], step: int) -> None:
    """Write down that a run goes on with changed data, and what it had before.

    Args:
        folder: of the run, claimed.
        config: of the run as it goes on.
        changed: what differs, see `check_same`.
        step: of its state: until then it had the other data.
    """
    there = read_config(folder)
    before = {"until_step": step, **{name: there.get(name) for name in changed}}
    earlier = there.get(CHANGES)
    changes = [*(earlier if isinstance(earlier, list) else []), before]
    now = {name: config[name] for name in changed if name in config}
    write_json(folder / CONFIG, {**there, **now, CHANGES: changes})


def is_unbegun(folder: Path) -> bool:
    """Whether a run has not written down its first step."""
    journal = folder / JOURNAL
    names = {entry.name for entry in folder.iterdir()}
    return names <= {CONFIG, JOURNAL, LOCK} and not (journal.exists() and journal.stat().st_size)


def forget_unbegun(folder: Path) -> None:
    """Remove the folder of a run that failed before its first step was written down."""
    if is_unbegun(folder):
        shutil.rmtree(folder)


def read_config(folder: Path) -> dict[str, object]:
    """The resolved config of a run; UserError if it is damaged."""
    path, again = folder / CONFIG, "train it again, in another folder"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {again}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not the config of a run; {again}")
    for name, value in _mistyped(config):
        raise UserError(f"{path} is not the config of a run: {name} is {_short(value)}; {again}")
    return config


def _mistyped(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The entries that are of another type than they should be."""
    for name, kind in _TYPES.items():
        if name in config and not isinstance(config[name], kind):
            yield name, config[name]
        elif name == "options":
            sections = config.get(name, {}).items()
            yield from ((f"{name}.{key}", v) for key, v in sections if not isinstance(v, dict))


def differences(one: dict[str, object], other: dict[str, object], prefix: str = "") -> list[str]:
    """Dotted names of the entries that differ between two configs, except those in `FREE`.

    In the order of `other`: what a person types stands before what follows from it.
    """
    changed = []
    for key in dict.fromkeys((*other, *one)):
        if key in FREE:
            continue
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += differences(a, b, f"{prefix}{key}.")
        elif json.dumps(a) != json.dumps(b):
            changed.append(f"{prefix}{key}")
    return changed


def _difference(there: dict[str, object], here: dict[str, object], name: str) -> str:
    """An entry that differs, as one would type it, and both of its values if they are short."""
    values = [_value(config, name) for config in (there, here)]
    name = name.removeprefix("options.")
    if values[0] is ABSENT and "." in name:
        return f"{name} (not known there: the run is of an older version)"
    if ABSENT in values or any(isinstance(v, dict) or len(json.dumps(v)) > LONG for v in values):
        return name
    return f"{name} ({json.dumps(values[0])} there, {json.dumps(values[1])} here)"


def _value(config: dict[str, object], name: str) -> Any:
    """An entry by its dotted name; `ABSENT` if there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def _short(value: object) -> str:
    """A value in a line."""
    text = json.dumps(value)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def _numbers(parent: Path, stem: str) -> list[int]:
    if not parent.is_dir():
        return []
    found = (re.fullmatch(re.escape(stem) + r"-(\d+)", entry.name) for entry in parent.iterdir())
    return [int(match[1]) for match in found if match]
