"""Shared channels by sets and by sorting, and the weights of the released code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.fixtures import assert_close, cases
from u2pl.losses.pseudo_label import confident_label
from u2pl.losses.supervised import cross_entropy
from u2pl.methods.pixel_weight import PixelWeight, PixelWeightConfig
from u2pl.mixing.blend import paste
from u2pl.pseudo.rank_statistics import rank_weight, shared_channels

IGNORE = 255


def case(
    seed: int, classes: int, width: int, size: tuple[int, int] = (5, 7), quarter: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, prototypes and labels; the channels of either sign."""
    draw = torch.Generator().manual_seed(seed)
    small = tuple(-(-side // 4) for side in size) if quarter else size
    feature = torch.randn(2, width, *small, generator=draw)
    prototype = torch.randn(classes, width, generator=draw)
    return feature, prototype, torch.randint(classes, (2, *size), generator=draw)


def highest(values: list[float], top: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda channel: -values[channel])[:top])


def slow_shared(feature: Tensor, prototype: Tensor, label: Tensor, top: int) -> Tensor:
    shared = torch.zeros(label.shape, dtype=torch.int64)
    stride = 1 if feature.shape[-2:] == label.shape[-2:] else 4
    for b, i, j in np.ndindex(*label.shape):
        own = highest(feature[b, :, i // stride, j // stride].tolist(), top)
        shared[b, i, j] = len(own & highest(prototype[label[b, i, j]].tolist(), top))
    return shared


@pytest.mark.parametrize("quarter", [False, True])
@pytest.mark.parametrize(
    ("classes", "width", "top"),
    [(1, 6, 2), (4, 1, 1), (4, 8, 1), (3, 8, 5), (150, 16, 5), (3, 8, 8)],
)
def test_shared_channels_equal_the_loop_with_sets(
    classes: int, width: int, top: int, quarter: bool
) -> None:
    given = case(classes + width, classes, width, (9, 10) if quarter else (5, 7), quarter)
    found = shared_channels(*given, top)
    assert found.dtype == torch.int64
    assert torch.equal(found, slow_shared(*given, top))
    assert top == width or len(found.unique()) > 1


def test_selecting_finds_what_a_sort_of_all_channels_finds() -> None:
    feature, prototype, label = case(0, 21, 96, (24, 30))
    top = 5
    ours = feature.argsort(dim=1, descending=True)[:, :top]
    theirs = prototype.argsort(dim=1, descending=True)[:, :top][label].permute(0, 3, 1, 2)
    both = ours.unsqueeze(1) == theirs.unsqueeze(2)
    assert torch.equal(shared_channels(feature, prototype, label, top), both.sum(dim=(1, 2)))


@pytest.mark.parametrize("width", [1, 3])
def test_of_more_channels_than_there_are_all_are_shared(width: int) -> None:
    assert (shared_channels(*case(1, 4, width), 5) == width).all()


def test_pixels_of_one_feature_differ_by_their_labels_alone() -> None:
    feature, prototype, label = case(2, 5, 16, (8, 12), quarter=True)
    found = shared_channels(feature, prototype, label, 4)
    for c in range(5):
        alone = shared_channels(feature, prototype, torch.full((2, 2, 3), c), 4)
        large = alone.repeat_interleave(4, 1).repeat_interleave(4, 2)
        assert torch.equal(found[label == c], large[label == c])


def test_a_permutation_of_the_classes_changes_nothing() -> None:
    feature, prototype, label = case(3, 6, 12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])  # new class c is old class order[c]
    renamed = shared_channels(feature, prototype[order], order.argsort()[label], 4)
    assert torch.equal(renamed, shared_channels(feature, prototype, label, 4))


def test_a_permutation_of_the_channels_changes_nothing() -> None:
    feature, prototype, label = case(4, 6, 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = shared_channels(feature[:, order], prototype[:, order], label, 4)
    assert torch.equal(moved, shared_channels(feature, prototype, label, 4))


def test_weights_grow_with_the_share_from_0_or_from_1() -> None:
    shared, known = torch.tensor([[[0, 1, 4, 4, 0]]]), torch.tensor([[[True] * 3 + [False] * 2]])
    paper, released = (rank_weight(shared, known, 4, rule) for rule in ("paper", "released"))
    assert paper.dtype == released.dtype == torch.float32
    assert paper.flatten().tolist() == [0, 0.25, 1, 1, 1]
    assert released.flatten().tolist() == [1, 1.25, 2, 1, 1]


def fixture_prototypes(z: Any) -> tuple[Tensor, Tensor]:
    """Means over the memories that a class has, and which have labelled ones."""
    rows = []
    for c in range(len(z["in_has_labeled"])):
        parts = [z[f"in_memory_{kind}"][c] for kind in ("labeled", "unlabeled")]
        has = [z[f"in_has_{kind}"][c] == 1 for kind in ("labeled", "unlabeled")]
        kept = [part for part, there in zip(parts, has, strict=True) if there]
        rows.append(torch.tensor(np.concatenate(kept).mean(axis=0)))
    return torch.stack(rows), torch.tensor(z["in_has_labeled"]) == 1


def view(z: Any, end: str) -> dict[str, Tensor]:
    """Label, confidence, padding, shared channels and released weight of a view's pixels."""
    prototype, known = fixture_prototypes(z)
    top, label = torch.tensor(z[f"in_pred_{end}"]).softmax(dim=1).max(dim=1)
    ignored = torch.tensor(z[f"in_ignore_mask{end.removeprefix('u_w')}"])
    feature, channels = torch.tensor(z[f"in_feature_{end}"]), int(z["cfg_K"])
    shared = shared_channels(feature, prototype, label, channels)
    weight = rank_weight(shared, known[label], channels, "released")
    return {"label": label, "top": top, "ignored": ignored, "shared": shared, "weight": weight}


def test_counts_and_weights_match_the_fixture(shared: Any) -> None:
    z = np.load(shared("fixtures/rank_weight.npz"))
    weak, mixed = view(z, "u_w"), view(z, "u_w_mix")
    known = fixture_prototypes(z)[1][weak["label"]].numpy()
    assert known.any() and not known.all()
    assert np.array_equal(weak["shared"].numpy()[known], z["out_shared_count_u_w"][known])
    paper = rank_weight(weak["shared"], torch.from_numpy(known), int(z["cfg_K"]))
    assert_close(paper[torch.from_numpy(known)], z["out_weight_paper_u_w"][known], 1e-6)
    # the released code has s = 0 where ours says that the class is not known: 1 either way
    assert_close(weak["weight"], z["out_weight_released_u_w"], 1e-6)
    for number in cases(z, r"in_cutmix_box(\d+)"):
        box = torch.tensor(z[f"in_cutmix_box{number}"]) == 1
        inserted = paste(box, mixed["weight"], weak["weight"])
        assert_close(inserted, z[f"out_weight_released_s{number}"], 1e-6, number)


def test_weighted_losses_match_the_fixture(shared: Any) -> None:
    """sum(w CE [conf >= thr] [not padding]) / sum(w [not padding]), and UniMatch's total."""
    z = np.load(shared("fixtures/rank_weight.npz"))
    config = PixelWeightConfig(kind="rank_statistics", rule="released")
    width, classes = z["in_feature_u_w"].shape[1], z["in_pred_x"].shape[1]
    student: Any = SimpleNamespace(feature_dim=width)
    divisor = PixelWeight(config, student, classes).divisor
    weak, mixed = view(z, "u_w"), view(z, "u_w_mix")
    streams = {"u_w_fp": weak}
    for number in cases(z, r"in_cutmix_box(\d+)"):
        box = torch.tensor(z[f"in_cutmix_box{number}"]) == 1
        streams[f"u_s{number}"] = {key: paste(box, mixed[key], weak[key]) for key in weak}
    logits = {
        name: torch.tensor(z[f"in_pred_{name}"], requires_grad=True) for name in ("x", *streams)
    }
    losses = {}
    for name, maps in streams.items():
        valid = maps["ignored"] != IGNORE
        target = confident_label(maps["label"], maps["top"], valid, float(z["cfg_conf_thresh"]))
        seen = divisor(valid, maps["weight"])
        losses[name] = cross_entropy(logits[name], target, seen, maps["weight"])
        assert_close(losses[name], z[f"out_loss_{name}_released"], name=name)
    strong = losses["u_s1"] + losses["u_s2"]
    sup = cross_entropy(logits["x"], torch.tensor(z["in_mask_x"]))
    total = (sup + 0.25 * strong + 0.5 * losses["u_w_fp"]) / 2
    total.backward()
    assert_close(total, z["out_loss_total_released"])
    expected, pixels = z["out_grad_pred_u_s1_released"], weak["label"].numel()
    assert_close(logits["u_s1"].grad, expected, scale=0.1 / pixels)
