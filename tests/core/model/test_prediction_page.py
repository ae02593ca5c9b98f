from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.browser import ask, look
from u2pl.model.manifest import Found
from u2pl.model.prediction_page import (
    PAGE,
    SIDE,
    fitted,
    shown,
    write_prediction_page,
    write_thumbnails,
)

CLASSES = ("background", "cat", "<b>dog</b>")
PALETTE = np.array([(0, 0, 0), (200, 30, 30), (30, 30, 200)], np.uint8)


def found(name: str, entropy: float, **more: Any) -> Found:
    given = {"confidence": 1 - entropy, "shares": {"background": 0.7, "<b>dog</b>": 0.3}, **more}
    return Found(
        name=name, image=f"in/{name}.jpg", stored=(3, 4), width=600, height=400,
        entropy=entropy, **given,
    )  # fmt: skip


#: Names that an address, a page and a list must not take for something else.
NAMES = ("sub/a #1?", "b'\"&<i>", "c")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    ids = np.zeros((400, 600), np.uint8)
    ids[100:300, 200:400], ids[:50] = 2, 255
    for name in NAMES:
        write_thumbnails(np.full((400, 600, 3), 180, np.uint8), ids, PALETTE, True, out, name)
    images = [found(NAMES[0], 0.5, ignored=0.1), found(NAMES[1], 0.25), found(NAMES[2], 0.125)]
    write_prediction_page(out, images, CLASSES, PALETTE, {"network": "x"})
    return out / PAGE


def test_thumbnails_fit_and_leave_the_background_free(page: Path) -> None:
    folder = page.parent / "thumbnails"
    with Image.open(folder / "c.jpg") as photo, Image.open(folder / "c.png") as mask:
        assert photo.size == mask.size == (SIDE, 256) and mask.mode == "P"
        seen = np.array(mask.convert("RGBA"))
    assert set(seen[-1, :, 3]) == {0}
    assert tuple(seen[128, 192]) == (30, 30, 200, 255)
    assert seen[5, 5, 3] == 255
    assert fitted(20, 10) == (20, 10) and fitted(10000, 1) == (SIDE, 1)


def test_it_says_of_each_image_how_doubtful_and_what_it_shows() -> None:
    each = shown(found("sub/a #1?", 0.456))
    text = each.text.replace("\u00a0", " ")  # which does not break before its unit
    assert text == "doubt 46 %: background 70 %, <b>dog</b> 30 %"
    small = found("a", 0.456).model_copy(update={"shares": {"a": 0.996, "b": 0.004, "c": 0.0}})
    assert shown(small).text.replace("\u00a0", " ") == "doubt 46 %: a 100 %, b <1 %, c 0 %"
    assert each.photo == "thumbnails/sub/a%20%231%3F.jpg"
    assert each.overlay == "overlay/sub/a%20%231%3F.jpg"


def test_it_needs_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|<b>dog|<i>", text)
    assert "&lt;b&gt;dog" in text and "ignored: too unsure" in text


def test_it_can_be_looked_at(page: Path) -> None:
    look(page, images=6)


KEYS = """
const press = (key, target) => (target || page.activeElement).dispatchEvent(
  new frame.KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
const cards = [...page.querySelectorAll('.one')];
const state = () => page.getElementById('state').textContent;
const pressed = card =>
  [...card.querySelectorAll('button')].map(button => button.getAttribute('aria-pressed'));
"""


def test_images_are_walked_through_and_decided_by_keys(page: Path) -> None:
    said = ask(page, KEYS + """
        frame.localStorage.clear();
        const said = [state()];
        press('j', page.body); said.push(page.activeElement.dataset.name);
        press('a'); press('ArrowRight'); press('r'); press('j'); press('j');
        said.push(page.activeElement.dataset.name, state(), pressed(cards[0]), pressed(cards[1]));
        press('k'); press('u'); press('ArrowLeft');
        said.push(state(), page.activeElement === cards[0]);
        return said;
    """)  # fmt: skip
    assert said == [
        "0 accepted, 0 rejected, 3 undecided",
        NAMES[0],
        NAMES[2],
        "1 accepted, 1 rejected, 1 undecided",
        ["true", "false"],
        ["false", "true"],
        "1 accepted, 0 rejected, 2 undecided",
        True,
    ]


def test_the_opacity_of_masks_follows_keys_and_slider(page: Path) -> None:
    said = ask(page, KEYS + """
        const opacity = () => frame.getComputedStyle(page.querySelector('img.mask')).opacity;
        const slider = page.getElementById('opacity'), said = [opacity(), slider.value];
        press('+', page.body); said.push(opacity(), slider.value);
        press('-', page.body); press('-', page.body); said.push(opacity());
        press('0', page.body); said.push(opacity());
        slider.value = 80; slider.dispatchEvent(new frame.Event('input')); said.push(opacity());
        return said;
    """)  # fmt: skip
    assert said == ["0.5", "50", "0.6", "60", "0.4", "0", "0.8"]


def test_decisions_are_kept_downloaded_and_filtered(page: Path) -> None:
    said = ask(page, KEYS + """
        frame.localStorage.clear();
        const saved = [];
        frame.Blob = class { constructor(parts) { saved.push(parts.join('')); } };
        frame.URL.createObjectURL = () => '#';
        frame.HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
        cards[0].querySelector('.yes').click();
        cards[1].querySelector('.yes').click();
        cards[2].querySelector('.no').click();
        cards[1].querySelector('.yes').click();  // again: undecided
        page.getElementById('save-accepted').click();
        page.getElementById('save-rejected').click();
        const show = page.getElementById('show'), shown = [];
        for (const value of ['undecided', 'accepted', 'rejected', 'all']) {
          show.value = value; show.dispatchEvent(new frame.Event('change'));
          shown.push(cards.filter(card => !card.hidden).map(card => card.dataset.name));
        }
        const kept = Object.values(frame.localStorage).map(text => JSON.parse(text).decisions);
        const element = document.querySelector('iframe');
        await new Promise(done => { element.onload = done; frame.location.reload(); });
        const again = element.contentDocument;
        return [saved, shown, kept, again.getElementById('state').textContent];
    """)  # fmt: skip
    texts, shown_names, kept, again = said
    assert texts == [f"{NAMES[0]}\n", "accepted.txt", f"{NAMES[2]}\n", "rejected.txt"]
    assert shown_names == [[NAMES[1]], [NAMES[0]], [NAMES[2]], list(NAMES)]
    assert kept == [{NAMES[0]: "accepted", NAMES[2]: "rejected"}]
    assert again == "1 accepted, 1 rejected, 1 undecided"


def test_other_predictions_begin_without_decisions(page: Path, tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        write_prediction_page(tmp_path, [found("a", 0.5)], CLASSES, PALETTE, settings)
        match = re.search(r'data-key="([^"]+)"', (tmp_path / PAGE).read_text())
        assert match is not None
        return match[1]

    assert key(network="x") == key(network="x") != key(network="y")
