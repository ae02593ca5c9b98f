"""How a source of data is named on the command line."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl

from u2pl.data.scenes import DEMOS, Scenes
from u2pl.data.source import Source
from u2pl.errors import UserError

# scheme -> module, class, the options behind `?`
_SCHEMES = {
    "voc": ("u2pl.data.voc", "Voc", ("protocol",)),
    "cityscapes": ("u2pl.data.cityscapes", "Cityscapes", ()),
    "gta5": ("u2pl.data.gta5", "Gta5", ()),
    "synthia": ("u2pl.data.synthia", "Synthia", ()),
    "hf": ("u2pl.data.hub", "Hub", ("classes",)),
}


def open_source(text: str) -> Source:
    """Open a demo (`demo`, `demo-source`, `demo-target`, `demo-tags`), a folder, or one of these.

    `voc:PATH[?protocol=classic|blender]`, `cityscapes:PATH`, `gta5:PATH`, `synthia:PATH`, `hf:NAME|PARQUET|FOLDER[?classes=FILE]`.
    Raises UserError when there is no such source, or what it needs is missing.
    """
    if text in DEMOS:
        look, seed, objects = DEMOS[text]
        return Scenes(text, look, objects, seed)
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _SCHEMES:
        module, kind, allowed = _SCHEMES[scheme]
        location, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        wrong = sorted(set(options) - set(allowed)) or ([query] if query and not options else [])
        if wrong or not location:
            possible = "?" + "&".join(f"{option}=…" for option in allowed) if allowed else "no options"
            raise UserError(
                f"data source {text!r}: {f'unknown option {wrong[0]!r}' if wrong else 'no path'}; write {scheme}:PATH, {possible}"
            )
        source: Source = getattr(import_module(module), kind)(location, **options)
        return source
    from u2pl.data.folder import Folder

    if colon and scheme.isalnum() and len(scheme) > 1 and not Path(text).expanduser().exists():
        schemes = ", ".join(f"{name}:PATH" for name in _SCHEMES if name != "hf")
        raise UserError(f"unknown data source {scheme!r} in {text!r}: write {', '.join(DEMOS)}, a folder, {schemes} or hf:NAME")
    return Folder(text)
