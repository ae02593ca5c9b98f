"""Weights of pseudo-labels against plain python memories of the classes' features."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.fixtures import assert_close
from u2pl.methods import pixel_weight
from u2pl.methods.batches import PairBatch
from u2pl.methods.pixel_weight import Looks, PixelWeight, PixelWeightConfig
from u2pl.networks.segmentor import SegOutput

IGNORE = 255
CLASSES, WIDTH = 4, 12
SMALL, SIZE = (4, 5), (15, 18)  # of features, of images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(**options: Any) -> PixelWeight:
    defaults = {"kind": "rank_statistics", "channels": 4, "confidence": 0.5, "memory": 7, "new": 3}
    student: Any = SimpleNamespace(feature_dim=WIDTH)
    return PixelWeight(PixelWeightConfig(**{**defaults, **options}), student, CLASSES)


def case(seed: int, images: int = 2, boxes: int = 2) -> tuple[Looks, PairBatch, Tensor]:
    """Outputs, a batch and pseudo-labels; most labels are what is predicted, none is class 3."""
    draw = generator(seed)
    outputs = []
    for _ in range(2):
        logits = torch.randn(images, CLASSES, *SMALL, generator=draw) * 2
        outputs.append(
            SegOutput(logits, feature=torch.randn(images, WIDTH, *SMALL, generator=draw))
        )
    maps = []
    for output in outputs:
        seen = output.logits.argmax(dim=1).repeat_interleave(4, 1).repeat_interleave(4, 2)
        seen = seen[:, : SIZE[0], : SIZE[1]]
        other = torch.randint(0, CLASSES, seen.shape, generator=draw)
        maps.append(torch.where(torch.rand(seen.shape, generator=draw) < 0.7, seen, other))
    label_l, label_u = maps
    label_l[label_l == 3] = IGNORE
    label_l[torch.rand(label_l.shape, generator=draw) < 0.1] = IGNORE
    box = torch.zeros(images, boxes, 5, dtype=torch.int64)
    box[..., 0] = torch.randint(-1, CLASSES, (images, boxes), generator=draw)
    box[..., 1:3] = torch.randint(0, 6, (images, boxes, 2), generator=draw)
    box[..., 3:] = box[..., 1:3] + torch.randint(5, 12, (images, boxes, 2), generator=draw)
    batch = PairBatch(
        torch.zeros(images, 3, *SIZE, dtype=torch.uint8),
        label_l.to(torch.uint8),
        torch.zeros(images, 3, *SIZE, dtype=torch.uint8),
        torch.rand(images, *SIZE, generator=draw) < 0.9,
        torch.randint(0, CLASSES, (images, *SIZE), generator=draw).to(torch.uint8),
        box,
    )
    return Looks(*outputs), batch, label_u


def centre(i: int, j: int) -> tuple[int, int]:
    """The pixel whose label speaks for a feature."""
    return min(4 * i + 2, SIZE[0] - 1), min(4 * j + 2, SIZE[1] - 1)


def entrants(
    looks: Looks, batch: PairBatch, label_u: Tensor, least: float = 0.5
) -> tuple[list[list[int]], list[list[int]]]:
    """Places of each class's sure labelled features, and of the unlabelled ones inside boxes."""
    found: tuple[list[list[int]], list[list[int]]] = tuple(
        [[] for _ in range(CLASSES)] for _ in range(2)
    )  # type: ignore[assignment]
    for kind, output in enumerate(looks):
        prob = output.logits.double().softmax(dim=1)
        for place, (b, i, j) in enumerate(np.ndindex(len(prob), *SMALL)):
            row, column = centre(i, j)
            if kind == 0:
                c = int(batch.label_l[b, row, column])
                inside = c != IGNORE
            else:
                c = int(label_u[b, row, column])
                inside = bool(batch.valid_u[b, row, column]) and any(
                    k == c and top <= row < bottom and left <= column < right
                    for k, top, left, bottom, right in batch.boxes_u[b].tolist()
                )
            values = prob[b, :, i, j].tolist()
            if inside and values.index(max(values)) == c and max(values) > least:
                found[kind][c].append(place)
    return found


class Memory:
    """FIFO lists of features, of what a spy saw being taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, length: int = 7) -> None:
        self.kept = [[deque(maxlen=length) for _ in range(CLASSES)] for _ in range(2)]
        self.taken: list[Any] = []
        take = pixel_weight.take_first

        def taking(*args: Any) -> Any:
            self.taken.append(take(*args))
            return self.taken[-1]

        monkeypatch.setattr(pixel_weight, "take_first", taking)

    def follow(self, looks: Looks, members: tuple[list[list[int]], list[list[int]]]) -> None:
        """Add what was taken in the last step: up to three features of those that may enter."""
        for kind, (output, taken) in enumerate(zip(looks, self.taken, strict=False)):
            rows = output.feature.permute(0, 2, 3, 1).reshape(-1, WIDTH).double()
            for c, may in enumerate(members[kind]):
                places = taken.index_CM[c, : taken.count_C[c]].tolist()
                assert len(places) == len(set(places)) == min(3, len(may))
                assert set(places) <= set(may)
                self.kept[kind][c].extend(rows[place] for place in places)
        self.taken.clear()

    def prototypes(self) -> tuple[Tensor, list[bool]]:
        both = [[*ours, *others] for ours, others in zip(*self.kept, strict=True)]
        means = [
            torch.stack(rows).mean(0) if rows else torch.zeros(WIDTH).double() for rows in both
        ]
        return torch.stack(means), [bool(rows) for rows in self.kept[0]]


@pytest.mark.parametrize("boxes", [0, 3])
@pytest.mark.parametrize("rule", ["paper", "released"])
def test_prototypes_and_weights_equal_those_of_plain_lists(
    rule: str, boxes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weigh, memory = build(rule=rule), Memory(monkeypatch)
    for step in range(6):
        looks, batch, label_u = case(step, boxes=boxes)
        found = weigh(looks, batch, label_u, generator(step))
        assert len(memory.taken) == (2 if boxes else 1)
        memory.follow(looks, entrants(looks, batch, label_u))
        expected, known = memory.prototypes()
        prototype, known_C = weigh.prototypes()
        torch.testing.assert_close(prototype.double(), expected, rtol=1e-5, atol=1e-6)
        assert known_C.tolist() == known == [True, True, True, False]
        weight = found.weight_BHW
        assert weight is not None and weight.shape == label_u.shape
        for b, i, j in np.ndindex(*label_u.shape):
            c = int(label_u[b, i, j])
            feature = looks.clean.feature[b, :, i // 4, j // 4]
            own, theirs = (
                set(values.argsort(descending=True)[:4].tolist())
                for values in (feature, expected[c])
            )
            share = len(own & theirs) / 4
            value = 1.0 if not known[c] else share if rule == "paper" else 1 + share
            assert weight[b, i, j].item() == pytest.approx(value)
    assert weigh.labeled.filled[:3].tolist() == [7, 7, 7]  # so the oldest were dropped
    assert weigh.unlabeled.filled.any() == bool(boxes)


def test_a_class_without_labelled_features_weighs_1_however_many_unlabelled_ones_it_has() -> None:
    weigh = build(confidence=0.0, memory=100, new=100)
    looks, batch, label_u = case(0)
    batch = batch._replace(boxes_u=torch.tensor([[[3, 0, 0, *SIZE]]] * 2))
    weight = weigh(looks, batch, label_u, generator()).weight_BHW
    assert weight is not None
    assert weigh.unlabeled.filled[3] > 3 and weigh.labeled.filled[3] == 0
    assert (weight[label_u == 3] == 1).all()
    assert len(weight[label_u != 3].unique()) > 2


def stored(weigh: PixelWeight, unlabeled: bool, c: int) -> list[int]:
    """The places of the features that a class holds, if each feature is its place."""
    queue = weigh.unlabeled if unlabeled else weigh.labeled
    start, filled = int(queue.start[c]), int(queue.filled[c])
    return sorted(int(row[0]) for row in queue.rows[start : start + filled])


def numbered(looks: Looks) -> Looks:
    """Each feature is its place in the batch."""
    images = len(looks.clean.logits)
    place = torch.arange(float(images * SMALL[0] * SMALL[1])).view(images, 1, *SMALL)
    feature = place.expand(-1, WIDTH, -1, -1)
    return Looks(*(output._replace(feature=feature) for output in looks if output is not None))


@pytest.mark.parametrize("least", [0.0, 0.5, 0.9])
def test_all_labelled_pixels_that_are_surely_right_enter_and_no_other(least: float) -> None:
    weigh = build(confidence=least, memory=100, new=100)
    looks, batch, label_u = case(1, boxes=3)
    weigh(numbered(looks), batch, label_u, generator())
    ours, others = entrants(looks, batch, label_u, least)
    for c in range(CLASSES):
        assert stored(weigh, False, c) == ours[c]
        assert stored(weigh, True, c) == others[c]
    assert any(ours) and (any(others) or least == 0.9)


@pytest.mark.parametrize(
    ("boxes", "rows"),
    [
        ([[0, 0, 0, *SIZE]], 4),
        ([[0, 0, 0, 8, SIZE[1]]], 2),  # up to the centres 2 and 6
        ([[1, 0, 0, *SIZE]], 0),
        ([[-1, 0, 0, *SIZE]], 0),
        ([[0, 0, 0, 2, SIZE[1]], [1, 0, 0, *SIZE], [0, 3, 0, 6, SIZE[1]]], 0),  # no centre
    ],
)
def test_pixels_enter_by_a_box_of_their_class_around_them(
    boxes: list[list[int]], rows: int
) -> None:
    weigh = build(memory=100, new=100)
    looks, batch, label_u = case(2)
    sure = torch.tensor([9.0, 0, 0, 0]).view(1, CLASSES, 1, 1).expand(2, CLASSES, *SMALL)
    looks = numbered(Looks(looks.labeled, looks.clean._replace(logits=sure)))
    batch = batch._replace(
        boxes_u=torch.tensor([boxes, [[-1, 0, 0, 0, 0]] * len(boxes)]),
        valid_u=torch.ones_like(batch.valid_u),
    )
    weigh(looks, batch, torch.zeros_like(label_u), generator())
    assert stored(weigh, True, 0) == list(range(rows * SMALL[1]))
    assert weigh.unlabeled.filled[1:].tolist() == [0, 0, 0]


def test_padding_does_not_enter_by_a_box() -> None:
    weigh = build(confidence=0.0, memory=100, new=100)
    looks, batch, label_u = case(3)
    everything = torch.tensor([[[c, 0, 0, *SIZE] for c in range(CLASSES)]] * 2)
    batch = batch._replace(boxes_u=everything, valid_u=torch.zeros_like(batch.valid_u))
    weigh(looks, batch, label_u, generator())
    assert not weigh.unlabeled.filled.any()


class Network(torch.nn.Module):
    """Returns the images as logits and features, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, dict[str, Any]]] = []

    def forward(self, image: Tensor, **options: Any) -> SegOutput:
        self.calls.append((image, options))
        return SegOutput(image.float(), feature=image.float() + 1)


def test_without_weights_nothing_is_held_and_labelled_images_are_not_looked_at() -> None:
    weigh, network, batch = build(kind="none"), Network(), case(0)[1]
    batch = batch._replace(image_u=batch.image_u + 1)
    looks = weigh.looks(network, batch, embed=False)
    (image, options), *more = network.calls
    assert torch.equal(image, batch.image_u) and options == {"embed": False} and not more
    assert looks.labeled is None and torch.equal(looks.clean.logits, batch.image_u.float())
    weight, scalars = weigh(looks, batch, torch.zeros(2, *SIZE).long(), generator())
    assert weight is None and scalars == {}
    assert not weigh.active and not weigh.state_dict() and not list(weigh.buffers())


def test_labelled_and_clean_images_are_looked_at_together() -> None:
    weigh, network, batch = build(), Network(), case(0)[1]
    batch = batch._replace(image_u=batch.image_u + 1)
    looks = weigh.looks(network, batch, embed=True)
    (image, options), *more = network.calls
    assert torch.equal(image, torch.cat([batch.image_l, batch.image_u])) and not more
    assert options == {"embed": True} and looks.labeled is not None
    for output, own in ((looks.labeled, batch.image_l), (looks.clean, batch.image_u)):
        assert torch.equal(output.logits, own.float())
        assert output.feature is not None and torch.equal(output.feature, own.float() + 1)


def test_the_divisor_is_the_number_of_pixels_or_the_sum_of_their_weights() -> None:
    counted = torch.tensor([[[True, True, False, True]]])
    own, weight = counted * 0.5, torch.tensor([[[0.2, 1.0, 0.7, 0.4]]])
    for rule, number, half in (("paper", 3.0, 1.5), ("released", 1.6, 0.8)):
        weigh = build(rule=rule)
        assert weigh.divisor(counted, weight).item() == pytest.approx(number)
        assert weigh.divisor(own, weight).item() == pytest.approx(half)
        assert weigh.divisor(counted, None).item() == 3


def test_the_divisor_is_the_mean_over_processes(request: pytest.FixtureRequest) -> None:
    twins, weigh = request.getfixturevalue("connected"), build(rule="released")
    counted, weight = torch.tensor([[True, True], [False, True]]), torch.tensor([0.5, 2.0])
    for divided, expected in ((weight, (2.5 + 2.0) / 2), (None, 1.5)):
        found = twins.run(lambda rank, w=divided: weigh.divisor(counted[rank], w).item())
        assert found == pytest.approx([expected, expected])


def test_what_is_logged_is_the_mean_weight_and_how_right_sure_pixels_are() -> None:
    weigh = build(new=100)
    looks, batch, label_u = case(4, boxes=3)
    batch.truth_u[:, :3] = IGNORE
    weight, scalars = weigh(looks, batch, label_u, generator())
    assert weight is not None
    kinds: dict[str, list[float]] = {"all": [], "right": [], "wrong": []}
    for place in np.ndindex(*label_u.shape):
        truth, value = int(batch.truth_u[place]), weight[place].item()
        if batch.valid_u[place]:
            kinds["all"].append(value)
            if truth != IGNORE:
                kinds["right" if truth == label_u[place] else "wrong"].append(value)
    for name, values in kinds.items():
        assert scalars[f"weight/{name}"].item() == pytest.approx(np.mean(values), rel=1e-5)
    everywhere = torch.tensor([[[c, 0, 0, *SIZE] for c in range(CLASSES)]] * 2)
    hits = {}
    for name, boxes in (("sure", everywhere), ("in_boxes", batch.boxes_u)):
        _, places = entrants(looks, batch._replace(boxes_u=boxes), label_u)
        hits[name] = []
        for c, own in enumerate(places):
            for place in own:
                b, i, j = np.unravel_index(place, (2, *SMALL))
                hits[name].append((c, int(batch.truth_u[(b, *centre(i, j))])))
        known = [c == truth for c, truth in hits[name] if truth != IGNORE]
        assert scalars[f"accuracy/{name}"].item() == pytest.approx(np.mean(known))
    share = len(hits["in_boxes"]) / len(hits["sure"])
    assert 0 < share < 1 and scalars["agreeing_share"].item() == pytest.approx(share)
    fill = sum(min(len(own), 7) for own in entrants(looks, batch, label_u)[0]) / (7 * CLASSES)
    assert scalars["memory_fill"].item() == pytest.approx(fill)


def test_the_memory_is_state_and_carries_no_gradient() -> None:
    weigh, other = build(), build()
    looks, batch, label_u = case(0)
    assert looks.labeled is not None
    looks.labeled.feature.requires_grad_()  # type: ignore[union-attr]
    weigh(looks, batch, label_u, generator())
    assert not weigh.prototypes()[0].requires_grad
    other.load_state_dict(weigh.state_dict())
    first, second = (each(*case(1), generator(1)) for each in (weigh, other))
    assert first.weight_BHW is not None and second.weight_BHW is not None
    assert torch.equal(first.weight_BHW, second.weight_BHW)
    for one, two in zip(weigh.prototypes(), other.prototypes(), strict=True):
        assert torch.equal(one, two)
    assert weigh.unlabeled.filled.any()


@pytest.mark.parametrize("boxes", [0, 3])
def test_two_processes_hold_the_memory_of_one(boxes: int, request: pytest.FixtureRequest) -> None:
    whole, halves = build(), [build(), build()]
    steps = [case(step, images=4, boxes=boxes) for step in range(4)]
    expected = [whole(*step, generator(place)) for place, step in enumerate(steps)]
    twins = request.getfixturevalue("connected")

    def half(rank: int) -> list[Any]:
        mine, found = slice(2 * rank, 2 * rank + 2), []
        for place, (looks, batch, label_u) in enumerate(steps):
            own = (
                SegOutput(each.logits[mine], feature=each.feature[mine])  # type: ignore[index]
                for each in looks
                if each is not None
            )
            part = PairBatch(*(each[mine] for each in batch))
            found.append(halves[rank](Looks(*own), part, label_u[mine], generator(place)))
        return found

    first, second = twins.run(half)
    for one, two, both in zip(first, second, expected, strict=True):
        assert torch.equal(torch.cat([one.weight_BHW, two.weight_BHW]), both.weight_BHW)
        assert one.scalars.keys() == both.scalars.keys()
        for name, value in both.scalars.items():
            for mine in (one, two):
                assert mine.scalars[name].item() == pytest.approx(value.item(), nan_ok=True), name
    for each in halves:
        for kind in ("labeled", "unlabeled"):
            ours, theirs = getattr(each, kind), getattr(whole, kind)
            assert torch.equal(ours.rows[:-1], theirs.rows[:-1])
            assert torch.equal(ours.filled, theirs.filled) and torch.equal(ours.head, theirs.head)


def test_prototypes_match_the_fixture(shared: Any) -> None:
    """Of the classes with labelled memory, of which alone the prototypes are used."""
    z = np.load(shared("fixtures/rank_weight.npz"))
    memories = {kind: torch.tensor(z[f"in_memory_{kind}"]) for kind in ("labeled", "unlabeled")}
    classes, _, width = memories["labeled"].shape
    student: Any = SimpleNamespace(feature_dim=width)
    config = PixelWeightConfig(kind="rank_statistics", memory=10)
    weigh = PixelWeight(config, student, classes)
    for kind, rows in memories.items():
        queue, there = getattr(weigh, kind), torch.tensor(z[f"in_has_{kind}"])
        table = torch.zeros(classes, 10, width)
        table[:, : rows.shape[1]] = rows * there.view(-1, 1, 1)
        queue.rows[:-1] = table.flatten(0, 1)
        queue.filled.copy_(there * rows.shape[1])
    prototype, known = weigh.prototypes()
    assert known.tolist() == (z["in_has_labeled"] == 1).tolist()
    assert_close(prototype[known], z["out_prototypes"][known.numpy()])
