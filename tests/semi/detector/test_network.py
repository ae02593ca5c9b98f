from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN

from u2pl.errors import UserError
from u2pl_semi.detector.network import (
    DetectorCard,
    DetectorConfig,
    build_detector,
    detect,
    load_detector,
    save_detector,
)


def noise(*size: int) -> Tensor:
    return torch.randint(
        0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(len(size))
    )


class Outline(nn.Module):
    """Finds the box around the bright pixels twice, as class 2 and, less surely, as class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        (image,) = images
        assert image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
        self.sizes.append(tuple(image.shape))
        rows, columns = (image[0] > 0.5).nonzero().unbind(dim=1)
        if not len(rows):
            nothing = torch.zeros(0)
            return [{"boxes": torch.zeros(0, 4), "labels": nothing.long(), "scores": nothing}]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes = torch.tensor([box, box], dtype=torch.float32)
        return [{"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0])}]


@pytest.mark.parametrize(
    ("long_side", "small"),
    [(0, (200, 300)), (1000, (200, 300)), (100, (67, 100)), (75, (50, 75)), (30, (20, 30))],
)
def test_boxes_are_in_pixels_of_the_image_itself(
    long_side: int, small: tuple[int, int], card: DetectorCard
) -> None:
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    image[:, 60:120, 90:240] = 255
    stub = Outline()
    found = detect(stub, card.model_copy(update={"long_side": long_side}), image)
    assert stub.sizes == [(3, *small)]
    assert found.dtype == torch.float32 and found.shape == (2, 6)
    assert found[:, 0].tolist() == [1, 3]  # the card's second and first thing
    assert found[:, 5].tolist() == pytest.approx([0.9, 0])
    limit = 200 / small[0] / 2 + 0.01 if small[0] < 200 else 0  # half a pixel of the small image
    expected = torch.tensor([60.0, 90, 120, 240]).expand(2, 4)
    assert (found[:, 1:5] - expected).abs().max() <= limit


def test_sides_that_shrink_by_other_factors(card: DetectorCard) -> None:
    """A pixel of the small image is ten columns wide and twelve and a half rows high."""
    image = torch.zeros(3, 25, 300, dtype=torch.uint8)
    image[:, 12:, 100:200] = 255
    found = detect(Outline(), card.model_copy(update={"long_side": 30}), image)
    assert found[0, 1:5].tolist() == pytest.approx([12.5, 100, 25, 200])


def test_nothing_found_is_no_row(card: DetectorCard) -> None:
    found = detect(Outline(), card, torch.zeros(3, 9, 7, dtype=torch.uint8))
    assert found.shape == (0, 6)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (33, 45), (64, 64)])
def test_images_of_any_size_have_boxes_inside_them(
    size: tuple[int, int], network: FasterRCNN, card: DetectorCard
) -> None:
    found = detect(network, card.model_copy(update={"long_side": 96}), noise(*size))
    assert len(found) and found.isfinite().all()
    assert set(found[:, 0].tolist()) <= {1, 3}
    assert (found[:, 1:3] >= 0).all()
    assert (found[:, 3:5] <= torch.tensor(size) + 1e-3).all()
    assert (found[:, 5].diff() <= 0).all()


def test_boxes_do_not_depend_on_the_images_before(network: FasterRCNN, card: DetectorCard) -> None:
    image, again = noise(64, 96), build_detector(card.network, 2).eval()
    again.load_state_dict(network.state_dict())
    alone = detect(network, card, image)
    for other in ((33, 40), (1, 64)):  # whose padding is as large as they are
        detect(again, card, noise(*other))
    assert torch.equal(detect(again, card, image), alone)


def test_features_of_a_box_lie_where_the_box_is_in_a_padded_image(
    network: FasterRCNN, card: DetectorCard
) -> None:
    detect(network, card, noise(40, 36))  # padded to 64 x 64
    column = torch.arange(16).expand(1, 8, 16, 16).float()
    maps = {str(level): column[..., :: 2**level, :: 2**level] for level in range(4)}
    box = [torch.tensor([[0.0, 0, 16, 16]])]
    pooled = network.roi_heads.box_roi_pool(maps, box, [(40, 36)])
    assert pooled.shape == (1, 8, 7, 7)
    assert 0 <= pooled.min() < pooled.max() < 4  # columns 0 to 15 are the first map's 0 to 3


def test_unknown_encoders_are_refused() -> None:
    for name, words in (
        (
            "resnet10",
            "network.encoder=resnet10 is no encoder of timm and no MiT; near: .*resnet10t",
        ),
        ("vit_tiny_patch16_224", "has no maps at strides 4 to 32"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            build_detector(DetectorConfig(encoder=name), 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoder", ["test_resnet", "mit_b0"])
def test_every_family_of_encoders_makes_a_detector(encoder: str) -> None:
    config = DetectorConfig(encoder=encoder, width=8, hidden=8, proposals=4, anchor=8)
    found = build_detector(config, 1).eval()([noise(48, 64).float() / 255])
    assert found[0]["boxes"].shape[1] == 4
    assert set(found[0]["labels"].tolist()) <= {1}


@pytest.fixture
def saved(network: FasterRCNN, card: DetectorCard, tmp_path: Path) -> Path:
    """The folder of a detector in that of its run."""
    save_detector(tmp_path / "run" / "last", network, card)
    return tmp_path / "run"


def test_what_is_saved_comes_back_exactly(
    saved: Path, network: FasterRCNN, card: DetectorCard
) -> None:
    for path in (saved, saved / "last"):
        found, its_card = load_detector(path)
        assert its_card == card
        assert not any(module.training for module in found.modules())
        one, two = network.state_dict(), found.state_dict()
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) for key, value in one.items())
        image = noise(48, 80)
        assert torch.equal(detect(found, card, image), detect(network, card, image))
    assert {path.name for path in (saved / "last").iterdir()} == {
        "model.safetensors",
        "detector.json",
    }
    # a replacement that was interrupted
    (saved / "last").rename(saved / ".last.old")
    assert load_detector(saved)[1] == card


def changed(**facts: Any) -> Callable[[Path], object]:
    """Overwrites entries of detector.json."""

    def change(folder: Path) -> None:
        path = folder / "detector.json"
        content = json.loads(path.read_text())
        content["network"] |= facts.pop("network", {})
        path.write_text(json.dumps(content | facts))

    return change


def renamed(folder: Path) -> None:
    """Gives a tensor another name."""
    tensors = load_file(folder / "model.safetensors")
    tensors["other"] = tensors.pop("rpn.head.cls_logits.bias")
    save_file(tensors, folder / "model.safetensors")


def cut(name: str, keep: int) -> Callable[[Path], object]:
    """Keeps so many bytes of a file, counted from the end if negative."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "it has no model.safetensors"),
    "no card": (lambda f: (f / "detector.json").unlink(), "it has no detector.json"),
    "truncated weights": (cut("model.safetensors", -40), "model.safetensors is damaged or trunc"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors is damaged or truncated"),
    "other names": (renamed, "does not fit its detector.json: 2 tensors are missing"),
    "other shapes": (
        changed(network={"width": 16}),
        "fpn.inner_blocks.0.0.weight (F32",
    ),
    "more classes": (
        changed(things=[1, 2, 3]),
        "box_predictor.cls_score.weight (F3",
    ),
    "truncated card": (cut("detector.json", -9), "detector.json is not readable"),
    "empty card": (cut("detector.json", 0), "detector.json is not readable"),
    "a list": (lambda f: (f / "detector.json").write_text("[]"), "detector.json is not readable"),
    "newer": (changed(format=2), "detector.json has format 2, newer than 1; upgrade u2pl"),
    "unknown entry": (changed(colour=1), "colour"),
    "no things": (changed(things=[]), "things"),
    "thing 4 of 4": (changed(things=[4, 1]), "things names a class that is none"),
    "thing -1": (changed(things=[-1, 1]), "things names a class that is none"),
    "unknown encoder": (changed(network={"encoder": "foo"}), "network.encoder=foo is no encoder"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_detector_is_named_in_a_line(case: str, saved: Path) -> None:
    damage, words = DAMAGE[case]
    damage(saved / "last")
    with pytest.raises(UserError) as caught:
        load_detector(saved)
    text = str(caught.value)
    assert words in text and "\n" not in text
    assert str(saved) in text or case == "unknown encoder"
    assert text.count("detector.json") <= 1 or case == "no card"


def test_where_there_is_no_detector(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no detector at .*: it has no detector.json; give"):
            load_detector(path)
