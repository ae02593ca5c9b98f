"""Names on the hub, its cache laid out as huggingface_hub does it, and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from u2pl.errors import UserError
from u2pl.model.folder import locate
from u2pl.model.hub import HubName, fetch, hub_name, repository_of
from u2pl.model.model import Model, load

Cached = Callable[[Model, str], str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("user/name", HubName("user/name")),
        ("user/net-1.5_b@main", HubName("user/net-1.5_b", "main")),
        ("user/name@refs/pr/1", HubName("user/name", "refs/pr/1")),
        ("name", None),
        ("./user/name", HubName("user/name")),  # pathlib leaves the dot out
        ("../user/name", None),
        ("/user/name", None),
        ("user/name/last", None),
        ("user/na me", None),
        ("user/name@", None),
        ("-x/name", None),
        ("runs/name", None),  # a slip in a path
    ],
)
def test_some_paths_to_nothing_are_names_on_the_hub(text: str, name: HubName | None) -> None:
    Path("runs").mkdir()
    assert hub_name(Path(text)) == name
    if name is not None:
        assert hub_name(Path(str(name))) == name


def test_only_a_commit_makes_a_name_unmistakable() -> None:
    commit = "0123456789" * 4
    assert repository_of(f"user/name@{commit}") == "user/name"
    for other in ("user/name", "user/name@main", f"runs/user/name@{commit}", "user"):
        assert repository_of(other) is None


def same(one: Model, other: Model) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_without_network_the_cache_serves(model: Model, cached: Cached) -> None:
    commit = cached(model, "user/name")
    for name in ("user/name", "user/name@main", f"user/name@{commit}"):
        assert same(load(name, "cpu"), model), name
        found = locate(Path(name))
        assert (found.name, found.beside) == (f"user/name@{commit}", Path())
        assert found.folder.name == commit


def test_a_folder_of_this_name_comes_first(model: Model, cached: Cached, tmp_path: Path) -> None:
    cached(model, "user/name")
    other = Model(model.network, model.card.model_copy(update={"method": "here"}))
    other.save(tmp_path / "user" / "name")
    assert load("user/name", "cpu").card.method == "here"
    with pytest.raises(UserError, match=r"no trained network at user/nmae: no such folder; give"):
        load("user/nmae")


@pytest.mark.parametrize("name", ["user/other", "user/name@v2", f"user/name@{'ab' * 20}"])
def test_what_is_not_cached_is_one_line_without_network(
    model: Model, cached: Cached, name: str
) -> None:
    cached(model, "user/name")
    with pytest.raises(UserError) as caught:
        load(name)
    assert str(caught.value) == (
        f"no trained network at {name}: no such folder; the hub is out of reach and its cache does "
        "not hold all of it"
    )


def test_half_of_a_network_in_the_cache_is_none(
    model: Model, cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(model, "user/name")
    (locate(Path("user/name")).folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"in user/name@\w+: it has no model.safetensors"):
        load("user/name")


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://hub")
    return kind("two\nlines", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            answer(RepositoryNotFoundError, 404),
            "no such network, or a private one: .*auth login",
        ),
        (answer(GatedRepoError, 403), "whom its owner lets in: ask on its page"),
        (answer(RevisionNotFoundError, 404), "the hub's user/name has no revision v2"),
        (LocalEntryNotFoundError("two\nlines"), "out of reach and its cache does not hold"),
        (answer(HfHubHTTPError, 500), r"did not give it \(HfHubHTTPError\); try again"),
        (PermissionError(13, "Permission denied"), r"did not give it \(PermissionError\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_refusal_is_one_line(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=says) as caught:
        load("user/name@v2")
    assert "\n" not in str(caught.value)


def test_three_files_are_asked_for_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(*words: Any, **options: Any) -> str:
        asked.append((words, options))
        return "snapshot"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = ["model.safetensors", "config.json", "README.md"]
    assert fetch(HubName("user/name", "v2"), files) == Path("snapshot")
    assert asked == [(("user/name",), {"revision": "v2", "allow_patterns": files})]
    with pytest.raises(UserError, match=r"it has no model\.safetensors"):
        locate(Path("user/name@v2"))
    assert asked[1] == asked[0]
