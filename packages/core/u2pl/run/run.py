"""A finished run on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.model.model import Model, load
from u2pl.training.run_folder import SUMMARY


@dataclass(frozen=True)
class Run:
    """A folder that training has written.

    Args:
        folder: with config.json, summary.json, last/ and best/.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: scores, options and circumstances; UserError if the run is not finished."""
        path = self.folder / SUMMARY
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no finished run: it has no {SUMMARY}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} is not the summary of a run")
        return found

    @property
    def scores(self) -> dict[str, Score]:
        """The last evaluation, by network; empty if nothing could be scored."""
        return {name: Score(**entry) for name, entry in self.summary.get("networks", {}).items()}

    @cached_property
    def model(self) -> Model:
        """The network of the last step."""
        return load(self.folder / "last")

    @cached_property
    def best(self) -> Model:
        """The network with the highest mIoU; the last one if nothing could be scored."""
        return load(self.folder / "best") if (self.folder / "best").is_dir() else self.model
