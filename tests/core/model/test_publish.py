"""What would be sent to the hub, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors.torch import load as load_tensors

from u2pl.errors import UserError
from u2pl.model.card import Card, Origin
from u2pl.model.model import Model
from u2pl.model.publish import publish, without_paths


class Hub:
    """Stands in for `HfApi`: notes what it is sent."""

    def __init__(self) -> None:
        self.created: list[tuple[str, bool, bool]] = []
        self.sent: list[tuple[str, dict[str, bytes]]] = []
        self.private = False
        self.error: Exception | None = None

    def __call__(self, library_name: str) -> Hub:
        return self

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Any:
        if self.error is not None:
            raise self.error
        self.created.append((name, private, exist_ok))
        return SimpleNamespace(repo_id=name if "/" in name else f"me/{name}")

    def model_info(self, name: str) -> Any:
        return SimpleNamespace(private=self.private)

    def create_commit(self, name: str, operations: list[Any], commit_message: str) -> None:
        files = {each.path_in_repo: each.path_or_fileobj for each in operations}
        self.sent.append((name, files))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", found)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return found


@pytest.mark.parametrize("name", ["me/net", "net"])
def test_three_files_are_sent(hub: Hub, model: Model, name: str) -> None:
    assert publish(model, name) == "me/net"
    assert hub.created == [(name, False, True)]
    ((repository, files),) = hub.sent
    assert repository == "me/net"
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    weights, ours = load_tensors(files["model.safetensors"]), model.network.state_dict()
    assert weights.keys() == ours.keys()
    assert all(weights[key].equal(ours[key]) for key in ours)
    assert json.loads(files["config.json"])["classes"] == list(model.classes)
    text = files["README.md"].decode()
    assert 'u2pl.load("me/net")' in text and "predict me/net IMAGE" in text
    assert ModelCard(text).data.pipeline_tag == "image-segmentation"


def test_what_is_private_goes_to_no_public_place(hub: Hub, model: Model) -> None:
    with pytest.raises(UserError, match="me/net is there already and public"):
        publish(model, "me/net", private=True)
    assert hub.sent == []
    hub.private = True
    assert publish(model, "me/net", private=True) == "me/net" and len(hub.sent) == 1
    assert hub.created[-1] == ("me/net", True, True)


@pytest.mark.parametrize("name", ["a/b/c", "me/n et", "-net", "me/x--y", "", "me/net@v2"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_asked(
    hub: Hub, model: Model, name: str
) -> None:
    with pytest.raises(UserError, match=r"can be no name on the hub|not to a revision"):
        publish(model, name)
    assert hub.created == []


def test_nobody_is_logged_in(hub: Hub, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"^nobody is logged in to the hub: hf auth login"):
        publish(model, "me/net")
    assert hub.created == []


def answer(status: int, said: str | None = None) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://hub")
    response = httpx2.Response(status, request=request)
    return HfHubHTTPError("one\ntwo", response=response, server_message=said)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(401), "does not know who is logged in: hf auth login again"),
        (answer(403, "no rights"), r"refuses me/net: .*may not write there \(no rights\)"),
        (answer(409, "taken"), "^the hub refuses me/net: taken$"),
        (answer(400), "^the hub refuses me/net: one$"),
        (answer(503), r"me/net is not pushed: the hub failed \(one\)"),
        (OfflineModeIsEnabled("offline\nmode"), r"out of reach \(offline\); push it again"),
        (httpx2.ConnectError("no route"), r"out of reach \(no route\)"),
        (httpx2.ReadTimeout("too slow"), r"out of reach \(too slow\)"),
        (OSError("no route"), r"out of reach \(no route\)"),
    ],
    ids=str,
)
def test_each_refusal_is_one_line(hub: Hub, model: Model, error: Exception, says: str) -> None:
    hub.error = error
    with pytest.raises(UserError, match=says) as caught:
        publish(model, "me/net")
    assert "\n" not in str(caught.value) and "hf_secret" not in str(caught.value)
    assert hub.sent == []


def test_no_path_of_this_machine_is_sent(hub: Hub, card: Card, tiny: Callable[..., Any]) -> None:
    network = card.network.model_copy(update={"encoder_weights": "secret/place/resnet.pth"})
    origin = Origin(name="secret/place/last", sha256="0")
    told = {"source": "demo-secret/place", "network": network, "origin": origin}
    publish(Model(tiny().eval(), card.model_copy(update=told)), "me/net")
    ((_, files),) = hub.sent
    assert not any(b"secret" in content for content in files.values())
    config = json.loads(files["config.json"])
    assert config["network"]["encoder_weights"] == "resnet.pth"
    assert (config["source"], config["origin"]["name"]) == (None, "last")


@pytest.mark.parametrize("source", ["demo", "demo-tags", "hf:user/photos", None])
def test_what_is_no_path_is_kept(card: Card, source: str | None) -> None:
    origin = Origin(name=f"user/name@{'0a' * 20}", sha256="0")
    kept = card.model_copy(update={"source": source, "origin": origin})
    assert without_paths(kept) == kept
