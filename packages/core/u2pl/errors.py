"""Mistakes of users, in one line each."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

#: What other programs call an option -> its name here, or how it is typed.
SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "backbone": "network.encoder",
        "batch": "train.batch",
        "batch_size": "train.batch",
        "config": "--preset",
        "crop_size": "data.crop",
        "ema": "method.teacher.momentum",
        "ema_decay": "method.teacher.momentum",
        "epochs": "train.epochs",
        "image_size": "data.crop",
        "imgsz": "data.crop",
        "iterations": "--steps",
        "learning_rate": "train.lr",
        "lr": "train.lr",
        "max_iters": "--steps",
        "model": "network.encoder",
        "momentum": "method.teacher.momentum",
        "num_workers": "data.workers",
        "output": "--out",
        "output_dir": "--out",
        "pretrained": "network.encoder_weights",
        "project": "--out",
        "wd": "train.weight_decay",
        "workers": "data.workers",
    }
)
#: Unicode's categories of characters that are none to read: control, and ends of lines.
_CONTROL = ("Cc", "Zl", "Zp")
#: Characters that let what follows be shown in another order, and one that is not seen at all.
_UNSEEN = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
#: Folders -> what errors call them.
_CALLED: dict[str, str] = {}
#: Characters of a line that a person still reads.
LONGEST = 2000


class UserError(ValueError):
    """One line for a person: what is wrong, where, and what to do.

    Commands print it and exit with code 2. What lies in an unpacked archive is called a member of
    it, see `call`.
    """

    #: Lines of a file that would mend it, for `doctor` to show.
    proposal: str = ""

    def __init__(self, line: str = "") -> None:
        for folder, name in _CALLED.items():
            line = line.replace(f"{folder}{os.sep}", f"{name}: ").replace(folder, name)
        super().__init__(line)


def call(folder: str, name: str) -> None:
    """Call a folder that no person knows by a name that they do know, in all errors.

    Args:
        folder: of what was unpacked.
        name: of the archive; what lies in the folder is `name: path`.
    """
    _CALLED[folder] = name


class CutShort(UserError):
    """The work cannot be finished for now; it can go on once that is mended."""


class DiskError(CutShort):
    """Something could not be written: there is no room for it."""


class LostError(CutShort):
    """Another process of the same work is gone."""


class LoadingError(CutShort):
    """A batch could not be made: an image is broken, or the machine ended what reads them."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this machine or its GPU had not enough memory. Loads no torch.

    torch has a class for a GPU's memory alone; what a processor lacks it says in words.
    """
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    # the second is numpy's, which a worker process passes on as a RuntimeError
    words = ("can't allocate memory", "Unable to allocate", "Storage size calculation overflowed")
    return named or any(each in str(error) for each in words)


def one_line(text: str) -> str:
    """The text with a space for each line break and control character.

    Names come from files of others: printed as they are, they could end a line, turn it round, or
    command a terminal.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if c in _UNSEEN or unicodedata.category(c) in _CONTROL else c for c in text)


def shortened(line: str) -> str:
    """The line, without its middle if it is too long: its end says what to do.

    Values of others may be of any length.
    """
    kept = LONGEST // 2 - 2
    return line if len(line) <= LONGEST else f"{line[:kept]} … {line[-kept:]}"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean X?)` with the nearest known word, or nothing if none is near.

    A word of the field for a known option counts as near.
    """
    words = list(known)
    meant = synonym(word)
    near = [meant] if meant in words else difflib.get_close_matches(word, words, n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def synonym(word: str) -> str | None:
    """What `SYNONYMS` has for a word, typed with or without dashes and section."""
    bare = word.strip("-").rpartition(".")[2].replace("-", "_")
    return SYNONYMS.get(bare)


def explain(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic in one line; `prefix` goes in front of the option's name."""
    first = error.errors()[0]
    where = (prefix + ".".join(str(part) for part in first["loc"])).rstrip(".")
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a whole section, whose values do not fit each other
        return f"{where}: {reason}" if where else reason
    if first["type"] == "tuple_type":
        reason = "write several values as [1, 2]"
    # the input of a field that is missing is all that is there
    silent = first["type"] in ("extra_forbidden", "missing")
    return f"{where}: {reason}" + ("" if silent else f", not {first['input']!r}")
