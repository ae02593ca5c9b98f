"""Looks at a page in headless Chromium: on a phone and a wide screen, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WIDTHS = (360, 1280)
#: Least contrast of text, by WCAG 2 level AA.
CONTRAST = 4.5

# Measures pages in frames of several widths and writes what it found into its own body.
_PROBE = """<!doctype html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
const light = (rgb) => {{
  const part = rgb.map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * part[0] + .7152 * part[1] + .0722 * part[2];
}};
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
function behind(element) {{
  for (let e = element; e; e = e.parentElement) {{
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length >= 3 && (colour.length < 4 || colour[3] > 0)) return colour.slice(0, 3);
  }}
  return [255, 255, 255];
}}
function measure(frame) {{
  const page = frame.contentDocument, found = {{width: frame.clientWidth}};
  found.overflow = page.documentElement.scrollWidth - frame.clientWidth;
  const images = [...page.images];
  found.images = images.length;
  found.broken = images.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt);
  found.unnamed = images.filter(i => !i.alt).length +
    [...page.querySelectorAll('svg[role=img]')].filter(s => !s.getAttribute('aria-label')).length;
  found.empty = [...page.querySelectorAll('svg.chart')]
    .filter(s => s.getBoundingClientRect().height < 20).length;
  found.faint = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {{
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest('title, style')) continue;
    const style = getComputedStyle(element);
    const front = light(parse(element.closest('svg') ? style.fill : style.color).slice(0, 3));
    const back = light(behind(element));
    const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
    if (ratio < {contrast}) found.faint.push([walker.currentNode.textContent, ratio]);
  }}
  return found;
}}
window.onload = () => {{
  const found = [...document.querySelectorAll('iframe')].map(measure);
  document.getElementById('found').textContent = JSON.stringify(found);
}};
</script>"""


def look(page: Path, images: int) -> None:
    """Assert that a page can be read and looked at; skips, and says so, without a browser.

    No message on the console, every picture there and named, text of enough contrast, nothing that
    makes the page scroll sideways.

    Args:
        page: HTML file.
        images: pictures that it has at least.
    """
    if BROWSER is None:
        pytest.skip("no Chromium here: the page was not looked at")
    frames = "".join(
        f'<iframe src="{html.escape(page.absolute().as_uri())}" '
        f'style="width:{width}px;height:40000px;border:0"></iframe>'
        for width in WIDTHS
    )
    for dark in (False, True):
        for found in _measured(_PROBE.format(frames=frames, contrast=CONTRAST), dark):
            where = f"{found['width']} px, {'dark' if dark else 'light'}"
            assert found["overflow"] <= 0, where
            assert found["images"] >= images, where
            assert not found["broken"], where
            assert not found["unnamed"], where
            assert not found["empty"], where
            assert not found["faint"], where


def _measured(probe: str, dark: bool) -> list[Any]:
    """What a probe has written; on a busy machine its time may be over before it has, so again."""
    for _ in range(3):
        found = _dumped(probe, dark)
        if found:
            break
    return json.loads(found)


def _dumped(probe: str, dark: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.html"
        file.write_text(probe, encoding="utf-8")
        line = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
            "--window-size=1800,1200", f"--user-data-dir={folder}/profile",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--virtual-time-budget=20000", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    said = [text for text in done.stderr.splitlines() if "CONSOLE" in text]
    assert not said, said
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr[-2000:]
    return html.unescape(text[1])


def ask(page: Path, script: str) -> Any:
    """What a script says of a page that is open in a browser; skips, and says so, without one.

    Args:
        page: HTML file.
        script: body of an async function of `page` and `frame`, the document and its window.
    """
    if BROWSER is None:
        pytest.skip("no Chromium here: the page was not tried")
    probe = f"""<!doctype html><meta charset="utf-8"><body>
<iframe src="{html.escape(page.absolute().as_uri())}" style="width:1280px;height:900px"></iframe>
<pre id="found"></pre><script>
window.onload = async () => {{
  const frame = document.querySelector('iframe').contentWindow, page = frame.document;
  const found = await (async () => {{ {script} }})();
  document.getElementById('found').textContent = JSON.stringify([found]);
}};
</script>"""
    (found,) = _measured(probe, dark=False)
    return found
