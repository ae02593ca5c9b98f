"""Which runs a sweep consists of: from a file or the command line to a request for each run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from u2pl.errors import UserError, did_you_mean, one_line
from u2pl.files import expanded, parse_toml
from u2pl.methods.discovery import load_method
from u2pl.model.folder import locate
from u2pl.run.app import App
from u2pl.run.early import check_early
from u2pl.run.recipe import Recipe
from u2pl.run.request import LARGEST_SEED, Request
from u2pl.run.sections import METHOD, flat_keys
from u2pl.run.sweep.options import shared_options
from u2pl.run.tracking import check_trackers

#: What a sweep file holds besides the options that all runs share, and a variant besides its own.
_FILE = ("methods", "seeds", "variant", "out")
_VARIANT = ("name", "method")
_NAME = re.compile(r"[^./\s-][^/\s]*")


@dataclass(frozen=True)
class Sweep:
    """What is asked for: every variant with every seed.

    Args:
        common: options of `train` by name, shared by all runs.
        variants: a name, and `method` and other options by name; their `set` comes after the
            common one.
        seeds: of each variant.
        out: the folder for the runs.
    """

    common: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    out: Path | None = None


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Args:
        variant: its name.
        request: with the run's folder.
    """

    variant: str
    request: Request

    @property
    def folder(self) -> Path:
        """Where the run is or will be."""
        assert self.request.out is not None
        return self.request.out

    @property
    def name(self) -> str:
        """How it is called, and its folder."""
        return self.folder.name

    def words(self, resume: bool) -> list[str]:
        """What to type behind the program's name."""
        return ["train", *replace(self.request, resume=resume).words("baseline")]

    def command(self, app: App, resume: bool = False) -> str:
        """What to type."""
        return shlex.join([app.name, *self.words(resume)])


def read_sweep(path: Path, app: App) -> Sweep:
    """The sweep of a TOML file.

    Raises:
        UserError: The file cannot be read, or holds what is no part of a sweep.
    """
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as a sweep ({reason})") from None
    shared = shared_options(app.request)
    _known(f"{path}", values, (*_FILE, *shared))
    common = {key: value for key, value in values.items() if key in shared}
    _assignments(f"{path}", common)
    methods = values.get("methods", [])
    if not _is_texts(methods):
        raise UserError(f'{path}: write methods as ["suponly", "u2plplus"], not {methods!r}')
    variants = {method: {"method": method} for method in methods}
    tables = values.get("variant", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UserError(f"{path}: write each variant under a line [[variant]]")
    for number, table in enumerate(tables, 1):
        where = f"{path}, variant {number}"
        _known(where, table, (*_VARIANT, *shared))
        _assignments(where, table)
        method, name = table.get("method"), table.get("name", table.get("method"))
        if not isinstance(method, str):
            raise UserError(f'{where}: it needs a line such as method = "u2plplus"')
        if not isinstance(name, str) or not _NAME.fullmatch(name) or one_line(name) != name:
            raise UserError(
                f"{where}: the name {name!r} is that of a folder: without spaces and slashes, and "
                "not beginning with - or ."
            )
        if name in variants:
            raise UserError(f"{where}: there is another variant {name!r}: give it another name")
        variants[name] = {key: value for key, value in table.items() if key != "name"}
    out = values.get("out")
    if out is not None and not isinstance(out, str):
        raise UserError(f"{path}: out is a folder in quotes, not {out!r}")
    try:
        folder = expanded(out) if out else Path("runs") / path.stem
    except UserError as error:
        raise UserError(f"{path}: out: {error}") from None
    seeds = parse_seeds(values.get("seeds", "0"), f"{path}: seeds")
    return Sweep(common, variants, seeds, folder)


def parse_seeds(given: object, where: str = "--seeds") -> tuple[int, ...]:
    """Seeds from `0-2`, `0,3,5-7`, a number or a list of numbers; UserError for anything else."""
    found: list[int] = []
    parts = given if isinstance(given, list) else str(given).split(",")
    for part in parts:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(part).strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        possible = first <= last <= LARGEST_SEED and last - first < 1000
        if isinstance(part, (bool, float)) or not possible:
            raise UserError(f"{where}: write seeds as 0-2 or 0,1,5, not {given!r}")
        found += range(first, last + 1)
    if not found:
        raise UserError(f"{where}: there is no seed in {given!r}")
    return tuple(dict.fromkeys(found))


def plan(app: App, sweep: Sweep) -> list[Planned]:
    """The runs, one seed of all variants after the other, each checked as far as it needs no data.

    A common assignment to an option of the method reaches the methods that have it.

    Raises:
        UserError: There is nothing to run, some option does not work, or two variants are the same.
    """
    if not sweep.variants:
        raise UserError("there is nothing to train: name methods, such as --methods u2plplus")
    if sweep.out is None:
        raise UserError("name a folder for the runs with --out")
    methods = {str(own["method"]) for own in sweep.variants.values()}
    options = {method: _method_options(app, method) for method in methods}
    requests: dict[str, Request] = {}
    same: dict[str, str] = {}
    for name, own in sweep.variants.items():
        try:
            requests[name] = _request(app, sweep.common, own, options)
            what = _whole(requests[name], Recipe.of_request(app, requests[name]))
        except UserError as error:
            which = f"variant {name}: " if name not in methods else ""
            raise UserError(f"{which}{error}") from None
        if what in same:
            raise UserError(f"{same[what]} and {name} are the same run: leave one of them out")
        same[what] = name
    return [
        Planned(name, replace(request, seed=seed, out=sweep.out / f"{name}-seed{seed}"))
        for seed in sweep.seeds
        for name, request in requests.items()
    ]


def check_beginnings(app: App, runs: Iterable[Planned]) -> None:
    """UserError if a run could not begin, for its data, its network or its tracker is not there."""
    for planned in {each.variant: each for each in runs}.values():
        request = planned.request
        try:
            check_early(app, request)
            check_trackers(request.track)
            if request.init is not None:
                locate(expanded(request.init))
        except UserError as error:
            raise UserError(f"{planned.variant}: {error}") from None


def _whole(request: Request, recipe: Recipe) -> str:
    """What a variant trains, in whatever words it was asked for."""
    words = asdict(replace(request, set=[], preset=None, steps=None))
    return json.dumps([words, recipe.dump()], default=str, sort_keys=True)


def _request(
    app: App, common: Mapping[str, Any], own: Mapping[str, Any], options: Mapping[str, set[str]]
) -> Request:
    method = str(own["method"])
    elsewhere = set().union(*options.values()) - options[method]
    fitting = [each for each in common.get("set", ()) if each.partition("=")[0] not in elsewhere]
    changes = own.get("set", ())
    usual = dict(common)
    if any(each.partition("=")[0] == "train.steps" for each in changes):
        usual.pop("steps", None)  # a variant's own length
    return app.request.of(**{**usual, **own, "set": [*fitting, *changes]})


def _method_options(app: App, method: str) -> set[str]:
    kind = load_method(f"{app.package}.methods", app.methods, method)
    return {key for key, _ in flat_keys(kind.Config, f"{METHOD}.")}


def _known(where: str, values: Iterable[str], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            near = did_you_mean(key, known)
            raise UserError(f"{where}: there is no {key!r}{near}; there are {', '.join(known)}")


def _assignments(where: str, values: Mapping[str, Any]) -> None:
    if not _is_texts(values.get("set", [])):
        raise UserError(f'{where}: write set as ["train.lr=1e-3"], not {values["set"]!r}')


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
