"""Text of others in Markdown."""

from __future__ import annotations

from u2pl.errors import one_line

#: What would end a cell, begin HTML, or make a link.
_SPECIAL = {"|": "\\|", "<": "&lt;", "](": "]\\("}


def escaped(text: str) -> str:
    """The text in one line, in which nothing is taken for a table, HTML or a link."""
    text = one_line(text)
    for special, plain in _SPECIAL.items():
        text = text.replace(special, plain)
    return text
