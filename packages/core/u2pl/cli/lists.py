"""What there is to choose from: methods, presets, options."""

from __future__ import annotations

from rich.table import Table

from u2pl.cli.console import option_table, standard_output
from u2pl.cli.requests import ShowRequest
from u2pl.errors import UserError
from u2pl.run.app import App


def list_methods(app: App) -> None:
    """Print the methods."""
    from u2pl.methods.discovery import method_names

    table = Table("method", "what it is", box=None)
    for name, text in method_names(app.methods).items():
        table.add_row(name, text)
    standard_output().print(table)


def list_presets(app: App) -> None:
    """Print the presets with the comments at their beginning."""
    table = Table("preset", "what it is for", box=None)
    for path in sorted(app.recipes.glob("*.toml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        header = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        table.add_row(path.stem, "\n".join(header))
    standard_output().print(table)


def show_options(app: App, request: ShowRequest) -> None:
    """Print every option of a method under a preset."""
    method = request.method_file or request.method
    if method is None:
        raise UserError("Missing argument 'method': name one, see `methods`, or a --method-file")
    from u2pl.run.recipe import Recipe

    recipe = Recipe.of(app, method, request.preset, request.set or [])
    standard_output().print(option_table(recipe.rows()))
