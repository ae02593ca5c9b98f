from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import nn

from u2pl.errors import UserError
from u2pl.networks import licenses
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder, family_of
from u2pl.networks.encoders.mit import VARIANTS
from u2pl.networks.pretrained import (
    digest,
    hub_weights,
    load_encoder,
    load_pretrained,
    offline_if_unreachable,
    read_weights,
)


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("resnet10t").state_dict()


def build_encoder(name: str, output_stride: int) -> Encoder:
    return family_of(name).build(name, output_stride)


def refused(match: str) -> pytest.RaisesExc[UserError]:
    return pytest.RaisesExc(UserError, match=match, check=lambda error: "\n" not in str(error))


def test_a_real_file_fills_every_tensor(shared: Callable[[str], Path]) -> None:
    path = shared("weights/tf_efficientnet_lite0.safetensors")
    config = NetworkConfig(
        decoder="deeplabv3plus_light",
        encoder="tf_efficientnet_lite0",
        encoder_weights=str(path),
        output_stride=16,
    )
    network, file = build_segmentor(config, 7), load_file(path)
    own = network.encoder.model.state_dict()
    assert len(own) == 288 and all(torch.equal(own[key], file[key]) for key in own)


@pytest.mark.parametrize("encoder", ["resnet10t", "tf_efficientnet_lite1"])
def test_a_real_file_of_another_encoder_is_refused(
    shared: Callable[[str], Path], encoder: str
) -> None:
    path = shared("weights/tf_efficientnet_lite0.safetensors")
    with pytest.raises(
        UserError, match=r"does not fit the encoder: .* missing.*first: .*check network.encoder"
    ):
        load_pretrained(build_encoder(encoder, 16), encoder, str(path))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "module.encoder.", "encoder.model."]
)
@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.pth"])
def test_prefixes_and_formats(
    tmp_path: Path, resnet: dict[str, torch.Tensor], prefix: str, name: str
) -> None:
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
    state = {f"encoder.{key}": tensor for key, tensor in resnet.items()} | {
        f"decoder.{key}": tensor for key, tensor in resnet.items()
    }
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


class Layers(nn.ParameterDict):
    """Parameters as an encoder holds them."""

    needed: tuple[str, ...] = ()

    def own_tensors(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return state


def two_hundred() -> Layers:
    return Layers({key: torch.zeros_like(value) for key, value in hundred(0, 200).items()})


def hundred(start: int, stop: int) -> dict[str, torch.Tensor]:
    return {f"layer{index}": torch.full((2,), float(index)) for index in range(start, stop)}


@pytest.mark.parametrize(("start", "stop"), [(0, 200), (2, 200), (0, 202), (1, 201)])
def test_one_key_in_a_hundred_may_be_missing_or_unknown(start: int, stop: int) -> None:
    encoder = two_hundred()
    report = load_encoder(encoder, hundred(start, stop), "file")
    assert (len(report.matched), len(report.missing), len(report.unexpected)) == (
        200 - start,
        start,
        stop - 200,
    )
    assert all(encoder[key].eq(float(key.removeprefix("layer"))).all() for key in report.matched)


@pytest.mark.parametrize(
    "wrong", [hundred(3, 200), hundred(0, 203), hundred(0, 200) | {"layer7": torch.ones(3)}]
)
def test_more_or_any_other_shape_is_refused_and_copies_nothing(
    wrong: dict[str, torch.Tensor],
) -> None:
    encoder = two_hundred()
    with refused("does not fit the encoder"):
        load_encoder(encoder, wrong, "file")
    assert not any(parameter.any() for parameter in encoder.parameters())


def test_one_that_is_needed_may_not_be_missing() -> None:
    encoder = two_hundred()
    encoder.needed = ("layer1.", "layer17")
    assert load_encoder(encoder, hundred(1, 200), "file").missing == ["layer0"]
    state = hundred(0, 200)
    del state["layer17"]
    with refused("199 matched, 1 missing.*first: layer17"):
        load_encoder(encoder, state, "file")


def test_the_licence_of_weights_is_known_from_their_name(
    tmp_path: Path, resnet: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a file is not, unless all weights of the encoder have terms of their own."""

    def license_of(name: str, weights: str) -> str | None:
        kind = family_of("resnet10t")
        monkeypatch.setattr(kind, "hub_weights", classmethod(lambda *_: resnet))
        encoder = build_encoder("resnet10t", 8)
        load_pretrained(encoder, name, weights)
        assert encoder.weights is not None
        return encoder.weights.license

    file = tmp_path / "mine.safetensors"
    save_file(resnet, file)
    special = "convnext_tiny.dinov3_lvd1689m"
    assert license_of("resnet10t", "imagenet") == "apache-2.0"
    assert license_of("resnet10t", str(file)) is None
    assert license_of(special, "imagenet") == license_of(special, str(file)) == "dinov3-license"
    assert family_of("mit_b0").hub_license("mit_b0") == licenses.NVIDIA
    assert licenses.is_special("dinov3-license") and licenses.is_special(licenses.NVIDIA)
    assert not any(map(licenses.is_special, ("apache-2.0", "mit", "unknown", None)))


def test_old_files_without_batch_counters_load(resnet: dict[str, torch.Tensor]) -> None:
    state = {
        key: tensor for key, tensor in resnet.items() if not key.endswith("num_batches_tracked")
    }
    assert not load_encoder(build_encoder("resnet10t", 16), state, "file").missing


def test_files_that_cannot_be_read(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
    with refused("no file"):
        read_weights(tmp_path / "absent.pth")
    torch.save(resnet, tmp_path / "whole.pth")
    save_file(resnet, tmp_path / "whole.safetensors")
    for suffix in ("pth", "safetensors"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for name, content in (
            ("half", whole[: len(whole) // 2]),
            ("empty", b""),
            ("text", b"not tensors at all"),
            ("words", b"hello"),  # an unpickler looks up what it never saw
        ):
            path = tmp_path / f"{name}.{suffix}"
            path.write_bytes(content)
            with refused("damaged"):
                read_weights(path)
    content = bytearray((tmp_path / "whole.pth").read_bytes())
    content[len(content) // 2] ^= 1  # a number of a tensor
    (tmp_path / "flipped.pth").write_bytes(content)
    with refused("flipped.pth is damaged: the checksum of .* is another one; download it again"):
        read_weights(tmp_path / "flipped.pth")
    torch.save(resnet, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth").keys() == resnet.keys()  # without checksums
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with refused("no tensors"):
        read_weights(tmp_path / "other.pth")
    torch.save({1: torch.ones(2)}, tmp_path / "numbered.pth")
    with refused("no tensors"):
        read_weights(tmp_path / "numbered.pth")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**9, 16),
        torch.empty(10**9, 16, device="meta"),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
    ],
    ids=["expanded", "without memory", "sparse", "complex"],
)
def test_a_small_file_cannot_claim_a_large_or_odd_tensor(
    tmp_path: Path, value: torch.Tensor
) -> None:
    torch.save({"a": torch.ones(2), "b": value}, tmp_path / "odd.pth")
    with refused("1 tensors that are not plain numbers in memory; first: b"):
        read_weights(tmp_path / "odd.pth")


def test_weights_that_are_not_finite_are_refused(resnet: dict[str, torch.Tensor]) -> None:
    spoilt = resnet | {"conv1.0.weight": resnet["conv1.0.weight"] / 0}
    with refused("holds numbers that are not finite, in 1 tensors"):
        load_encoder(build_encoder("resnet10t", 16), spoilt, "file")


DIMS = {"mit_b0": (32, 64, 160, 256), "mit_b1": (64, 128, 320, 512)}


def released(name: str) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of SegFormer's files of B0 and B1, and a classifier's."""
    shapes: dict[str, tuple[int, ...]] = {"head": (1000, DIMS[name][-1])}
    before = 3
    for stage, (dim, reduction) in enumerate(zip(DIMS[name], (8, 4, 2, 1), strict=True), 1):
        kernel = 7 if stage == 1 else 3
        shapes |= {
            f"patch_embed{stage}.proj": (dim, before, kernel, kernel),
            f"patch_embed{stage}.norm": (dim,),
            f"norm{stage}": (dim,),
        }
        before = dim
        for block in (f"block{stage}.0.", f"block{stage}.1."):
            shapes |= {block + "norm1": (dim,), block + "norm2": (dim,)}
            shapes |= {
                block + "attn.q": (dim, dim),
                block + "attn.kv": (2 * dim, dim),
                block + "attn.proj": (dim, dim),
            }
            shapes |= (
                {block + "attn.sr": (dim, dim, reduction, reduction), block + "attn.norm": (dim,)}
                if reduction > 1
                else {}
            )
            shapes |= {
                block + "mlp.fc1": (4 * dim, dim),
                block + "mlp.dwconv.dwconv": (4 * dim, 1, 3, 3),
                block + "mlp.fc2": (dim, 4 * dim),
            }
    draw = torch.Generator().manual_seed(0)
    weights = {f"{key}.weight": torch.rand(shape, generator=draw) for key, shape in shapes.items()}
    return weights | {
        f"{key}.bias": torch.rand(shape[0], generator=draw) for key, shape in shapes.items()
    }


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
@pytest.mark.parametrize("name", ["mit_b0.safetensors", "mit_b0.pth"])
def test_released_files_fill_mit(tmp_path: Path, name: str, prefix: str) -> None:
    state = released("mit_b0")
    save = save_file if name.endswith("safetensors") else torch.save
    save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / name)
    encoder = build_encoder("mit_b0", 32)
    report = load_pretrained(encoder, "mit_b0", str(tmp_path / name))
    assert (len(report.matched), report.missing, report.unexpected) == (176, [], [])
    own = encoder.model.state_dict()
    for ours, theirs in {
        "patch_embed.proj.weight": "patch_embed1.proj.weight",
        "stages.2.downsample.norm.bias": "patch_embed3.norm.bias",
        "stages.0.blocks.1.attn.sr.weight": "block1.1.attn.sr.weight",
        "stages.3.blocks.0.mlp.dwconv.weight": "block4.0.mlp.dwconv.dwconv.weight",
        "stages.3.norm.bias": "norm4.bias",
    }.items():
        assert torch.equal(own[ours], state[theirs]), ours
    # timm's own names load too
    assert not load_encoder(build_encoder("mit_b0", 16), own, "timm").missing


def test_released_files_that_do_not_fit_mit_are_refused() -> None:
    state, encoder = released("mit_b0"), build_encoder("mit_b0", 32)
    del state["block1.0.attn.q.weight"]
    assert load_encoder(encoder, state, "file").missing == ["stages.0.blocks.0.attn.q.weight"]
    del state["norm4.bias"]
    with refused("2 missing, 0 unexpected.*first: .*stages.3.norm.bias"):
        load_encoder(encoder, state, "file")
    with refused(
        r"mit_b1.pth does not fit the encoder: .* of another shape; first: patch_embed.proj.weight"
    ):
        load_encoder(encoder, released("mit_b1"), "mit_b1.pth")


class Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (open, (str(Path(__file__)),))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with refused("damaged or no file of tensors"):
        read_weights(tmp_path / "trap.pth")


def test_hub_out_of_reach_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with refused(
        "--set network.encoder_weights=FILE.*: model.safetensors of timm/resnet10t.c3_in1k on the"
    ):
        hub_weights("resnet10t")
    with refused("no ImageNet weights"):
        hub_weights("resnet50t")
    with refused(
        "ImageNet weights of mit_b5 are not in the cache and the hub is out of reach"
        ".*--set network.encoder_weights=FILE.*: model.safetensors of smp-hub/mit_b5.imagenet on"
    ):
        hub_weights("mit_b5")


def test_imagenet_weights_of_mit_come_from_the_hub_at_a_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, asked = released("mit_b0"), []
    save_file(state, tmp_path / "model.safetensors")

    def download(repository: str, filename: str, *, revision: str) -> str:
        asked.append((repository, filename, len(revision)))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    network = build_segmentor(NetworkConfig(decoder="daformer", encoder="mit_b0", width=16), 5)
    assert asked == [("smp-hub/mit_b0.imagenet", "model.safetensors", 40)]
    assert torch.equal(
        network.encoder.model.state_dict()["stages.0.norm.weight"], state["norm1.weight"]
    )


@pytest.mark.skipif("mit_b0" not in smp_encoders, reason="this smp has no MiT to compare with")
def test_commits_of_mits_weights_are_those_that_smp_names() -> None:
    for name in (f"mit_b{size}" for size in range(6)):  # other tests may add small ones
        assert smp_encoders[name]["pretrained_settings"]["imagenet"] == {
            "repo_id": f"smp-hub/{name}.imagenet",
            "revision": VARIANTS[name].revision,
        }


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


def test_an_encoder_says_what_it_was_filled_with(
    resnet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The same tensors have the same digest, whatever their order; one bit more is another one."""
    file = tmp_path / "resnet.safetensors"
    save_file(resnet, file)
    encoder = build_encoder("resnet10t", 16)
    assert encoder.weights is None
    load_pretrained(encoder, "resnet10t", str(file))
    assert encoder.weights == ("resnet.safetensors", digest(resnet), None)
    assert digest(dict(reversed(resnet.items()))) == digest(resnet)
    changed = {key: value.clone() for key, value in resnet.items()}
    first = next(key for key, value in changed.items() if value.dim() == 4)
    changed[first].view(torch.int32).view(-1)[0] ^= 1
    assert digest(changed) != digest(resnet)


def test_the_full_name_has_the_tag() -> None:
    assert family_of("resnet101").hub_name("resnet101").startswith("resnet101.")
    assert family_of("resnet101.tv_in1k").hub_name("resnet101.tv_in1k") == "resnet101.tv_in1k"
    assert VARIANTS["mit_b1"].revision[:12] in family_of("mit_b1").hub_name("mit_b1")
