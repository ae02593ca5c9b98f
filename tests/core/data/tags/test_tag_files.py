from __future__ import annotations

from pathlib import Path

import pytest

from u2pl.data.tags.tag_files import Line, csv_lines, json_lines, object_names, split_names
from u2pl.errors import UserError

CLASSES = ("background", "cat", "dog", "striped fish", "fish", "car, truck")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (" ,; ", []),
        ("cat", ["cat"]),
        ("cat dog", ["cat", "dog"]),
        ("cat,dog;fish", ["cat", "dog", "fish"]),
        (" cat ;  dog,", ["cat", "dog"]),
        ("striped fish", ["striped fish"]),
        ("fish striped fish cat", ["fish", "striped fish", "cat"]),
        ("striped fish;fish", ["striped fish", "fish"]),
        ("car, truck, cat", ["car, truck", "cat"]),
        ("1 2;30", ["1", "2", "30"]),
        ("cats", ["cats"]),
        ("catdog dog", ["catdog", "dog"]),
        ("dgo cat", ["dgo", "cat"]),
        ("striped fsh, cat", ["striped fsh", "cat"]),
        ("striped", ["striped"]),
        ("red car, dog", ["red", "car", "dog"]),
        ("Cat", ["Cat"]),
        ("c++ (x) [y]", ["c++", "(x)", "[y]"]),
        ("\u2028cat\u2028dog\xa0", ["cat", "dog"]),
        ("cat \u3000x\x0by", ["cat", "x", "y"]),
    ],
)
def test_cells_are_taken_apart(text: str, names: list[str]) -> None:
    assert split_names(text, CLASSES) == names


@pytest.mark.parametrize(
    "text",
    [
        "image,classes\na,cat dog\nb,\n",
        "image,classes\r\na,cat dog\r\nb,\r\n",
        "\ufeffimage,classes\na,cat;dog\n\nb,\n",
        "image,classes\na,cat,dog\nb,\n",
        'image,classes\na,"cat, dog"\nb,""\n',
        'image,classes\na, "cat, dog"\nb, \n',
        '"image","classes"\n"a","cat dog"\n"b",""\n',
        " Image ; Classes\na;cat dog\nb;\n",
        "image;classes\na;cat;dog\nb;\n",
        "image\tclasses\na\tcat,dog\nb\t\n",
        "classes,image\ncat dog,a\n,b\n",
        "number,image,classes\n1,a,cat dog\n2,b,\n",
        "image,classes,source\na,cat dog,web\nb,,\n",
    ],
)
def test_tables_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert csv_lines(tmp_path / "t.csv", CLASSES) == [Line("a", ["cat", "dog"]), Line("b", [])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "",
            r"t\.csv must begin with the line 'image,classes', not ''; .*'photo_1,cat;dog'",
        ),
        ("a,cat\nb,dog\n", "must begin with the line 'image,classes', not 'a,cat'"),
        ("image,tags\na,cat\n", "must begin with the line"),
        (
            "image,classes\na,cat\nb\n",
            r"t\.csv, line 3 must have one cell for each of image, classes: .*'photo_1,cat;dog'",
        ),
        ("image,classes\n\n,cat\n", "line 3 must have one cell"),
        (
            "image,classes,source\na,cat,dog,web\n",
            "line 2 must have one cell for each of image, classes, source",
        ),
        (f"image,classes\na,{'x' * 140_000}\n", r"line 2 cannot be read \(field larger"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        csv_lines(tmp_path / "t.csv", CLASSES)
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"image,classes\n\xff\xfe,cat\n")
    for read in (csv_lines, json_lines):
        with pytest.raises(UserError, match="cannot be read as a text file"):
            read(tmp_path / "t.csv", CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "cat"}',
        '{"": ["cat"]}',
        '["a"]',
        '[{"image": "a"}]',
        '[{"classes": ["cat"]}]',
        '{"a": [true]}',
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r't\.json: write {"image": \["class", \.\.\.\]} or'):
        json_lines(tmp_path / "t.json", CLASSES)
    for wrong in ("3", "null", '"a"', '{"a": [["cat"]]}', '[{"image": 3, "classes": []}]'):
        (tmp_path / "t.json").write_text(wrong)
        with pytest.raises(UserError, match=r"t\.json: write"):
            json_lines(tmp_path / "t.json", CLASSES)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "9" * 5000])
def test_broken_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json cannot be read as JSON"):
        json_lines(tmp_path / "t.json", CLASSES)


def test_objects_of_an_annotation_are_named_and_their_parts_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    objects = (
        "<object>\n <name> cat\n</name><part><name>head</name></part></object>"
        "<object><name>R&amp;D</name></object><object><pose/></object>"
    )
    text = f"<annotation><name>x</name><segmented>1</segmented>{objects}</annotation>"
    file.write_text(text)
    assert object_names(file) == ["cat", "R&D"]
    file.write_bytes(f'<?xml version="1.0" encoding="utf-16"?>{text}'.encode("utf-16"))
    assert object_names(file) == ["cat", "R&D"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_before_it_is_read(tmp_path: Path, encoding: str) -> None:
    grow = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(20))
    named = "<annotation><object><name>&e20;</name></object></annotation>"
    text = f'<!DOCTYPE annotation [<!ENTITY e0 "cat">{grow}]>{named}'
    (tmp_path / "a.xml").write_bytes(
        f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)
    )
    with pytest.raises(UserError, match=r"a\.xml declares a document type"):
        object_names(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<annotation><object>",
        b"<a></b>",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b"\x89PNG",
        b"<a>&b;</a>",
    ],
)
def test_what_is_no_xml_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.xml").write_bytes(text)
    with pytest.raises(
        UserError, match=r"a\.xml cannot be read as XML .*: replace the file"
    ) as error:
        object_names(tmp_path / "a.xml")
    assert "\n" not in str(error.value)


def test_a_cell_that_is_far_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image,classes\na," + "a," * 50_000 + "\n")
    with pytest.raises(UserError, match=r"t.csv, line 2 has 100000 characters of classes: write"):
        csv_lines(path, CLASSES)
    path.write_text("image,classes\na," + "ct " * 6_000 + "\n")
    assert csv_lines(path, CLASSES)[0].names == ["ct"] * 6_000
