"""What `predict` has written into a folder: what it may replace there, and need not do again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError

from u2pl.errors import DiskError, UserError, explain
from u2pl.files import make_folder, write_text

#: One JSON line after the other: how images were predicted, then what was written of each.
MANIFEST = "predictions.jsonl"
#: What the first line says that it is.
FORMAT = "u2pl-predictions-1"


class Written(BaseModel):
    """A file as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    mtime_ns: int
    sha256: str


class Found(BaseModel):
    """An image that was predicted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # of its files, without suffix
    image: str  # the file, as typed
    stored: tuple[int, int]  # size in bytes and time of change of that file
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    confidence: FiniteFloat  # mean probability of the predicted class
    entropy: FiniteFloat  # mean entropy relative to that of even odds
    ignored: FiniteFloat = 0.0  # share of the pixels that became 255
    shares: dict[str, FiniteFloat]  # share of the pixels by class, the ignored ones with theirs


class _Line(BaseModel):
    """A line of the manifest; what it does not say did not happen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = ""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    begun: list[str] = Field(default_factory=list)  # files that are about to be written
    files: dict[str, Written | None] = Field(default_factory=dict)  # that were written
    found: Found | None = None


class Manifest:
    """The files of a folder that are predictions, by their path below it.

    Args:
        out: the folder; it need not exist.

    Raises UserError if the folder's manifest is damaged.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / MANIFEST
        #: Files that predictions may have written; None: it is not known how they were left.
        self.files: dict[str, Written | None] = {}
        #: How the images were predicted; None in a folder without predictions.
        self.settings: dict[str, Any] | None = None
        self.found: dict[str, Found] = {}
        for line in _lines(self.path):
            if line.format:
                self.settings = line.settings
            self.files |= dict.fromkeys(line.begun) | line.files
            if line.found is not None:
                self.found[line.found.name] = line.found

    def foreign(self, names: Iterable[str]) -> str | None:
        """The first of these files that is there and is not as a prediction has left it."""
        return next((name for name in names if not self._own(name)), None)

    def done(self, name: str, image: Path, files: Iterable[str]) -> bool:
        """Whether an image was predicted, has not changed since, and its files are there."""
        found = self.found.get(name)
        return (
            found is not None
            and found.stored == stored(image)
            and all((self.out / file).is_file() for file in files)
        )

    def start(self, settings: Mapping[str, Any], keep: Iterable[str]) -> None:
        """Begin to predict: forget all images but those to `keep`, remember all files."""
        make_folder(self.out)
        self.settings = dict(settings)
        self.found = {name: self.found[name] for name in keep}
        lines = [_Line(format=FORMAT, settings=self.settings, files=self.files)]
        lines += [_Line(found=found) for found in self.found.values()]
        write_text(self.path, "".join(_json(line) for line in lines))

    @contextmanager
    def writing(self, names: Iterable[str]) -> Iterator[list[Found]]:
        """Note down files before they are written and afterwards.

        The body may put what it found of an image into the list that it gets.
        """
        begun, found = list(names), list[Found]()
        self._append(_Line(begun=begun))
        self.files |= dict.fromkeys(begun)
        yield found
        files = {name: _written(self.out / name) for name in begun}
        self.files |= files
        self._append(_Line(files=files, found=found[0] if found else None))
        self.found |= {each.name: each for each in found}

    def _own(self, name: str) -> bool:
        path = self.out / name
        if not os.path.lexists(path):
            return True
        if name not in self.files or not path.is_file():
            return False
        was = self.files[name]
        if was is None or path.is_symlink():
            return True
        size, changed = stored(path)
        if (size, changed) == (was.bytes, was.mtime_ns):
            return True
        return size == was.bytes and _digest(path) == was.sha256

    def _append(self, line: _Line) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_json(line))
        except OSError as error:
            raise DiskError(
                f"cannot write {self.path}: {error.strerror}; free some space and go on with "
                "--resume"
            ) from error


def stored(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change of a file, which differ if it was changed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _written(path: Path) -> Written | None:
    """None if there is no such file."""
    if not path.is_file():
        return None
    size, changed = stored(path)
    return Written(bytes=size, mtime_ns=changed, sha256=_digest(path))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(line: _Line) -> str:
    return json.dumps(line.model_dump(mode="json", exclude_defaults=True)) + "\n"


def _lines(path: Path) -> Iterator[_Line]:
    """The lines of a manifest, without a last one that a kill truncated."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # whoever makes the folder complains
        return
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, str(getattr(error, "strerror", None) or error)) from None
    for number, content in enumerate(text.split("\n")[:-1], 1):
        try:
            line = _Line.model_validate_json(content)
        except ValidationError as error:
            raise _damaged(path, f"line {number}: {explain(error)[:200]}") from None
        if (number == 1) != bool(line.format) or line.format not in ("", FORMAT):
            raise _damaged(path, f"line {number} is of another format")
        yield line


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} cannot be read as what predict has written ({reason}): choose another --out, or "
        "move the folder away"
    )
