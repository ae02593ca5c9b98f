"""Files with the key layouts of released checkpoints, made from networks of our own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from core.toy.app import program
from u2pl.errors import UserError
from u2pl.maps import upsample
from u2pl.model.model import load
from u2pl.model.released import import_released, known_classes
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor

CLASSES = 19
#: The released name of each module of a head, by ours.
SEGFORMER = {"classifier.0": "linear_fuse.conv", "classifier.1": "linear_fuse.bn"}
SEGFORMER |= {"classifier.4": "linear_pred"}
SEGFORMER |= {f"decoder.linear.{i}": f"linear_c{i + 1}.proj" for i in range(4)}
DAFORMER = {f"decoder.linear.{i}": f"embed_layers.{i}.proj" for i in range(4)}
DAFORMER |= {
    "classifier.0.pointwise.0": "fuse_layer.aspp_modules.0.conv",
    "classifier.0.pointwise.1": "fuse_layer.aspp_modules.0.bn",
    "classifier.1.0": "fuse_layer.bottleneck.conv",
    "classifier.1.1": "fuse_layer.bottleneck.bn",
    "classifier.3": "conv_seg",
}
DAFORMER |= {
    f"classifier.0.dilated.{branch}.{ours}.{index}": (
        f"fuse_layer.aspp_modules.{branch + 1}.{theirs}_conv.{layer}"
    )
    for branch in range(3)
    for ours, theirs in enumerate(("depthwise", "pointwise"))
    for index, layer in enumerate(("conv", "bn"))
}
LAYOUTS = {"segformer": SEGFORMER, "daformer": DAFORMER}
#: The released name of the first word of an encoder's key in each stage, by timm's.
STAGE = {"downsample": "patch_embed", "blocks": "block", "norm": "norm"}


def network(decoder: str, seed: int = 0, classes: int = CLASSES) -> Segmentor:
    torch.manual_seed(seed)
    config = NetworkConfig(
        decoder=decoder, encoder="mit_b0", encoder_weights="none", width=16, embed_dim=0,
        output_stride=32,
    )  # fmt: skip
    made = build_segmentor(config, classes)
    with torch.no_grad():  # statistics other than those of a fresh layer
        for key, value in made.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    return made.eval()


def released(made: Segmentor, decoder: str, encoder: str, head: str) -> dict[str, Tensor]:
    """Its tensors under the released names behind these prefixes."""
    found = {}
    for key, value in made.state_dict().items():
        if key.startswith("encoder.model."):
            found[encoder + theirs(key.removeprefix("encoder.model."))] = value.clone()
            continue
        module, _, leaf = key.rpartition(".")
        linear = module.startswith("decoder.linear") and leaf == "weight"
        name = f"{head}{LAYOUTS[decoder][module]}.{leaf}"
        found[name] = value[..., 0, 0].clone() if linear else value.clone()
    return found


def theirs(key: str) -> str:
    """The released key of an encoder's tensor, by timm's."""
    stage = re.match(r"stages\.(\d)\.(\w+)", key)
    if stage:
        key = f"{STAGE[stage[2]]}{int(stage[1]) + 1}{key[stage.end() :]}"
    key = re.sub(r"^patch_embed\.", "patch_embed1.", key)
    return key.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")


def same(one: Segmentor, other: Segmentor) -> bool:
    image = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, second = (upsample(each(image).logits, (70, 90)) for each in (one, other))
    return torch.equal(first, second)


@pytest.mark.parametrize("decoder", LAYOUTS)
@pytest.mark.parametrize(
    ("encoder", "head"),
    [
        ("backbone.", "decode_head."),
        ("module.encoder.", "module.decoder."),
        ("model.backbone.", "model.decode_head."),
    ],
)
def test_outputs_are_those_of_the_network_in_the_file(
    tmp_path: Path, decoder: str, encoder: str, head: str
) -> None:
    made = network(decoder)
    torch.save({"state_dict": released(made, decoder, encoder, head)}, tmp_path / "a.pth")
    found = import_released(tmp_path / "a.pth")
    assert same(found.network, made)
    assert found.config.encoder == "mit_b0" and found.config.decoder == decoder
    assert found.classes == CLASSES and found.config.width == 16
    assert sum(found.taken.values()) == len(made.state_dict()) and found.left == []


def test_what_a_file_has_besides_is_named(tmp_path: Path) -> None:
    state = released(network("segformer"), "segformer", "backbone.", "decode_head.")
    state["decode_head.conv_seg.weight"] = torch.zeros(CLASSES, 16, 1, 1)
    state["auxiliary_head.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "a.safetensors")
    found = import_released(tmp_path / "a.safetensors")
    assert found.left == ["auxiliary_head.weight", "decode_head.conv_seg.weight"]


@pytest.mark.parametrize(
    ("first", "second"), [("model.", "ema_model."), ("", "ema_"), ("net.", "net.ema_")]
)
def test_of_several_networks_one_is_chosen_by_its_prefix(
    first: str, second: str, tmp_path: Path
) -> None:
    student, teacher = network("daformer", 1), network("daformer", 2)
    state = released(student, "daformer", f"{first}backbone.", f"{first}decode_head.")
    state |= released(teacher, "daformer", f"{second}backbone.", f"{second}decode_head.")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"2 networks, whose keys begin with '{first}', '{second}'"):
        import_released(tmp_path / "a.pth")
    assert same(import_released(tmp_path / "a.pth", prefix=second).network, teacher)
    assert same(import_released(tmp_path / "a.pth", prefix=first).network, student)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.pop("decode_head.linear_fuse.bn.running_var"), "1 tensors are missing"),
        (lambda s: s.update({"backbone.norm1.weight": torch.ones(9)}), "1 have another shape"),
        (lambda s: [s.pop(k) for k in list(s) if ".block3.1." in k], "no Mix Transformer has"),
        (lambda s: s.pop("decode_head.linear_pred.weight"), "the segformer head is not whole"),
        (
            lambda s: s.update({"decode_head.linear_pred.weight": torch.ones(())}),
            "have another shape",
        ),
        (
            lambda s: s.update({"decode_head.linear_c1.proj.weight": torch.ones(0, 32)}),
            "the segformer head is not whole",
        ),
        (
            lambda s: s.update({"decode_head.linear_c1.proj.weight": torch.ones(10**6, 1)}),
            "less than or equal to 8192",  # before a network of that width is built
        ),
        (
            lambda s: s.update({k: v.long() for k, v in s.items()}),
            "0 tensors are missing, 191 have another shape or type",
        ),
        (
            lambda s: s["backbone.norm1.weight"].fill_(float("nan")),
            "holds numbers that are not finite, in 1 tensors",
        ),
        (lambda s: s.pop("backbone.patch_embed1.proj.weight"), "no Mix Transformer under"),
        (lambda s: s.pop("decode_head.linear_fuse.conv.weight"), "no Mix Transformer under"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, spoil: Any, says: str) -> None:
    state = released(network("segformer"), "segformer", "backbone.", "decode_head.")
    spoil(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=says) as error:
        import_released(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("decoder", "stride"), [("daformer", 8), ("segformer", 7)])
def test_a_stride_that_the_decoder_does_not_run_at_is_one_line(
    tmp_path: Path, decoder: str, stride: int
) -> None:
    torch.save(released(network(decoder), decoder, "backbone.", "decode_head."), tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"^--output-stride {stride}: "):
        import_released(tmp_path / "a.pth", stride=stride)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="damaged or no file of tensors"):
        import_released(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_names_of_the_classes(tmp_path: Path) -> None:
    assert known_classes(None, 19)[0][:2] == ("road", "sidewalk")
    assert known_classes(None, 21)[0][1] == "aeroplane"
    (tmp_path / "c.txt").write_text("a\nb 1 2 3\n")
    names, palette = known_classes(str(tmp_path / "c.txt"), 2)
    assert names == ("a", "b") and palette[1].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"the network has 5 classes, .* name them with --classes"):
        known_classes(None, 5)
    with pytest.raises(UserError, match="cityscapes has 19 names, but the network 21 classes"):
        known_classes("cityscapes", 21)


def test_the_command_writes_a_model_that_predicts(tmp_path: Path) -> None:
    made = network("daformer")
    torch.save(released(made, "daformer", "backbone.", "decode_head."), tmp_path / "a.pth")
    words = ["import", str(tmp_path / "a.pth"), "--to", str(tmp_path / "model")]
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 0, done.output
    assert "mit_b0 under daformer, output stride 32, 19 classes" in done.output
    model = load(tmp_path / "model")
    assert same(model.network, made) and model.classes[0] == "road"
    again = CliRunner().invoke(program, words)
    assert again.exit_code == 2 and "exists: choose another folder with --to" in again.stderr
