from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.data import sources
from u2pl.data.opening import open_source, opener, schemes
from u2pl.data.source import Source
from u2pl.errors import UserError

#: The rest of the message where no such source is known.
WRITE = "write demo, demo-source, demo-target, demo-tags, a folder, or "

STRIPES = '''"""A folder whose name has stripes."""

from u2pl.data.sources.folder import Folder


class Stripes(Folder):
    def __init__(self, path, colour="grey", width="1"):
        super().__init__(path)
        self.name = f"{colour} stripes of {width}"
'''


def test_a_folder_is_opened_by_its_path(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"a": [0]})
    assert open_source(str(root)).name == open_source(f"folder:{root}").name == "photos"


def test_a_path_with_a_colon_is_still_a_path(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make_folder({"a": [0]}).rename(tmp_path / "set:1")
    assert open_source(str(tmp_path / "set:1")).name == "set:1"


@pytest.mark.parametrize("name", ["demo", "demo-source", "demo-target", "demo-tags"])
def test_demos_are_opened_by_name(name: str) -> None:
    source = open_source(name)
    assert source.name == name and source.splits() == ("train", "val", "labeled")


def test_each_file_is_a_scheme() -> None:
    published = {"ade20k", "cityscapes", "coco", "gta5", "synthia", "voc"}
    assert published | {"cvat", "folder", "geotiff", "hf", "labelme", "yolo"} == set(schemes())
    for name in schemes():
        found = opener(name)
        assert found.__name__ == "open_scheme" or issubclass(found, Source)  # type: ignore[arg-type]


def test_a_file_in_the_folder_is_a_scheme(
    add_file: Callable[..., None], make_folder: Callable[..., Path]
) -> None:
    """It is found by existing; its options are those of the constructor."""
    root = make_folder({"a": [0]})
    add_file(sources, "stripes", STRIPES)
    assert "stripes" in schemes()
    assert open_source(f"stripes:{root}").name == "grey stripes of 1"
    assert open_source(f"stripes:{root}?width=3&colour=red").name == "red stripes of 3"
    assert open_source(f"stripes:{root}?colour=").name == " stripes of 1"
    odd = "a+b%20c &d [1].txt"
    assert open_source(f"stripes:{root}?colour={odd}&width=3").name == f"{odd} stripes of 3"
    with pytest.raises(UserError, match=r"unknown option 'wdth'; .*, \?colour=…&width=…$"):
        open_source(f"stripes:{root}?wdth=3")
    with pytest.raises(UserError, match=r"'stripe' .*\(did you mean stripes\?\): .*stripes:PATH"):
        open_source(f"stripe:{root}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vok:/data", f"unknown data source 'vok' in 'vok:/data' (did you mean voc?): {WRITE}"),
        ("gta:/data", "(did you mean gta5?)"),
        ("zip:/data", f"'zip:/data': {WRITE}"),
        ("gta5:/data?a=b", "unknown option 'a'; write gta5:PATH, no options"),
        ("synthia:", "no path; write synthia:PATH"),
        ("voc:", "no path; write voc:PATH"),
        ("voc:/data?protcol=blender", "unknown option 'protcol'; write voc:PATH, ?protocol=…"),
        ("voc:/data?blender", "unknown option 'blender'"),
        ("voc:/data?protocol=a&protocol=b", "option 'protocol' is given twice: keep one"),
        ("cityscapes:/data?a=b", "unknown option 'a'; write cityscapes:PATH, no options"),
        ("nowhere", "(the folder itself does not exist)"),
    ],
)
def test_wrong_sources_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_without_a_scheme_are_told_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"write 'folder:\S*\?images=a'$"):
        open_source(f"{tmp_path}?images=a")


def test_an_archive_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "export.zip").touch()
    with pytest.raises(UserError, match=r"has no images/ folder: .*it holds 'export\.zip'"):
        open_source(str(tmp_path))
