"""Trackers such as TensorBoard and W&B, through accelerate: they get losses, scores, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from PIL import Image

from u2pl.errors import UserError, did_you_mean
from u2pl.evaluate.confusion import Score
from u2pl.run.recipe import flat_values
from u2pl.training.journal import Entries
from u2pl.training.loop import Reporter

#: What to install for a tracker, if it is called otherwise.
_PACKAGES = {"comet_ml": "comet-ml"}

#: How a tracker is told the order of a picture's axes.
_PICTURES = {"tensorboard": {"dataformats": "NHWC"}}


def check_trackers(names: Sequence[str]) -> None:
    """UserError if a tracker is unknown or its package is not installed."""
    there = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(LOGGER_TYPE_TO_CLASS)
            near = did_you_mean(name, known)
            raise UserError(f"--track {name}: no such tracker{near}; there are {', '.join(known)}")
        if name not in there:
            package = _PACKAGES.get(name, name)
            raise UserError(
                f"--track {name}: its package is not installed; type uv pip install {package}"
            )


class Tracked:
    """A reporter that passes on what it is told, to another one and to trackers.

    A tracker that fails is left out from then on: it must not end a run of hours.

    Args:
        reporter: shows the progress.
        trackers: that have been started.
        classes: names by class id.
    """

    def __init__(
        self, reporter: Reporter, trackers: Sequence[GeneralTracker], classes: Sequence[str]
    ) -> None:
        self.reporter = reporter
        self.trackers = list(trackers)
        self.classes = classes

    def step(self, step: int, total: int, entries: Entries, left: float | None) -> None:
        """Log the numbers of a step; lists become a number for each class."""
        values: dict[str, float | None] = {}
        for name, value in entries.items():
            if isinstance(value, list):
                # tags leave out background, the first class
                names = self.classes[len(self.classes) - len(value) :]
                values |= {f"{name}/{each}": v for each, v in zip(names, value, strict=True)}
            else:
                values[name] = value
        self._log(values, step)
        self.reporter.step(step, total, entries, left)

    def evaluating(self, done: float, total: int) -> None:
        """Pass it on."""
        self.reporter.evaluating(done, total)

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Log mIoU, pixel accuracy and IoU per class of each network, in percent."""
        values: dict[str, float | None] = {}
        for role, score in scores.items():
            values[f"miou/{role}"] = score.miou
            values[f"pixel_accuracy/{role}"] = score.pixel_accuracy
            each = zip(self.classes, score.per_class_iou, strict=True)
            values |= {f"iou/{role}/{name}": iou for name, iou in each}
        self._log(values, step)
        self.reporter.scored(step, scores, best)

    def phase(self, text: str) -> None:
        """Pass it on."""
        self.reporter.phase(text)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.reporter.note(text)

    def picture(self, path: Path, step: int) -> None:
        """Send a picture to the trackers that take some."""
        taking = [tracker for tracker in self.trackers if hasattr(tracker, "log_images")]
        if not taking:
            return
        pixels = np.asarray(Image.open(path).convert("RGB"))
        for tracker in taking:
            given = {path.stem: pixels if tracker.name == "aim" else pixels[None]}
            self._try(tracker, "log_images", given, step, **_PICTURES.get(tracker.name, {}))

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        for tracker in list(self.trackers):
            self._try(tracker, "log", known, step)

    def _try(
        self, tracker: GeneralTracker, call: str, values: object, step: int, **options: str
    ) -> None:
        try:
            getattr(tracker, call)(values, step=step, **options)
        except Exception as error:  # whatever a tracker's own code and its network may raise
            self.trackers.remove(tracker)
            self.note(f"{tracker.name} fails and is left out from here on: {error}")


@contextmanager
def tracking(
    reporter: Reporter,
    names: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    classes: Sequence[str],
) -> Iterator[Tracked]:
    """Start trackers, and finish them at the end whatever happens between.

    Args:
        reporter: shows the progress.
        names: of trackers, see `check_trackers`; may be empty.
        folder: of the run; its name is the run's, and local trackers write to `tracking/` in it.
        config: what the run is, as it is recorded.
        classes: names by class id.

    Raises:
        UserError: A tracker does not start.
    """
    trackers: list[GeneralTracker] = []
    tracked = Tracked(reporter, trackers, classes)
    try:
        for name in names:
            tracked.trackers.append(_start(name, folder, config))
        yield tracked
    finally:
        for tracker in tracked.trackers:
            try:
                tracker.finish()
            except Exception as error:  # as while the run went on
                reporter.note(f"{tracker.name} could not be finished: {error}")


def _start(name: str, folder: Path, config: Mapping[str, Any]) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = {"logging_dir": folder / "tracking"} if kind.requires_logging_directory else {}
    try:
        tracker: GeneralTracker = kind(folder.name, **place)
        tracker.start()
        tracker.store_init_configuration(
            {
                key: value if isinstance(value, (bool, int, float)) else str(value)
                for key, value in flat_values(config).items()
            }
        )
    except Exception as error:  # no login, no network, another version: its own words say it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--track {name} does not start: {reason}") from error
    return tracker
