from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor
from u2pl_da.feature_distance import FeatureDistanceConfig, ImageNetDistance

CLASSES, THINGS = 5, (2, 3)


def make(encoder: str = "test_resnet", **options: Any) -> tuple[Segmentor, ImageNetDistance]:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="daformer", encoder=encoder, encoder_weights="none", width=8, embed_dim=0
    )
    student = build_segmentor(config, CLASSES).train()
    return student, ImageNetDistance(
        FeatureDistanceConfig(**{"things": THINGS, **options}), student, CLASSES
    ).train()


def random_case(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of 4 x 3 cells, and labels of one class per cell with a few other pixels in it."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 128, 96), generator=draw, dtype=torch.uint8)
    cells = torch.randint(0, CLASSES, (2, 4, 3), generator=draw)
    label = cells.repeat_interleave(32, 1).repeat_interleave(32, 2)
    stray = torch.rand(label.shape, generator=draw) < torch.rand(
        2, 4, 3, generator=draw
    ).repeat_interleave(32, 1).repeat_interleave(32, 2)
    label[stray & (torch.rand(label.shape, generator=draw) < 0.5)] = 255
    return image, label.to(torch.uint8)


def distance_of(
    student: Segmentor, distance: ImageNetDistance, image: Tensor, label: Tensor
) -> Tensor:
    return distance(student.prepare(image), label, student(image, embed=False).deep)


def move(student: Segmentor, amount: float) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in student.encoder.parameters():
            weight += amount * torch.randn(weight.shape, generator=draw)


@pytest.mark.parametrize("mode", [True, False])
def test_there_is_none_while_the_weights_are_those_of_the_start(mode: bool) -> None:
    student, distance = make(min_share=0.3)
    student.train(mode), distance.train(mode)
    image, label = random_case()
    for brightness in (1.0, 0.3):  # other colours are nothing that was forgotten
        assert (
            distance_of(student, distance, (image * brightness).to(torch.uint8), label).item() == 0
        )


def test_it_grows_with_the_distance_of_the_weights() -> None:
    image, label = random_case()
    found = []
    for amount in (0.001, 0.01, 0.1):
        student, distance = make(min_share=0.3)
        move(student, amount)
        found.append(distance_of(student, distance, image, label).item())
    assert 0 < found[0] < found[1] < found[2]


@pytest.mark.parametrize("min_share", [0.3, 0.75, 0.9])
def test_it_equals_the_loop_over_the_cells_of_things(min_share: float) -> None:
    student, distance = make(min_share=min_share)
    move(student, 0.05)
    image, label = random_case()
    deep, reference = (
        network(student.prepare(image))[-1].double()
        for network in (student.encoder, distance.encoder)
    )
    found = []
    for b in range(2):
        for i in range(4):
            for j in range(3):
                cell = Counter(
                    label[b, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32].flatten().tolist()
                )
                winner, pixels = cell.most_common(1)[0]
                if winner in THINGS and pixels / 32**2 >= min_share:
                    found.append((deep[b, :, i, j] - reference[b, :, i, j]).norm())
    assert 0 < len(found) < 24
    assert distance_of(student, distance, image, label).item() == pytest.approx(
        torch.stack(found).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("label_value", [0, 255])
def test_without_a_thing_it_is_a_zero_that_reaches_the_encoder(label_value: int) -> None:
    student, distance = make()
    move(student, 0.05)
    image, label = random_case()
    loss = distance_of(student, distance, image, torch.full_like(label, label_value))
    loss.backward()
    assert loss.item() == 0
    assert all(
        weight.grad is not None and not weight.grad.any() for weight in student.encoder.parameters()
    )


def test_only_the_encoder_is_copied_and_it_shares_nothing() -> None:
    student, distance = make()
    assert sum(p.numel() for p in distance.parameters()) == sum(
        p.numel() for p in student.encoder.parameters()
    )
    assert not {p.data_ptr() for p in distance.parameters()} & {
        p.data_ptr() for p in student.parameters()
    }
    assert distance.state_dict().keys() == {
        f"encoder.{key}" for key in student.encoder.state_dict()
    }
    assert not any(p.requires_grad for p in distance.parameters())
    assert all(p.requires_grad for p in student.parameters())


def test_nothing_moves_in_it_whatever_it_sees() -> None:
    student, distance = make()
    before = {key: value.clone() for key, value in distance.state_dict().items()}
    for mode in (True, False, True):
        distance.train(mode)
        distance_of(student, distance, *random_case())
    assert all(torch.equal(value, before[key]) for key, value in distance.state_dict().items())
    tracked = [
        module.track_running_stats
        for module in student.modules()
        if hasattr(module, "track_running_stats")
    ]
    assert tracked and all(tracked)


def test_it_drops_no_path_of_a_transformer() -> None:
    student, distance = make("mit_b0")
    prepared = student.prepare(random_case()[0])
    with torch.no_grad():
        one, two, three = (
            distance.encoder(prepared)[-1],
            distance.encoder(prepared)[-1],
            student.encoder(prepared)[-1],
        )
    assert torch.equal(one, two) and not torch.equal(one, three)
