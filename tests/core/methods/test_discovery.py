from __future__ import annotations

from pathlib import Path

import pytest

from u2pl.errors import UserError
from u2pl.methods.discovery import load_method, method_names

METHOD = '''"""{first}

More.
"""

from u2pl.methods.method import Method


class Mine(Method):
    pass
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
