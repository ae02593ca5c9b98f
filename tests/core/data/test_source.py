from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.errors import UserError


def test_a_folder_is_opened_by_its_path(make_folder: Callable[..., Path]) -> None:
    assert open_source(str(make_folder({"a": [0]}))).name == "photos"


def test_a_path_with_a_colon_is_still_a_path(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make_folder({"a": [0]}).rename(tmp_path / "set:1")
    assert open_source(str(tmp_path / "set:1")).name == "set:1"


@pytest.mark.parametrize("name", ["demo", "demo-source", "demo-target", "demo-tags"])
def test_demos_are_opened_by_name(name: str) -> None:
    source = open_source(name)
    assert source.name == name and source.splits() == ("train", "val", "labeled")


def test_what_a_source_does_not_say_is_empty(make_folder: Callable[..., Path]) -> None:
    assert (Source.things, Source.void_rows, dict(Source.subsets)) == ((), (0.0, 0.0), {})
    with pytest.raises(TypeError):
        open_source(str(make_folder({"a": [0]}))).subsets["shared by all"] = ()  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "vok:/data",
            "unknown data source 'vok' in 'vok:/data': write demo, demo-source, demo-target, demo-tags, a folder, voc:PATH, city",
        ),
        ("gta:/data", "gta5:PATH, synthia:PATH or hf:NAME"),
        ("gta5:/data?a=b", "unknown option 'a'; write gta5:PATH, no options"),
        ("synthia:", "no path; write synthia:PATH"),
        ("voc:", "no path; write voc:PATH"),
        ("voc:/data?protcol=blender", "unknown option 'protcol'; write voc:PATH, ?protocol=…"),
        ("voc:/data?blender", "unknown option 'blender'"),
        ("cityscapes:/data?a=b", "unknown option 'a'; write cityscapes:PATH, no options"),
        ("nowhere", "nowhere has no images/ folder.*does not exist"),
    ],
)
def test_wrong_sources_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        open_source(text)


def test_sources_and_splits_import_neither_torch_nor_datasets() -> None:
    modules = "source, folder, voc, cityscapes, gta5, synthia, scenes, hub, splits, survey"
    code = f"import sys; from u2pl.data import {modules}; print([m for m in ('torch', 'datasets', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
