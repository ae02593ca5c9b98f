"""Names in pictures, in the letters that Pillow's own font has."""

from __future__ import annotations

import unicodedata


def spelt(text: str) -> str:
    """A text in ASCII: letters without their accents, `?` for those of other scripts."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode()
