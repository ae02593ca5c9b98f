from __future__ import annotations

import json
import math

import pytest
import safetensors.torch
import torch

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.counts import COUNTS, Counts, load_counts, save_counts


def drawn_counts(seed: int, images: int = 5, classes: int = 4) -> Counts:
    """Counts of random predictions; the last image has no labelled pixel."""
    generator = torch.Generator().manual_seed(seed)
    whole, rows = Confusion(classes), []
    for index in range(images):
        pred = torch.randint(classes, (6, 7), generator=generator)
        label = torch.randint(classes - 1, (6, 7), generator=generator)
        one = Confusion(classes)
        one.update(pred, torch.full_like(label, 255) if index == images - 1 else label)
        whole.matrix.add_(one.matrix)
        rows.append(one.by_class())
    return Counts(whole.matrix, torch.stack(rows))


def test_saved_counts_come_back(tmp_path):
    networks = {"teacher": drawn_counts(0), "student.of.two": drawn_counts(1)}
    ids = ["a/b", "ünï", "c", "d", "e"]
    save_counts(tmp_path / COUNTS, ids, networks)
    found = load_counts(tmp_path / COUNTS)
    assert found.ids == tuple(ids)
    assert list(found.networks) == sorted(networks)
    for name, counts in networks.items():
        assert torch.equal(found.networks[name].confusion, counts.confusion)
        assert torch.equal(found.networks[name].images, counts.images)
        assert found.networks[name].score() == counts.score()


def test_miou_of_an_image_counts_the_classes_in_it_and_in_its_prediction():
    counts = drawn_counts(2)
    for miou, (hit, truth, predicted) in zip(
        counts.image_mious(), counts.images.tolist(), strict=True
    ):
        if sum(truth) == 0:
            assert miou is None
            continue
        each = [
            100 * h / (t + p - h) for h, t, p in zip(hit, truth, predicted, strict=True) if t + p
        ]
        assert len(each) == 4 and truth[3] == 0 and predicted[3] > 0  # invented, and counted as 0
        assert math.isclose(miou, sum(each) / len(each))


@pytest.mark.parametrize(
    "damage",
    [
        *("truncated", "no ids", "other ids", "a tensor missing", "floats", "not square"),
        *("a pickle", "negative", "ids nested deep", "ids of numbers", "no images", "no axes"),
    ],
)
def test_damaged_counts_are_one_line(tmp_path, damage):
    path, counts = tmp_path / COUNTS, drawn_counts(3)
    ids, tensors = ["a", "b", "c", "d", "e"], {f"n.{k}": v for k, v in counts._asdict().items()}
    facts = {"ids": json.dumps(ids[:3] if damage == "other ids" else ids)}
    if damage == "a tensor missing":
        del tensors["n.images"]
    if damage == "floats":
        tensors["n.images"] = tensors["n.images"].float()
    if damage == "negative":
        tensors["n.images"][0, 0, 0] = -1
    if damage == "ids nested deep":
        facts["ids"] = "[" * 100_000
    if damage == "ids of numbers":
        facts["ids"] = "[1, 2, 3, 4, 5]"
    if damage == "no images":
        facts["ids"], tensors["n.images"] = "[]", tensors["n.images"][:0].clone()
    if damage == "no axes":
        tensors = {key: torch.ones((), dtype=torch.int64) for key in tensors}
    if damage == "not square":
        tensors["n.confusion"] = tensors["n.confusion"][1:].clone()
    content = safetensors.torch.save(tensors, None if damage == "no ids" else facts)
    if damage == "truncated":
        content = content[:-9]
    if damage == "a pickle":
        content = b"\x80\x05]\x94."
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{COUNTS} cannot be read as pixel counts"):
        load_counts(path)
