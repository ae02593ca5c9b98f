"""What the three apps' command lines have in common. Importing this is cheap: torch is loaded inside the commands."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from u2pl.errors import UserError

Body = TypeVar("Body", bound=Callable[..., Any])

#: Seconds in which the launcher ends the other processes once the first one has printed an error and gone.
GRACE = 5.0


#: Ways to show images to a network: what differs from its own protocol.
Ways = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class App:
    """One of the command line programs."""

    name: str  # u2pl-semi
    package: str  # u2pl_semi
    folder: Path  # of the package
    sections: Callable[[], Any]  # imports the class of the options that its methods share
    columns: Ways = ({},)  # how `evaluate` asks a network when it is not told

    @property
    def methods(self) -> Path:
        """Folder of its methods."""
        return self.folder / "methods"

    @property
    def recipes(self) -> Path:
        """Folder of its presets."""
        return self.folder / "recipes"


def one_line_errors(body: Body) -> Body:
    """Turn what a user can get wrong into one line and exit code 2."""

    @functools.wraps(body)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno != 28:  # ENOSPC
                raise
            fail(f"the disk is full ({error.filename or error}); free some space, then --resume")

    return command  # type: ignore[return-value]


def fail(message: str) -> NoReturn:
    """Print an error line and exit with code 2; what all processes meet is printed by the first one only."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(GRACE)
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def console() -> Console:
    """Standard output; wide enough for tables when it is no terminal."""
    plain = not sys.stdout.isatty()
    return Console(width=160 if plain and "COLUMNS" not in os.environ else None)


def new_app(app: App, text: str) -> typer.Typer:
    """A Typer program with the commands that every app has."""
    program = typer.Typer(
        name=app.name, help=text, no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    _add_lists(program, app)
    _add_evaluate(program, app)
    _add_predict(program, app)
    return program


def _add_lists(program: typer.Typer, app: App) -> None:
    @program.command()
    def methods() -> None:
        """List the methods."""
        from u2pl.cli.discovery import method_names

        table = Table("method", "what it is", box=None)
        for name, text in method_names(app.methods).items():
            table.add_row(name, text)
        console().print(table)

    @program.command()
    def presets() -> None:
        """List the presets: command, cost and what to expect of each."""
        table = Table("preset", "what it is for", box=None)
        for path in sorted(app.recipes.glob("*.toml")):
            header = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
            table.add_row(path.stem, "\n".join(header))
        console().print(table)

    @program.command()
    @one_line_errors
    def show(
        method: Annotated[str, typer.Argument(help="a method, see `methods`")],
        preset: Annotated[str, typer.Option(help="a preset, see `presets`")] = "light",
        set: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable")] = None,
    ) -> None:
        """Print every option of a method under a preset: its value, and what it means."""
        from u2pl.cli.config import recipe_path, resolve
        from u2pl.cli.discovery import load_method

        kind = load_method(f"{app.package}.methods", app.methods, method)
        console().print(option_table(resolve(recipe_path(app.recipes, preset), kind.Config, set or [], sections=app.sections())))


def option_table(resolved: Any) -> Table:
    """All options of a resolved config with their meaning."""
    from u2pl.cli.config import METHOD, flat_keys

    values = resolved.dump()
    table = Table("option", "value", "meaning", box=None)
    keys = [*flat_keys(type(resolved.sections)), *((f"{METHOD}.{key}", text) for key, text in flat_keys(type(resolved.method)))]
    for key, text in keys:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        table.add_row(key, Text(str(value)), Text(text))
    return table


Preset = Annotated[str | None, typer.Option(help="a recipe, see `presets`; chosen by the data if left out")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable; `show` lists all options")]
Steps = Annotated[int | None, typer.Option(min=1, help="optimizer steps, instead of the preset's")]
Seed = Annotated[int, typer.Option(min=0, help="of everything random")]
Out = Annotated[Path | None, typer.Option(help="folder of the run; runs/<data>-<method>-<n> if left out")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out, or with the latest one of this command")]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="the same numbers on every run on a GPU too; slower")]
Scored = Annotated[Path, typer.Argument(help="a run folder (its last model), a folder with model.safetensors, or RUN/best")]
Mode = Annotated[
    Literal["whole", "center-crop", "slide"] | None, typer.Option(help="how images are shown to the network; the run's own way if left out")
]
Crop = Annotated[int | None, typer.Option(help="side of the centre crop or the sliding window in pixels; the run's if left out")]
Scales = Annotated[list[float] | None, typer.Option(help="sizes relative to the image's own whose predictions are averaged, repeatable")]
Flip = Annotated[bool, typer.Option("--flip", help="average with the mirrored image")]
Crf = Annotated[bool, typer.Option("--crf", help="a dense CRF behind the network; needs pip install 'u2pl\\[crf]'")]
Cpu = Annotated[bool, typer.Option("--cpu", help="do not use a GPU")]


def _add_evaluate(program: typer.Typer, app: App) -> None:
    @program.command()
    @one_line_errors
    def evaluate(
        checkpoint: Scored,
        data: Annotated[str | None, typer.Option(help="a data source; the one it was trained on if left out")] = None,
        split: Annotated[str | None, typer.Option(help="which images; val, or what the run was scored on, if left out")] = None,
        mode: Mode = None,
        crop: Crop = None,
        scales: Scales = None,
        flip: Flip = False,
        crf: Crf = False,
        cpu: Cpu = False,
    ) -> None:
        """Score a trained network: IoU of each class and their mean, under a stated protocol."""
        from u2pl.cli.use import evaluate_checkpoint

        shape, told = {"mode": mode, "crop": crop}, {"scales": scales, "flip": flip or None, "crf": crf or None}
        ways = (told,) if any(told.values()) else app.columns
        evaluate_checkpoint(checkpoint, data, split, tuple(shape | way for way in ways), cpu, console())


def _add_predict(program: typer.Typer, app: App) -> None:
    @program.command()
    @one_line_errors
    def predict(
        checkpoint: Scored,
        images: Annotated[list[Path], typer.Argument(help="image files, or folders of them; any size")],
        out: Annotated[Path, typer.Option(help="folder for ids/, colour/ and overlay/")],
        mode: Mode = None,
        crop: Crop = None,
        scales: Scales = None,
        flip: Flip = False,
        crf: Crf = False,
        cpu: Cpu = False,
    ) -> None:
        """Segment images: masks of class ids, coloured masks, and overlays."""
        from u2pl.cli.use import predict_images

        options = {"mode": mode, "crop": crop, "scales": scales, "flip": flip or None, "crf": crf or None}
        failures = predict_images(checkpoint, images, out, options, cpu, console())
        if failures:
            fail(f"{len(failures)} of the images could not be read: {failures[0]}" + (" ..." if failures[1:] else ""))
