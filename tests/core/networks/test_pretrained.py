from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import build_encoder
from u2pl.networks.pretrained import hub_weights, load_encoder, load_pretrained, offline_if_unreachable, read_weights


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("resnet10t").state_dict()


def refused(match: str) -> pytest.RaisesExc[UserError]:
    return pytest.RaisesExc(UserError, match=match, check=lambda error: "\n" not in str(error))


def test_a_real_file_fills_every_tensor(shared: Callable[[str], Path]) -> None:
    path = shared("weights/tf_efficientnet_lite0.safetensors")
    config = NetworkConfig(decoder="deeplabv3plus_light", encoder="tf_efficientnet_lite0", encoder_weights=str(path), output_stride=16)
    network, file = build_segmentor(config, 7), load_file(path)
    own = network.encoder.model.state_dict()
    assert len(own) == 288 and all(torch.equal(own[key], file[key]) for key in own)


@pytest.mark.parametrize("encoder", ["resnet10t", "tf_efficientnet_lite1"])
def test_a_real_file_of_another_encoder_is_refused(shared: Callable[[str], Path], encoder: str) -> None:
    path = shared("weights/tf_efficientnet_lite0.safetensors")
    with pytest.raises(UserError, match=r"does not fit the encoder: .* missing.*first: .*check network.encoder"):
        load_pretrained(build_encoder(encoder, 16), encoder, str(path))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.", "encoder.model."])
@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.pth"])
def test_prefixes_and_formats(tmp_path: Path, resnet: dict[str, torch.Tensor], prefix: str, name: str) -> None:
    state = {prefix + key: tensor for key, tensor in resnet.items()}
    if name.endswith("pth"):
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    encoder = build_encoder("resnet10t", 8)
    report = load_pretrained(encoder, "resnet10t", str(tmp_path / name))
    own = encoder.model.state_dict()
    assert len(report.matched) == len(own) and not report.missing and not report.unexpected
    assert all(torch.equal(own[key], resnet[key]) for key in own)


def test_heads_beside_an_encoder_are_left_out(resnet: dict[str, torch.Tensor]) -> None:
    state = {f"encoder.{key}": tensor for key, tensor in resnet.items()} | {f"decoder.{key}": tensor for key, tensor in resnet.items()}
    assert not load_encoder(build_encoder("resnet10t", 8), state, "file").unexpected


def test_feature_extractors_that_rename_stages() -> None:
    state = timm.create_model("convnext_atto").state_dict()
    report = load_encoder(build_encoder("convnext_atto", 16), state, "file")
    assert report.matched and not report.missing and not report.unexpected


def test_a_larger_relative_with_the_same_names_and_shapes_is_refused() -> None:
    with torch.device("meta"):
        larger = timm.create_model("resnet34").state_dict()
    state = {key: torch.zeros(tensor.shape) for key, tensor in larger.items()}
    encoder = build_encoder("resnet18", 16)
    assert encoder.model.state_dict().keys() < state.keys()
    with pytest.raises(UserError, match="0 missing"):
        load_encoder(encoder, state, "resnet34.pth")


def hundred(start: int, stop: int) -> dict[str, torch.Tensor]:
    return {f"layer{index}": torch.full((2,), float(index)) for index in range(start, stop)}


@pytest.mark.parametrize(("start", "stop"), [(0, 200), (2, 200), (0, 202), (1, 201)])
def test_one_key_in_a_hundred_may_be_missing_or_unknown(start: int, stop: int) -> None:
    encoder = nn.ParameterDict({key: torch.zeros_like(value) for key, value in hundred(0, 200).items()})
    report = load_encoder(encoder, hundred(start, stop), "file")
    assert (len(report.matched), len(report.missing), len(report.unexpected)) == (200 - start, start, stop - 200)
    assert all(encoder[key].eq(float(key.removeprefix("layer"))).all() for key in report.matched)


@pytest.mark.parametrize("wrong", [hundred(3, 200), hundred(0, 203), hundred(0, 200) | {"layer7": torch.ones(3)}])
def test_more_or_any_other_shape_is_refused_and_copies_nothing(wrong: dict[str, torch.Tensor]) -> None:
    encoder = nn.ParameterDict({key: torch.zeros_like(value) for key, value in hundred(0, 200).items()})
    with refused("does not fit the encoder"):
        load_encoder(encoder, wrong, "file")
    assert not any(parameter.any() for parameter in encoder.parameters())


def test_old_files_without_batch_counters_load(resnet: dict[str, torch.Tensor]) -> None:
    state = {key: tensor for key, tensor in resnet.items() if not key.endswith("num_batches_tracked")}
    assert not load_encoder(build_encoder("resnet10t", 16), state, "file").missing


def test_files_that_cannot_be_read(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
    with refused("no file"):
        read_weights(tmp_path / "absent.pth")
    torch.save(resnet, tmp_path / "whole.pth")
    save_file(resnet, tmp_path / "whole.safetensors")
    for suffix in ("pth", "safetensors"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for name, content in (("half", whole[: len(whole) // 2]), ("empty", b""), ("text", b"not tensors at all")):
            path = tmp_path / f"{name}.{suffix}"
            path.write_bytes(content)
            with refused("damaged"):
                read_weights(path)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with refused("no tensors"):
        read_weights(tmp_path / "other.pth")


class Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (open, (str(Path(__file__)),))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with refused("damaged or no file of tensors"):
        read_weights(tmp_path / "trap.pth")


def test_hub_out_of_reach_is_one_line_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with refused("--set network.encoder_weights=FILE"):
        hub_weights("resnet10t")
    with refused("no ImageNet weights"):
        hub_weights("resnet50t")


def test_without_a_route_only_the_cache_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*_: object) -> None:
        raise socket.gaierror("no such host")

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    with offline_if_unreachable():
        assert huggingface_hub.constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with offline_if_unreachable():
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
