from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.opening import open_source
from u2pl.errors import UserError


def test_a_folder_is_opened_by_its_path(make_folder: Callable[..., Path]) -> None:
    assert open_source(str(make_folder({"a": [0]}))).name == "photos"


def test_a_path_with_a_colon_is_still_a_path(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    make_folder({"a": [0]}).rename(tmp_path / "set:1")
    assert open_source(str(tmp_path / "set:1")).name == "set:1"


def test_demo_is_opened_by_name() -> None:
    pytest.importorskip("u2pl.data.scenes")
    assert "train" in open_source("demo").splits()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vok:/data", "unknown data source 'vok'"),
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
    modules = "source, folder, voc, cityscapes, hub, splits, survey"
    code = f"import sys; from u2pl.data import {modules}; print([m for m in ('torch', 'datasets', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
