from __future__ import annotations

import pytest

from core.toy.app import APP
from u2pl.errors import UserError
from u2pl.run.app import APPS, find_app


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APPS, "toy", "core.toy.app")


@pytest.mark.parametrize("short", APPS)
def test_the_apps_are_found_by_their_names(short: str) -> None:
    app = find_app(short)
    assert find_app(app.name) is app and find_app(app.package) is app
    assert app.methods.is_dir() and (app.recipes / "light.toml").is_file()


def test_an_app_knows_its_files(toy: None) -> None:
    assert find_app("toy") is find_app("u2pl-toy") is APP
    assert APP.task_module.make_task.__module__ == "core.toy.task"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("semy", r"no app 'semy' \(did you mean semi\?\); there are semi, domain_adapt, weak"),
        ("u2pl-nothing", "there is no app 'u2pl-nothing'"),
        ("", "there is no app ''; there are"),
    ],
)
def test_an_unknown_app_is_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_app(name)
