from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from harness import small_vit
from harness.small_vit import KINDS
from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import family_of
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.encoders.vit import PlainViT, last_of_quarters
from u2pl.networks.pretrained import load_encoder, load_pretrained

STRIDES = {14: 16, 16: 16, 8: 8, 32: 32}


def photo(*size: int, images: int = 2) -> Tensor:
    return torch.rand(images, 3, *size, generator=torch.Generator().manual_seed(0))


def slow_maps(encoder: PlainViT, image: Tensor) -> list[Tensor]:
    """Block by block, with the model's parts alone; the image has patches that fit."""
    vit: Any = encoder.model
    rows, columns = (side // encoder.patch for side in image.shape[-2:])
    tokens, found = vit._pos_embed(vit.patch_embed(image)), []
    rope = {}
    if isinstance(tokens, tuple):
        tokens, rope["rope"] = tokens
    tokens = vit.norm_pre(tokens)
    for number, block in enumerate(vit.blocks):
        tokens = block(tokens, **rope)
        if number in encoder.taps:
            patches = vit.norm(tokens)[:, vit.num_prefix_tokens :]
            found.append(patches.mT.unflatten(2, (rows, columns)))
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_maps_are_the_normalised_tokens_of_four_blocks(kind: str) -> None:
    encoder = small_vit.encoder(kind, depth=6)
    stride, patch = STRIDES[KINDS[kind]["patch_size"]], KINDS[kind]["patch_size"]
    assert (encoder.strides, encoder.divisor, encoder.taps) == ((stride,) * 4, stride, (1, 2, 4, 5))
    image = photo(3 * stride, 7 * stride)
    fitted = image
    if patch != stride:
        size = (3 * patch, 7 * patch)
        fitted = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    maps = encoder(image)
    assert [tuple(each.shape) for each in maps] == [(2, 16, 3, 7)] * 4
    for ours, slow in zip(maps, slow_maps(encoder, fitted), strict=True):
        torch.testing.assert_close(ours, slow)
    assert all(each.mean(dim=1).abs().max() < 1 for each in maps) and maps[0].std() > 0.5


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "test_vit4"])
@torch.no_grad()
def test_maps_and_facts_of_shipped_models_are_timms(name: str) -> None:
    """One with a class token, one that averages, one with a pooling head, one with RMS norms."""
    encoder, theirs = PlainViT.build(name, 32).eval(), timm.create_model(name).eval()
    load_encoder(encoder, theirs.state_dict(), "timm")
    image, config = photo(160, 160, images=1), timm.get_pretrained_cfg(name)
    norm = theirs.fc_norm if isinstance(theirs.norm, nn.Identity) else theirs.norm
    maps = theirs.forward_intermediates(
        image, indices=encoder.taps, norm=False, intermediates_only=True
    )
    for ours, other in zip(encoder(image), maps, strict=True):
        torch.testing.assert_close(ours, norm(other.movedim(1, -1)).movedim(-1, 1))
    assert encoder.channels == (theirs.embed_dim,) * 4
    assert (encoder.mean, encoder.std) == (config.mean, config.std)


@pytest.mark.parametrize(
    ("name", "channels", "taps", "prefix"),
    [
        ("vit_small_patch14_dinov2", 384, (2, 5, 8, 11), 1),
        ("vit_base_patch14_reg4_dinov2", 768, (2, 5, 8, 11), 5),
        ("vit_large_patch14_dinov2", 1024, (4, 11, 17, 23), 1),
        ("vit_giant_patch14_reg4_dinov2", 1536, (9, 19, 29, 39), 5),
        ("vit_small_patch16_dinov3", 384, (2, 5, 8, 11), 5),
        ("deit_tiny_distilled_patch16_224", 192, (2, 5, 8, 11), 2),
    ],
)
def test_released_models_have_the_published_maps(
    name: str, channels: int, taps: tuple[int, ...], prefix: int
) -> None:
    with torch.device("meta"):
        encoder = PlainViT.build(name, 32)
        maps = encoder(torch.empty(1, 3, 32, 48))
    assert (encoder.channels[0], encoder.taps, encoder.strides[0]) == (channels, taps, 16)
    assert encoder.model.num_prefix_tokens == prefix
    assert [tuple(each.shape) for each in maps] == [(1, channels, 2, 3)] * 4


def test_taps_of_any_depth_are_four_blocks_and_the_last_is_one() -> None:
    assert last_of_quarters(12) == (2, 5, 8, 11) and last_of_quarters(40) == (9, 19, 29, 39)
    for depth in range(4, 70):
        taps = last_of_quarters(depth)
        assert sorted(set(taps)) == list(taps) and taps[-1] == depth - 1
    with pytest.raises(UserError, match=r"network.encoder=x has 3 blocks.*deeper"):
        PlainViT(small_vit.model("plain", depth=3), "x")


def test_names_are_timms_with_or_without_a_tag() -> None:
    assert family_of("vit_small_patch14_dinov2.lvd142m") is PlainViT
    assert family_of("vit_large_patch16_dinov3") is family_of("deit3_base_patch16_224") is PlainViT
    assert family_of("convnext_tiny.dinov3_lvd1689m") is Pyramid
    assert "vit_base_patch14_reg4_dinov2" in PlainViT.names()
    with pytest.raises(UserError, match=r"dinov2\.bogus cannot be built") as caught:
        PlainViT.build("vit_small_patch14_dinov2.bogus", 32)
    assert "\n" not in str(caught.value)


def test_colours_and_licence_are_those_of_the_tag() -> None:
    with torch.device("meta"):
        encoder = PlainViT.build("vit_large_patch16_dinov3.sat493m", 32)
    assert encoder.mean == (0.430, 0.411, 0.296)
    assert PlainViT.hub_license("vit_large_patch16_dinov3.sat493m") == "dinov3-license"
    assert PlainViT.hub_license("vit_small_patch14_dinov2") == "apache-2.0"
    assert PlainViT.hub_name("vit_small_patch14_dinov2") == "vit_small_patch14_dinov2.lvd142m"


@pytest.mark.parametrize("decoder", ["dpt", "linear"])
@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "patch 8", "patch 32"])
@pytest.mark.parametrize("size", [(1, 1), (37, 64), (65, 130)])
@torch.no_grad()
def test_images_of_any_size_come_back_at_a_quarter(
    decoder: str, kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainViT, "build", lambda *_: small_vit.encoder(kind))
    config = NetworkConfig(
        decoder=decoder, encoder="test_vit", encoder_weights="none", embed_dim=3, width=8
    )
    output = build_segmentor(config, 5).eval()(photo(*size))
    quarter = tuple(-(-side // 4) for side in size)
    assert output.logits.shape == (2, 5, *quarter) and output.embed.shape == (2, 3, *quarter)
    assert output.feature.shape[-2:] == quarter


@torch.no_grad()
def test_a_pixel_is_seen_where_it_is() -> None:
    """What changes in a part of the image changes the tokens of that part most."""
    for kind in ("dinov2", "dinov3"):
        encoder = small_vit.encoder(kind)
        image = photo(64, 96, images=1)
        changed = image.clone()
        changed[..., 32:48, 64:80] += 3
        for before, after in zip(encoder(image), encoder(changed), strict=True):
            moved = (after - before).abs().sum(dim=(0, 1))
            assert divmod(int(moved.argmax()), 6) == (2, 4), kind


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    encoder = small_vit.encoder(kind).train()
    maps = encoder(photo(32, 64))
    draw = torch.Generator().manual_seed(1)
    sum((each * torch.randn(each.shape, generator=draw)).sum() for each in maps).backward()
    for name, value in encoder.named_parameters():
        assert value.grad is not None and value.grad.any(), name


def weights_of(kind: str, **options: Any) -> dict[str, Tensor]:
    """As timm's own files hold them."""
    return {k: v.clone() for k, v in small_vit.model(kind, **options).state_dict().items()}


def released(kind: str, **options: Any) -> dict[str, Tensor]:
    """DINOv2's authors' spelling of the same tensors."""
    state = weights_of(kind, **options)
    state["mask_token"] = torch.rand(1, 16)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        place = torch.rand(1, 1, 16)
        state["cls_token"] = state["cls_token"] - place
        state["pos_embed"] = torch.cat([place, state["pos_embed"]], dim=1)
    return state


@pytest.mark.parametrize("kind", ["dinov2", "dinov2 with registers"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@torch.no_grad()
def test_released_files_fill_every_tensor(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"dinov2.{suffix}"
    (torch.save if suffix == "pth" else save_file)(released(kind), path)
    encoder = small_vit.encoder(kind)
    for value in encoder.parameters():
        value.zero_()
    report = load_pretrained(encoder, "vit_small_patch14_dinov2", str(path))
    assert not report.missing and not report.unexpected
    for name, value in weights_of(kind).items():
        torch.testing.assert_close(encoder.model.state_dict()[name], value, msg=name)
    assert encoder.weights.name == path.name and encoder.weights.license is None


def test_giants_gates_are_renamed() -> None:
    giant = small_vit.model("dinov2")
    for block in giant.blocks:
        block.mlp = timm.layers.SwiGLUPacked(16, 64)
    state = {
        key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
        for key, value in giant.state_dict().items()
    }
    report = load_encoder(PlainViT(giant, "test_vit"), state | {"mask_token": torch.rand(1)}, "g")
    assert not report.missing and not report.unexpected


@torch.no_grad()
def test_tables_of_positions_are_resampled_and_patches_are_not() -> None:
    encoder, state = small_vit.encoder("plain"), weights_of("plain")
    state["pos_embed"] = torch.rand(1, 1 + 7 * 7, 16)
    load_encoder(encoder, state, "file")
    expected = resample_abs_pos_embed(state["pos_embed"], (4, 4), (7, 7))
    torch.testing.assert_close(encoder.model.pos_embed.detach(), expected)
    with refused(r"another shape; first: patch_embed.proj.weight"):
        load_encoder(encoder, weights_of("patch 32"), "file")


def refused(match: str) -> pytest.RaisesExc[UserError]:
    return pytest.RaisesExc(UserError, match=match, check=lambda error: "\n" not in str(error))


@pytest.mark.parametrize("kind", ["plain", "averaging"])
def test_the_normalisation_of_the_maps_must_be_in_the_file(kind: str) -> None:
    """Two of hundreds of tensors are few enough to be missed, and everything depends on them."""
    encoder, state = small_vit.encoder(kind, depth=30), weights_of(kind, depth=30)
    name = "fc_norm" if kind == "averaging" else "norm"
    assert len(state) > 300 and not load_encoder(encoder, state, "file").missing
    with refused(r"1 missing.*first: norm.weight"):
        load_encoder(encoder, {k: v for k, v in state.items() if k != f"{name}.weight"}, "file")


def test_files_of_other_encoders_are_refused() -> None:
    encoder = small_vit.encoder("dinov2")
    with refused("does not fit the encoder"):
        load_encoder(encoder, timm.create_model("test_resnet").state_dict(), "resnet.pth")
    for ours, theirs in (("dinov2", "dinov2 with registers"), ("dinov2 with registers", "dinov2")):
        for state in (released(theirs, depth=30), weights_of(theirs, depth=30)):
            with refused("another encoder|does not fit the encoder"):
                load_encoder(small_vit.encoder(ours, depth=30), state, "dinov2.pth")
    with refused("check network.encoder"):
        load_encoder(encoder, weights_of("dinov2") | {"pos_embed": torch.rand(3)}, "odd.pth")
    with refused("does not fit the encoder"):
        load_encoder(encoder, weights_of("dinov3"), "dinov3.pth")


@pytest.mark.parametrize("kind", ["plain", "dinov2 with registers", "dinov3", "averaging"])
def test_layers_are_those_by_which_timm_lets_the_rate_decay(kind: str) -> None:
    encoder = small_vit.encoder(kind)
    layers = encoder.layers()
    assert len(layers) == 6  # what precedes the blocks, four blocks, the normalisation
    ours = {id(value): depth for depth, layer in enumerate(reversed(layers)) for value in layer}
    assert ours.keys() == {id(value) for value in encoder.parameters()}
    after = {id(value) for value in encoder.model.norm.parameters()}
    assert all(ours[value] == 0 for value in after)  # as BEiT, MAE and DINOv2 have it
    encoder.model.reset_classifier(3)
    for group in param_groups_layer_decay(encoder.model, layer_decay=0.5):
        for value in group["params"]:
            if id(value) in ours.keys() - after:
                assert 0.5 ** ours[id(value)] == group["lr_scale"]


@pytest.mark.parametrize("kind", ["dinov2 with registers", "dinov3"])
def test_checkpointing_changes_no_gradient_and_keeps_less(kind: str) -> None:
    def gradients(encoder: PlainViT) -> tuple[int, list[Tensor]]:
        kept: dict[int, int] = {}

        def count(value: Tensor) -> Tensor:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            maps = encoder(photo(64, 64))
        sum(each.square().sum() for each in maps).backward()
        return sum(kept.values()), [value.grad for value in encoder.parameters()]

    plain, saving = (small_vit.encoder(kind).train() for _ in range(2))
    saving.recompute()
    (much, ours), (less, theirs) = gradients(plain), gradients(saving)
    assert less < 0.7 * much
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


#: Released files, by what their names begin with, and the encoders that they fill.
RELEASED = {
    "dinov2_vits14_pretrain": "vit_small_patch14_dinov2",
    "dinov2_vits14_reg4_pretrain": "vit_small_patch14_reg4_dinov2",
    "dinov2_vitb14_pretrain": "vit_base_patch14_dinov2",
    "dinov2_vitb14_reg4_pretrain": "vit_base_patch14_reg4_dinov2",
    "dinov2_vitl14_pretrain": "vit_large_patch14_dinov2",
    "dinov3_vits16_pretrain": "vit_small_patch16_dinov3",
    "dinov3_vitb16_pretrain": "vit_base_patch16_dinov3",
}


def real_files() -> list[Path]:
    folder = os.environ.get("U2PL_TEST_WEIGHTS")
    files = sorted(Path(folder).iterdir()) if folder else []
    return [file for file in files if file.suffix in (".pth", ".safetensors")]


def encoder_of(file: Path) -> str | None:
    """The encoder that a file's name means: that of a release, or timm's with its tag."""
    released = (name for begin, name in RELEASED.items() if file.stem.startswith(begin))
    return next(released, file.stem if PlainViT.knows(file.stem) else None)


@torch.no_grad()
def test_real_weights_see_alike_what_is_alike() -> None:
    """Each file fills its encoder, and tokens of one object are nearer than those of two."""
    found = [(file, name) for file in real_files() if (name := encoder_of(file))]
    if not found:
        pytest.skip(
            "set U2PL_TEST_WEIGHTS to a folder of released files, such as "
            "dinov2_vits14_pretrain.pth or vit_small_patch16_dinov3.lvd1689m.safetensors"
        )
    for file, name in found:
        encoder = PlainViT.build(name, 32).eval()
        report = load_pretrained(encoder, name, str(file))
        assert not report.missing and not report.unexpected, file
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (encoder.mean, encoder.std))
        image = torch.zeros(1, 3, 128, 256)
        image[..., 128:] = photo(128, 128, images=1)  # a plain half and a noisy one
        deep = F.normalize(encoder((image - mean) / std)[-1], dim=1)[0]
        plain, noisy = (part.flatten(1).t() for part in (deep[..., 1:6], deep[..., 10:15]))
        within = ((plain @ plain.t()).mean() + (noisy @ noisy.t()).mean()) / 2
        assert within > (plain @ noisy.t()).mean() + 0.05, file
