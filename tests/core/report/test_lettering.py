from __future__ import annotations

import pytest
from PIL import ImageFont

from u2pl.report.lettering import spelt


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Füchse Fuß", "Fuchse Fuss"),
        ("Fu\u0308chse", "Fuchse"),
        ("café_1@2,3", "cafe_1@2,3"),
        ("猫 2", "? 2"),
    ],
)
def test_names_are_spelt_in_letters_that_the_font_has(name: str, shown: str) -> None:
    font = ImageFont.load_default(13)
    missing = bytes(font.getmask("\uffff"))
    assert spelt(name) == shown
    assert all(bytes(font.getmask(letter)) != missing for letter in shown)
