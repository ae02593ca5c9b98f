"""Finished runs on disk, and finding them in folders."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.counts import COUNTS, Counts, ScoredImages, load_counts
from u2pl.evaluate.statistics import LEAST, bootstrap_draws
from u2pl.model.folder import WEIGHTS
from u2pl.run.run import Run
from u2pl.training.journal import Reading, read_journal
from u2pl.training.run_folder import CONFIG, JOURNAL, SUMMARY, read_config

#: What a network is to its method: what is trained, or an average of it. Student is compared with
#: student and average with average, since averaging alone often gains more than a method does.
Role = Literal["student", "average"]
ROLES: tuple[Role, ...] = ("student", "average")
#: Names of averaged networks: of weights over time, or of the predictions of two students.
AVERAGED = ("teacher", "ema", "average")


@dataclass(frozen=True)
class Finished:
    """A finished run whose networks were scored.

    Args:
        folder: of the run.
        config: its config.json.
        summary: its summary.json.
        scores: of the last evaluation, by network.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    scores: dict[str, Score]

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method_name"])

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        return int(self.config["seed"])

    @property
    def minutes(self) -> float:
        """Training and scoring, over all resumptions."""
        return float(self.summary["seconds"]) / 60

    def network(self, role: Role) -> str | None:
        """The name of the network with this role; None if the method has none."""
        return network_of(role, self.scores)

    def score(self, role: Role) -> Score | None:
        """The last evaluation."""
        name = self.network(role)
        return self.scores[name] if name is not None else None

    def curve(self, role: Role) -> dict[int, float]:
        """mIoU in percent after each evaluation, by the number of steps done."""
        name = self.network(role)
        return {
            int(entry["step"]): float(entry[name]["miou"])
            for entry in self._evaluations
            if name in entry
        }

    def best(self, role: Role) -> float | None:
        """The highest mIoU of all evaluations; None if they are not known."""
        known = list(self.curve(role).values())
        if known:
            return max(known)
        known_best = self.network(role) == self.summary.get("network")
        return float(self.summary["miou_best"]) if known_best else None

    @cached_property
    def counted(self) -> ScoredImages | None:
        """Pixel counts of the last evaluation; None if an older version kept none."""
        path = self.folder / COUNTS
        return load_counts(path) if path.exists() else None

    def counts(self, role: Role) -> Counts | None:
        """Pixel counts of a network; None if none were kept."""
        name = self.network(role)
        return self.counted.networks.get(name) if self.counted and name else None

    def draws(self, role: Role) -> Tensor | None:
        """mIoU of resamples of the scored images, the same ones for every run; see statistics.

        None if no counts were kept, or too few images were scored.
        """
        if role not in self._drawn:
            counts, counted = self.counts(role), self.counted
            self._drawn[role] = None
            if counts is not None and counted is not None and len(counted.ids) >= LEAST:
                # in an order that is that of any run
                order = sorted(range(len(counted.ids)), key=counted.ids.__getitem__)
                self._drawn[role] = bootstrap_draws(counts.images[order])
        return self._drawn[role]

    @cached_property
    def _drawn(self) -> dict[Role, Tensor | None]:
        return {}

    @property
    def doubt(self) -> str:
        """What of the journal cannot be read, for a person; empty if all can."""
        return self._reading.doubt

    @property
    def _evaluations(self) -> list[dict[str, Any]]:
        return [line["evaluation"] for line in self._reading.lines if "evaluation" in line]

    @cached_property
    def _reading(self) -> Reading:
        path = self.folder / JOURNAL
        return read_journal(path) if path.exists() else Reading([], "")


def network_of(role: Role, names: Collection[str]) -> str | None:
    """Which of a method's networks has a role; None if none has.

    Args:
        role: student or average.
        names: of all its networks.
    """
    averages = [name for name in names if name in AVERAGED]
    others = [name for name in names if name not in AVERAGED]
    if role == "average":
        return next(iter(averages), None)
    return "student" if "student" in others else next(iter(others), None)


class Found(NamedTuple):
    """What some folders hold."""

    runs: list[Finished]
    unfinished: list[Path]
    unscored: list[Path]  # finished, but without a mask to score on
    foreign: list[Path]  # of another app, in a folder that holds runs


def find_runs(paths: Iterable[Path], app_name: str | None = None) -> Found:
    """The finished runs among these folders and in them, in their order, each once.

    Args:
        paths: of runs, or of folders that hold runs.
        app_name: of the program whose runs are meant; those of any are, if it is left out.

    Raises:
        UserError: A folder holds no run, or a run is damaged.
    """
    folders: dict[Path, Path] = {}
    found = Found([], [], [], [])
    for path in paths:
        for folder in _folders(path):
            if app_name and folder != path and _config(folder).get("app") != app_name:
                found.foreign.append(folder)
            else:
                folders.setdefault(folder.resolve(), folder)
    for folder in folders.values():
        if not (folder / SUMMARY).exists():
            found.unfinished.append(folder)
            continue
        run = read_run(folder)
        if run.scores:
            found.runs.append(run)
        else:
            found.unscored.append(folder)
    return found


def read_run(folder: Path) -> Finished:
    """A finished run; UserError if something in its folder is damaged."""
    config, run = _config(folder), Run(folder)
    try:
        found = Finished(folder, config, run.summary, run.scores)
        # whatever is looked at later
        _ = found.method, found.seed, found.minutes, found.best("student"), found.best("average")
        _ = config["app"], config["steps"], dict(config["options"]), config["data_fingerprint"]
        _ = list(found.summary["classes"]), config["split"]
        _ = not found.scores or str(found.summary["evaluation"])
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} is damaged ({type(error).__name__}: {error}): leave it out, or train it "
            "again"
        ) from error
    return found


def _folders(path: Path) -> list[Path]:
    """A run, or the runs in a folder, in the order that a person counts."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}: give the folder of a run, or one with runs")
    if (path / WEIGHTS).exists():
        raise UserError(f"{path} is a network, not a run: give the folder above it")
    if _is_run(path):
        return [path]
    inside = [each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")]
    found = [each for each in sorted(inside, key=_counted) if _is_run(each)]
    if not found:
        raise UserError(f"{path} holds no run: give the folder of a run, or one with runs")
    return found


def _is_run(folder: Path) -> bool:
    """Whether a run of `train` was begun there; a network and a detector have a config too."""
    if not (folder / CONFIG).exists():
        if (folder / SUMMARY).exists() and (folder / "last").exists():
            raise UserError(f"{folder} is damaged: it has no {CONFIG}; leave it out")
        return False
    return not (folder / WEIGHTS).exists() and "method_name" in _config(folder)


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except UserError:
        raise UserError(
            f"{folder} is damaged: {CONFIG} cannot be read; leave it out, or train it again"
        ) from None


def _counted(folder: Path) -> list[tuple[int, str]]:
    """A key that sorts run-2 before run-10."""
    parts = re.split(r"(\d+)", folder.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
