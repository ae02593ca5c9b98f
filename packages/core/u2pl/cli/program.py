"""From an app to its command line. Importing this is cheap: torch is loaded inside the commands."""

from __future__ import annotations

import dataclasses
import inspect
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperGroup

from u2pl.cli.errors import begin, guarded, say_error, say_starting
from u2pl.cli.requests import (
    CompareRequest,
    ConvertRequest,
    EvaluateRequest,
    ExportRequest,
    ImportRequest,
    NoRequest,
    PredictRequest,
    PushRequest,
    ReportRequest,
    ShowRequest,
    SweepRequest,
    sweep_request,
)
from u2pl.errors import UserError, synonym
from u2pl.files import expanded
from u2pl.output import outlive_output, show_what_can_be_shown
from u2pl.run.app import App
from u2pl.run.request import TRAIN_ONLY, Request, default_of, parameters
from u2pl.version import __version__

Asked = TypeVar("Asked")


class OneLineErrors(TyperGroup):
    """A program whose mistakes of usage are one line too, with exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        show_what_can_be_shown()
        standalone = kwargs.pop("standalone_mode", True)
        typed = args[0] if args else kwargs.get("args")
        if "" in (sys.argv[1:] if typed is None else typed):  # as a path it would be this folder
            say_error("an argument is empty: a variable of the shell may not be set")
            sys.exit(2)
        try:
            code = super().main(*args, **(kwargs | {"standalone_mode": False}))
        except typer.TyperException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # has printed the help
                sys.exit(2)
            message = _in_our_words(error) or " ".join(error.format_message().split())
            say_error(message.replace("Value error, ", ""))
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def new_program(app: App) -> typer.Typer:
    """A program with the commands that every app has."""
    program = typer.Typer(
        name=app.name,
        help=app.text,
        cls=OneLineErrors,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @program.callback(help=app.text)
    def common(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                callback=show_version,
                is_eager=True,
                metavar="",
                help="print the versions of u2pl, torch and Python",
            ),
        ] = False,
    ) -> None:
        pass

    @command(program, app.request)
    def train(request: Request) -> int:
        """Train, score and keep a network. Starts on several GPUs with `accelerate launch`."""
        from u2pl.run.early import check_early, check_place

        outlive_output()
        try:
            check_early(app, request)
        except UserError as error:
            if not error.proposal:
                raise
            data = [w for name in request.SOURCES for w in (f"--{name}", getattr(request, name))]
            shown = shlex.join([app.name, "doctor", *data])
            raise UserError(f"{error}; `{shown}` shows what to write") from None
        check_place(app, request)
        begin(f"{app.name} train")
        from u2pl.cli.commands import train as body

        return body(app, request)

    method = Annotated[str, typer.Option(help="a method, see `methods`")]

    @command(program, app.request, left_out=TRAIN_ONLY, instead={"method": method})
    def doctor(request: Request) -> int:
        """Check whether this data and this recipe will work, before they cost hours."""
        from u2pl.run.early import check_early

        try:
            check_early(app, request)
        except UserError as error:
            if not error.proposal:  # which is shown below
                raise
        begin(f"{app.name} doctor")
        from u2pl.cli.commands import doctor as body

        return body(app, request)

    @command(program, ConvertRequest)
    def convert(request: ConvertRequest) -> None:
        """Write any data as a plain folder: images/, masks/, classes.txt, splits/."""
        say_starting()
        from u2pl.cli.converting import convert as body

        body(app, request)

    @command(program, EvaluateRequest)
    def evaluate(request: EvaluateRequest) -> None:
        """Score a trained network: IoU of each class and their mean, under a stated protocol."""
        say_starting()
        from u2pl.cli.commands import evaluate as body

        body(app, request)

    @command(program, ImportRequest, name="import")
    def import_file(request: ImportRequest) -> None:
        """Turn a released checkpoint (MiT under SegFormer's or DAFormer's head) into a model."""
        say_starting()
        from u2pl.cli.commands import import_file as body

        body(app, request)

    @command(program, ReportRequest)
    def report(request: ReportRequest) -> None:
        """Write report.html of a run anew: scores, curves, pictures; also while it goes on."""
        say_starting()
        from u2pl.cli.commands import report as body

        body(app, request)

    @command(program, CompareRequest)
    def compare(request: CompareRequest) -> None:
        """Compare runs: scores over seeds, paired gains over a baseline, and how sure they are."""
        say_starting()
        from u2pl.cli.comparing import compare as body

        body(app, request)

    @command(program, sweep_request(app.request))
    def sweep(request: SweepRequest) -> int:
        """Train methods and variants with several seeds and compare them; repeated, it goes on."""
        say_starting()
        from u2pl.cli.comparing import sweep as body

        return body(app, request)

    @command(program, PredictRequest)
    def predict(request: PredictRequest) -> None:
        """Segment images: masks, overlays, confidence, the most doubtful first; also polygons."""
        say_starting()
        from u2pl.cli.predicting import predict as body

        body(request)

    @command(program, ExportRequest)
    def export(request: ExportRequest) -> None:
        """Copy a trained network to a folder that others can use, with --onnx for any runtime.

        The folder holds weights, options and a model card; `predict`, `evaluate`, `train --init`
        and u2pl.load take it.
        """
        say_starting()
        from u2pl.cli.sharing import export as body

        body(app, request)

    @command(program, PushRequest)
    def push(request: PushRequest) -> None:
        """Publish a trained network on the Hugging Face hub, with its model card.

        Log in once with `hf auth login`. Pushed again, it becomes a new revision.
        """
        say_starting()
        from u2pl.cli.sharing import push as body

        body(app, request)

    @command(program, NoRequest)
    def methods(request: NoRequest) -> None:
        """List the methods."""
        from u2pl.cli.lists import list_methods

        list_methods(app)

    @command(program, NoRequest)
    def presets(request: NoRequest) -> None:
        """List the presets: command, cost and what to expect of each."""
        from u2pl.cli.lists import list_presets

        list_presets(app)

    @command(program, ShowRequest)
    def show(request: ShowRequest) -> None:
        """Print every option of a method under a preset: its value, and what it means."""
        from u2pl.cli.lists import show_options

        show_options(app, request)

    return program


def show_version(asked: bool) -> None:
    """Print the versions of this package, torch and Python, and exit."""
    if asked:
        from importlib.metadata import version

        torch = version("torch")
        print(f"u2pl {__version__}, torch {torch}, Python {platform.python_version()}")
        raise typer.Exit


def command(
    program: typer.Typer,
    request: type[Asked],
    *,
    name: str | None = None,
    left_out: tuple[str, ...] = (),
    instead: Mapping[str, object] | None = None,
) -> Callable[[Callable[[Asked], int | None]], Callable[..., None]]:
    """Add a command whose arguments and options are the fields of a request class.

    Args:
        program: to add it to.
        request: a dataclass; see `u2pl.run.request`.
        name: of the command, if it is not that of the function.
        left_out: fields that the command does not offer.
        instead: annotations that replace those of some fields.
    """

    def add(body: Callable[[Asked], int | None]) -> Callable[..., None]:
        def run(**values: object) -> None:
            code = guarded(lambda: body(request(**{k: _at_home(v) for k, v in values.items()})))
            if code:
                raise typer.Exit(code)

        given = instead or {}
        hints = {
            name: given.get(name, hint)
            for name, hint in _hints(request).items()
            if name not in left_out
        }
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=_default(request, name),
                    annotation=hint,
                )
                for name, hint in hints.items()
            ]
        )
        run.__annotations__ = hints
        program.command(name=name or body.__name__, help=inspect.getdoc(body))(run)
        return run

    return add


def _in_our_words(error: typer.TyperException) -> str | None:
    """The message of an unknown option that has another name here; None for any other error."""
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if type(error).__name__ != "NoSuchOption" or name is None or context is None:
        return None
    meant = synonym(name)
    offered = {word for each in context.command.params for word in each.opts}
    if meant in offered:
        return f"No such option: {name} (did you mean {meant}?)"
    if meant is not None and "." in meant and "--set" in offered:
        return f"No such option: {name} (did you mean --set {meant}=VALUE?)"
    return None


def _at_home(value: object) -> object:
    """A path, or each of several, with `~` written out, as a shell does not in `--out=~/runs`."""
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    return expanded(value) if isinstance(value, Path) else value


def _hints(request: type) -> dict[str, object]:
    hints = get_type_hints(request, include_extras=True)
    for hint in hints.values():
        kind, *options = get_args(hint) or (hint,)
        for option in options if kind is bool else []:
            option.metavar = ""  # a switch takes no value, and --help should not name one
    return {name: hints[name] for name in parameters(request)}


def _default(request: type, name: str) -> object:
    value = default_of(request, name)
    return inspect.Parameter.empty if value is dataclasses.MISSING else value
