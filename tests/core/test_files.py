import json
import os
from pathlib import Path

import pytest

from u2pl.errors import UserError
from u2pl.files import plain, replace_file, write_json


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fails(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        UserError, match=r"cannot write .*file: No space left on device; free some space"
    ):
        replace_file(path, fails)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(beside: Path) -> None:
        assert path.read_text() == "old"
        beside.write_text("new")

    replace_file(path, write)
    assert path.read_text() == "new"


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_json(tmp_path / "file.json", {})


def test_json_has_no_word_for_nan(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": (1, float("inf")), 3: {"c": 0.5}}
    assert plain(value) == {"a": None, "b": [1, None], "3": {"c": 0.5}}
    write_json(tmp_path / "file.json", value)
    assert json.loads((tmp_path / "file.json").read_text()) == plain(value)
