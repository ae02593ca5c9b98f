"""The baseline that a run has to beat: the run beside it that differs in the method alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from u2pl.counting import silently
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.methods.discovery import load_method
from u2pl.run.app import App
from u2pl.run.compare.finished import ROLES, network_of
from u2pl.run.recipe import Recipe
from u2pl.run.request import Request
from u2pl.run.run import Run
from u2pl.run.sections import flat_keys
from u2pl.training.run_folder import CONFIG, SUMMARY, differences, next_folder, read_config

#: File of an app's package: what its baseline scores on the built-in demo.
RECORDED = "recorded.json"
#: What may differ between a run and its baseline, besides the method's own options.
_OWN = ("method_name", "method_file", "method_sha256", "preset", "command")


class Baseline(NamedTuple):
    """What a method that learns from labels alone has reached."""

    where: str  # a folder's name, or the device that a recorded run was made on
    method: str
    network: str  # the one with the highest mIoU: the harder one to beat
    scores: dict[str, Score]  # of all its networks

    @property
    def miou(self) -> float:
        """Of the better network."""
        return self.scores[self.network].miou

    @property
    def per_class_iou(self) -> list[float | None]:
        """Of the better network."""
        return self.scores[self.network].per_class_iou

    def like_with_like(self, scores: Mapping[str, Score]) -> dict[str, float]:
        """What each network gains over the one of the same role, as `compare` counts.

        A method whose average is kept, beaten by a baseline's student, can gain by both counts of
        compare and lose by that of the better network: each answers another question.

        Args:
            scores: of the run's networks.

        Returns: differences in mIoU, by the name of the run's network.
        """
        found = {}
        for role in ROLES:
            ours, theirs = network_of(role, scores), network_of(role, self.scores)
            if ours is not None and theirs is not None:
                found[ours] = scores[ours].miou - self.scores[theirs].miou
        return found

    def like_with_like_words(self, scores: Mapping[str, Score]) -> str:
        """The same for a person; empty if no network has a partner."""
        gains = [f"{name} {gain:+.2f}" for name, gain in self.like_with_like(scores).items()]
        return f"like with like, as compare counts: {', '.join(gains)}" if gains else ""


def find_baseline(app: App, folder: Path) -> Baseline | None:
    """The newest baseline beside a run: same data, split, seed, steps, network and protocol.

    For the built-in demos else the recorded one.

    Args:
        app: that trained it; its method `baseline` is looked for.
        folder: of the run.
    """
    config = read_config(folder)
    if config.get("method_name") == app.baseline:
        return None
    beside = [path for path in folder.absolute().parent.iterdir() if (path / SUMMARY).is_file()]
    for path in sorted(beside, key=lambda path: (path / SUMMARY).stat().st_mtime, reverse=True):
        try:
            found = _beside(path, config, app.baseline)
        except UserError:  # a damaged neighbour is no fault of this run
            continue
        if found is not None:
            return found
    return _recorded(app, config)


def baseline_request(app: App, request: Request) -> Request | None:
    """What to train so that a run has its baseline beside it; None if that is finished already.

    Options that the baseline does not have are left out. An unfinished one is resumed.

    Raises:
        UserError: The data or the options of the request do not work, or the baseline's summary is
            damaged.
    """
    if request.method == app.baseline:
        raise UserError(f"--baseline: {app.baseline} is the baseline itself; leave it out")
    kind = load_method(f"{app.package}.methods", app.methods, app.baseline)
    known = {key for key, _ in flat_keys(kind.Config, "method.")}
    kept = [
        each
        for each in request.set
        if not each.startswith("method.") or each.partition("=")[0] in known
    ]
    bare = replace(request, method=app.baseline, method_file=None, set=kept)
    asked = replace(bare, baseline=False, out=None, resume=False)
    recipe = Recipe.of_request(app, asked)
    task = app.task_module.make_task(app, asked, recipe, silently)
    parent = request.out.parent if request.out is not None else Path("runs")
    config = task.config()
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        if _is_run_of(path, config):
            if (path / SUMMARY).is_file():
                _ = Run(path).summary  # a damaged one is an error: it is this baseline's
                return None
            return replace(asked, out=path, resume=True)
    return replace(asked, out=next_folder(parent, f"{task.name}-{app.baseline}"))


def _is_run_of(path: Path, config: dict[str, object]) -> bool:
    """Whether a folder holds a run with this config; not if its own cannot be read."""
    try:
        return (path / CONFIG).is_file() and not differences(read_config(path), config)
    except UserError:  # a damaged neighbour is no fault of this run
        return False


def _beside(path: Path, config: dict[str, object], baseline: str) -> Baseline | None:
    if not (path / CONFIG).is_file():
        return None
    other = read_config(path)
    if other.get("method_name") != baseline or _changed(config, other):
        return None
    return _better(path.name, baseline, Run(path).scores)


def _recorded(app: App, config: dict[str, Any]) -> Baseline | None:
    """What the app recorded of the same data, seed and options; newer options are passed over.

    None of a run that began with a trained network: no recorded one did.
    """
    path = app.folder / RECORDED
    recorded = path.exists() and "init" not in config
    for entry in json.loads(path.read_text(encoding="utf-8")) if recorded else []:
        known = _within(config, entry)
        if not _changed(known, {key: entry[key] for key in known}):
            scores = {name: Score(**score) for name, score in entry["networks"].items()}
            return _better(f"recorded on {entry['device']}", entry["method"], scores)
    return None


def _within(config: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that an entry says something of."""
    return {
        key: _within(value, entry[key]) if isinstance(value, dict) else value
        for key, value in config.items()
        if key in entry
    }


def _better(where: str, method: str, scores: dict[str, Score]) -> Baseline | None:
    """The baseline by the network with the highest mIoU."""
    if not scores:
        return None
    return Baseline(where, method, max(scores, key=lambda name: scores[name].miou), scores)


def _changed(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """What differs besides the method."""
    return differences(_shared(one), _shared(other))


def _shared(config: dict[str, Any]) -> dict[str, object]:
    options = {k: v for k, v in config.get("options", {}).items() if k != "method"}
    options["train"] = {k: v for k, v in options.get("train", {}).items() if k != "evaluations"}
    kept = {key: value for key, value in config.items() if key not in _OWN}
    return {**kept, "options": options}
