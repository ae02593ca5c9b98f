from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data.opening import open_source, schemes
from u2pl.data.source import Source


def test_what_a_source_does_not_say_is_empty(make_folder: Callable[..., Path]) -> None:
    assert (Source.things, Source.void_rows, dict(Source.subsets)) == ((), (0.0, 0.0), {})
    with pytest.raises(TypeError):
        open_source(str(make_folder({"a": [0]}))).subsets["shared by all"] = ()  # type: ignore[index]


def test_sources_and_splits_import_neither_torch_nor_datasets() -> None:
    modules = [*(f"sources.{name}" for name in schemes()), "demo.scenes", "opening", "splits"]
    imports = "; ".join(f"import u2pl.data.{name}" for name in (*modules, "survey"))
    code = f"import sys; {imports}; print({{'torch', 'datasets', 'pyarrow'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
