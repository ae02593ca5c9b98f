"""What a run folder holds, for its report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from u2pl.errors import UserError
from u2pl.evaluate.counts import COUNTS, Counts, ScoredImages, load_counts
from u2pl.model.model import Model, load
from u2pl.run.app import App
from u2pl.run.baseline import Baseline, find_baseline
from u2pl.run.moments import Moment, read_moments
from u2pl.run.run import Run
from u2pl.training.journal import Reading, read_journal
from u2pl.training.run_folder import CONFIG, JOURNAL, SUMMARY, read_config

#: Entries of config.json that a report says.
NEEDED = ("app", "method_name", "preset", "split", "seed", "steps", "options")


@dataclass(frozen=True)
class Finding:
    """What a run folder holds, read when it is asked for.

    Args:
        app: that trained it.
        folder: of a run, finished or not.
        device: of the network.
    """

    app: App
    folder: Path
    device: torch.device

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; UserError if it lacks what a report says."""
        found: dict[str, Any] = read_config(self.folder)
        missing = [name for name in NEEDED if name not in found]
        if missing:
            raise UserError(
                f"{self.folder / CONFIG} does not say {', '.join(missing)}: it is not that of a "
                "run, or not complete"
            )
        return found

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty while the run goes on."""
        return Run(self.folder).whole_summary if (self.folder / SUMMARY).exists() else {}

    @cached_property
    def _reading(self) -> Reading:
        path = self.folder / JOURNAL
        return read_journal(path) if path.exists() else Reading([], "")

    @property
    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal so far, without those that cannot be read."""
        return self._reading.lines

    @property
    def doubt(self) -> str:
        """What of the journal cannot be read, for a person; empty if all can."""
        return self._reading.doubt

    @cached_property
    def scored(self) -> ScoredImages | None:
        """Counts of the last evaluation, of the model's classes; None if nothing was scored."""
        path = self.folder / COUNTS
        found = load_counts(path) if path.exists() else None
        if found is not None and self.model is not None:
            counted = next(iter(found.networks.values())).confusion.shape[0]
            if counted != len(self.model.classes):
                raise UserError(
                    f"{path} counts {counted} classes, but {self.folder / 'last'} has "
                    f"{len(self.model.classes)}: delete it, it is of another run"
                )
        return found

    @cached_property
    def model(self) -> Model | None:
        """The last network; None before the first evaluation."""
        last = self.folder / "last"
        return load(last, self.device) if last.exists() else None

    @cached_property
    def moments(self) -> list[Moment]:
        """What the method made of its images."""
        return read_moments(self.folder)

    @property
    def data(self) -> str:
        """The training data in words."""
        card = self.model.card.data if self.model is not None else ""
        return str(self.summary.get("data") or card or "its data")

    @cached_property
    def baseline(self) -> Baseline | None:
        """The baseline beside the run."""
        return find_baseline(self.app, self.folder)

    @property
    def result(self) -> str:
        """The network that is the run's result."""
        model = self.model
        return str(model.card.scores.get("network", "")) if model is not None else ""

    @property
    def counts(self) -> Counts | None:
        """Counts of the result."""
        return self.scored.networks.get(self.result) if self.scored is not None else None

    @property
    def warm_steps(self) -> int:
        """Steps of the warm start."""
        share = self.config["options"].get("method", {}).get("warm_start", 0.0)
        if not isinstance(share, (int, float)):
            raise UserError(f"{self.folder / CONFIG}: method.warm_start is {share!r}, no number")
        return round(share * int(self.config["steps"]))

    @property
    def done(self) -> int:
        """Steps done, as far as the journal tells."""
        return 1 + max((line["step"] for line in self.journal), default=-1)
