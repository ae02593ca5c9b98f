from __future__ import annotations

from pathlib import Path

import pytest

from u2pl.errors import UserError
from u2pl.methods.discovery import (
    check_file,
    has_docstring,
    known_methods,
    load_method,
    load_method_file,
    method_names,
)

METHOD = '''"""{first}

More.
"""

from u2pl.methods.method import Method


class Mine(Method):
    forward = None
'''


def test_a_file_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "second.py").write_text(METHOD.format(first="The second one."))
    (package / "first.py").write_text(METHOD.format(first="The first one."))
    assert method_names(package) == {"first": "The first one.", "second": "The second one."}
    (package / "third.py").write_text("import nothing_that_there_is\n")
    assert method_names(package)["third"] == "(its file has no docstring)"
    (package / "third.py").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    assert load_method("some_methods", package, "second").__name__ == "Mine"
    with pytest.raises(
        UserError, match=r"no method 'secnd' \(did you mean second\?\); there are first, second"
    ):
        load_method("some_methods", package, "secnd")
    with pytest.raises(UserError, match=r"no method '\.\./first' \(did"):
        load_method("some_methods", package, "../first")


def test_a_file_anywhere_is_a_method(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD.format(first="My own."))
    kind = load_method_file(tmp_path / "methods", file)
    assert kind.__name__ == "Mine" and has_docstring(file)
    file.write_text(
        "from u2pl.methods.method import Method\nclass Other(Method):\n    forward = None\n"
    )
    assert load_method_file(tmp_path / "methods", file).__name__ == "Other"
    assert not has_docstring(file)


#: What is in a file, and what the line says.
BROKEN = {
    "syntax": ("class Mine(\n", r"mine\.py, line 1: .*never closed"),
    "no method": ('"""x"""\n', r"must define one subclass .* and defines none$"),
    "imported": ("from core.toy.methods.plain import Plain\n", r"and defines none$"),
    "two": (
        "from u2pl.methods.method import Method\nclass A(Method): ...\nclass B(Method): ...\n",
        r"and defines A, B$",
    ),
    "import": ("import nothing_that_there_is\n", r"mine\.py, line 1: ModuleNotFoundError: No mod"),
    "name": ("\n\nx = y\n", r"mine\.py, line 3: NameError: name 'y' is not defined"),
    "no forward": (
        "from u2pl.methods.method import Method\nclass A(Method): ...\n",
        r"mine\.py: A does not define forward$",
    ),
    "exit": ("import sys\nsys.exit()\n", r"mine\.py, line 2: SystemExit"),
    "bytes": (b"x = '\xff'", r"mine\.py cannot be read as Python"),
    "null": (b"x = 1\x00", r"mine\.py[^N]*null bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_file_is_one_line(case: str, tmp_path: Path) -> None:
    text, says = BROKEN[case]
    file = tmp_path / "mine.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as caught:
        load_method_file(tmp_path / "methods", file)
    assert "\n" not in str(caught.value)


def test_a_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "taken.py").write_text(METHOD.format(first="The app's."))
    (tmp_path / "taken.py").write_text(METHOD.format(first="Another."))
    with pytest.raises(UserError, match="taken is a method of the app; give the file a name"):
        check_file(folder, tmp_path / "taken.py")
    check_file(folder, folder / "taken.py")
    for name, says in (("no.py", "it does not exist"), ("methods", "it is no .py file")):
        with pytest.raises(UserError, match=f"--method-file .*{name}: {says}"):
            check_file(folder, tmp_path / name)


def test_a_broken_method_in_the_folder_does_not_break_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_broken_methods"
    package.mkdir()
    files = {
        "good": METHOD.format(first="It works."),
        "broken": "class (",
        "bare": METHOD.partition('"""\n')[2].replace("Mine", "Bare"),
        "two": METHOD.format(first="Two.") + "\n\nclass Second(Method):\n    pass\n",
        "__init__": "",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    names = method_names(package)
    assert list(names) == known_methods(package) == ["bare", "broken", "good", "two"]
    assert names["bare"] == "(its file has no docstring)" and names["good"] == "It works."
    assert "broken.py, line 1: " in names["broken"]
    assert load_method("some_broken_methods", package, "good").__name__ == "Mine"
    assert load_method("some_broken_methods", package, "bare").__name__ == "Bare"
    with pytest.raises(UserError, match=r"broken\.py, line 1: "):
        load_method("some_broken_methods", package, "broken")
    with pytest.raises(UserError, match=r"two\.py must define one .* and defines Mine, Second"):
        load_method("some_broken_methods", package, "two")
