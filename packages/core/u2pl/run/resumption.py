"""Going on with a run by its folder: `train --resume FOLDER`. Loads no torch."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from u2pl.errors import UserError, did_you_mean
from u2pl.files import expanded
from u2pl.methods.discovery import file_digest
from u2pl.run.request import Request, default_of, flag, parameters
from u2pl.training.run_folder import CONFIG, FREE, SUMMARY, read_config

if TYPE_CHECKING:
    from u2pl.run.app import App
    from u2pl.run.recipe import Recipe

#: What may be typed beside the folder, besides the places of the data.
_BESIDE = (
    "method", "resume", "accept_changed_data", "set", "method_file", "track", "cpu",
    "deterministic", "baseline"
)  # fmt: skip
#: What config.json must say.
_NEEDED = ("app", "preset", "seed", "steps", "options")


class Resumption(NamedTuple):
    """A run that was named by its folder."""

    folder: Path
    request: Request  # as it was when the run began
    config: dict[str, Any]  # config.json

    @property
    def finished(self) -> bool:
        """Whether the run has nothing left to do."""
        return (self.folder / SUMMARY).is_file()

    def recipe(self, app: App) -> Recipe:
        """Its options, with what was typed on top; loads torch."""
        from u2pl.run.recipe import Recipe

        method = self.request.method_file or self.request.method
        return Recipe.of_config(app, method, self.config, self.request.set)

    def whole_request(self, app: App) -> Request:
        """What starts the same run again, each option that its preset has otherwise in `set`.

        UserError if the preset was a file that is gone. Loads torch.
        """
        from u2pl.run.recipe import Recipe, flat_values

        method = self.request.method_file or self.request.method
        usual = flat_values(Recipe.of(app, method, self.config["preset"]).dump())
        options = flat_values(self.recipe(app).dump())
        differing = {key: value for key, value in options.items() if value != usual.get(key)}
        steps = differing.pop("train.steps", None)
        return replace(
            self.request,
            preset=self.config["preset"],
            steps=steps,
            set=[f"{key}={json.dumps(value)}" for key, value in differing.items()],
        )

    def as_begun(self, config: dict[str, object]) -> dict[str, object]:
        """A config with the places of the data as they were: fingerprints tell if it is the same.

        Args:
            config: of the run as it goes on.
        """
        places = self.request.places()
        return config | {name: self.config[name] for name in places if name in self.config}


def find_resumption(program: str, request: Request, methods: Collection[str]) -> Resumption | None:
    """The run whose folder stands where a method is typed; None if a method stands there.

    Args:
        program: that trains it, such as u2pl-semi.
        request: with `resume`.
        methods: names of the app's methods.

    Raises:
        UserError: There is no run, it is another program's or of another version, or more is typed
            than the folder.
    """
    folder = expanded(request.method)
    if not (folder / CONFIG).is_file():
        if request.resume and request.method not in methods and request.method_file is None:
            raise UserError(_no_run(folder, methods))
        return None
    if not request.resume:
        if request.method in methods:
            return None
        raise UserError(
            f"{folder} is a run, not a method; go on with it: {resume_command(program, folder)}"
        )
    config: dict[str, Any] = read_config(folder)
    began = config.get("app")
    if began is not None and began != program:
        # by its name: the path that this program was started by is not the other one's
        command = shlex.join([*str(began).split(), "train", "--resume", str(folder)])
        raise UserError(f"--resume: {folder} is a run of {began}: {command}")
    missing = [name for name in _NEEDED if name not in config]
    if not isinstance(config.get("options"), dict):
        missing = ["options"]
    if missing:
        raise UserError(
            f"--resume: {folder / CONFIG} does not say {', '.join(missing)}: it is not complete, "
            "or of another version; start again with another --out"
        )
    _check_words(folder, request)
    found = Resumption(folder, _as_begun(folder, config, request), config)
    if "method_sha256" in config and not found.finished:
        _check_method_file(folder, found.request.method_file, config["method_sha256"])
    return found


def resume_command(program: str, folder: Path) -> str:
    """What to type to go on with a run, quoted for a shell.

    Args:
        program: the app's, with the group of a command that is in one: `u2pl-semi detector`.
        folder: of the run.
    """
    return shlex.join([*typed(program), "train", "--resume", str(folder)])


def typed(program: str) -> list[str]:
    """How a program is started here: by its name, by path, or by uv."""
    name, *group = program.split()
    script = Path(sys.argv[0])
    if script.name == "cli.py" and script.is_file():
        return ["python", sys.argv[0], *group]
    return [*(["uv", "run"] if "UV_RUN_RECURSION_DEPTH" in os.environ else []), name, *group]


def _no_run(folder: Path, methods: Collection[str]) -> str:
    if folder.exists():
        return f"--resume: {folder} holds no run: it has no {CONFIG}"
    parent = folder.parent
    runs = [str(path.parent) for path in parent.glob(f"*/{CONFIG}")] if parent.is_dir() else []
    near = did_you_mean(str(folder), [*runs, *methods])
    return f"--resume: there is no run {folder}{near}"


def _check_words(folder: Path, request: Request) -> None:
    """UserError if more is typed than may change when a run goes on."""
    kept = f"--resume {folder}: everything is taken from its {CONFIG}"
    may = (*_BESIDE, *request.places())
    for name, info in parameters(type(request)).items():
        if name not in may and getattr(request, name) != default_of(type(request), name):
            raise UserError(f"{kept}: leave {flag(name, info)} out")
    for assignment in request.set:
        key = assignment.partition("=")[0]
        if key.rpartition(".")[2] not in FREE:
            raise UserError(
                f"{kept}, but for data.workers, train.log_every and train.checkpoint_every: leave "
                f"--set {key} out"
            )


def _as_begun(folder: Path, config: dict[str, Any], request: Request) -> Request:
    """The request that a run was started with, the places of its data as they are typed now."""
    kind = type(request)
    names = {each.name for each in fields(kind)} - {"preset", "steps"}
    values = {name: config[name] for name in names if name in config}
    for name in ("method_file", "track", "cpu", "deterministic", *request.places()):
        now = getattr(request, name)
        if now != default_of(kind, name):
            values[name] = now
    values |= {"set": request.set, "out": folder, "resume": True}
    values["accept_changed_data"] = request.accept_changed_data
    if "method_name" in config:
        values["method"] = config["method_name"]
    try:
        return kind.of(**values)
    except UserError as error:
        raise UserError(f"--resume: {folder / CONFIG} cannot be used: {error}") from None


def _check_method_file(folder: Path, file: Path | None, digest: str) -> None:
    if file is None or not file.is_file():
        raise UserError(
            f"--resume: the method of {folder} was in {file}, which is not there: put it back, or "
            "say where it is with --method-file"
        )
    now = file_digest(file)
    if now != digest:
        raise UserError(
            f"--resume: {file} is not the method that {folder} was started with (sha256 "
            f"{digest[:12]} there, {now[:12]} here): put that one back, or start a new run"
        )
