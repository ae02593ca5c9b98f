"""Pages in one file each: templates of `templates/`, with every text escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2

from u2pl.files import write_text

_TEMPLATES = Path(__file__).parent / "templates"


class Picture(NamedTuple):
    """A picture of a page."""

    uri: str  # data:image/...
    caption: str
    alt: str  # what it shows, for those who do not see it


class Shown(NamedTuple):
    """An image with its pictures side by side."""

    title: str
    pictures: list[Picture]


class Tile(NamedTuple):
    """A number at the top of a page."""

    name: str
    value: str
    more: str = ""
    kind: str = ""  # `up` or `down`: its colour


def render(template: str, values: dict[str, object]) -> str:
    """The HTML of a page.

    Args:
        template: a file of `templates/`.
        values: what it shows; text is escaped, `Markup` is not.
    """
    return _templates().get_template(template).render(values)


def read_script(name: str) -> str:
    """A script of `templates/`, as it goes between the tags of a page."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def write_page(path: Path, html: str) -> None:
    """Write a page atomically; UserError if the disk is full or refuses."""
    write_text(path, html)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
