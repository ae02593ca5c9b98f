from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from harness.fixtures import assert_close
from u2pl import distributed
from u2pl.maps import one_hot
from u2pl.memory.class_queue import Taken
from u2pl.memory.prototypes import class_means
from u2pl.methods import pixel_contrast as contrast
from u2pl.methods.pixel_contrast import (
    PixelContrast,
    Pixels,
    RankedContrastConfig,
    pixel_rows,
    unit_rows,
)
from u2pl.pseudo.select import Candidates, select_labeled, select_unlabeled

IGNORE = 255
WIDTH = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(classes: int, **options) -> PixelContrast:
    defaults = {"anchors": 8, "negatives": 5, "queue": 20, "queue_background": 20}
    return PixelContrast(RankedContrastConfig(**{**defaults, **options}), classes, WIDTH)


def random_case(
    seed: int,
    classes: int,
    images: int = 4,
    size=(5, 7),
    anchors: float = 0.6,
    negatives: float = 0.2,
    absent=(),
):
    """Embeddings of a batch, and what each pixel may be."""
    draw = generator(seed)
    student, teacher = (torch.randn(images, WIDTH, *size, generator=draw) for _ in range(2))
    anchor = torch.randint(0, classes, (images, *size), generator=draw)
    anchor[torch.rand(anchor.shape, generator=draw) >= anchors] = IGNORE
    for c in absent:
        anchor[anchor == c] = IGNORE
    negative = torch.rand(images, classes, *size, generator=draw) < negatives
    return student, teacher, Candidates(anchor, anchor, negative)


class Spy:
    """Notes which anchors and which rows of the queue a step drew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: PixelContrast) -> None:
        self.taken: list[Taken] = []
        self.rows: list[torch.Tensor] = []
        take, draw = contrast.take_first, module.queue.draw
        monkeypatch.setattr(
            contrast, "take_first", lambda *args: self._keep(self.taken, take(*args))
        )
        monkeypatch.setattr(
            module.queue, "draw", lambda uniform: self._keep(self.rows, draw(uniform))
        )

    @staticmethod
    def _keep(box, value):
        box.append(value)
        return value

    @property
    def anchors(self) -> list[list[int]]:
        taken = self.taken[-1]
        return [
            row[:count].tolist()
            for row, count in zip(taken.index_CM, taken.count_C.tolist(), strict=True)
        ]


def slow_loss(module, student, positive, anchors, rows) -> torch.Tensor:
    """U2PL Eq 4 (or supp. Eq 1), anchor by anchor, in float64; differentiable in `student`.

    Keys are the rows as they are stored.
    """
    tau, per_class = module.config.tau, []
    flat = student.permute(0, 2, 3, 1).reshape(-1, student.shape[1])
    bank = module.queue.rows.double()
    for c, places in enumerate(anchors):
        if not places or not module.queue.filled[c] or not positive[c].any():
            continue
        losses = []
        for m, place in enumerate(places):
            anchor, center = (
                flat[place] / flat[place].norm(),
                positive[c].double() / positive[c].double().norm(),
            )
            top = torch.exp(anchor @ center / tau)
            others = torch.stack(
                [torch.exp(anchor @ bank[row] / tau) for row in rows[c, m].tolist()]
            )
            if module.config.loss == "info_nce":
                losses.append(-torch.log(top / (top + others.sum())))
            else:
                losses.append(-torch.log(top / (top + others)).mean())
        per_class.append(torch.stack(losses).mean())
    return torch.stack(per_class).mean() if per_class else flat.sum() * 0


def compare_with_loop(monkeypatch, module, case, positive, seed: int = 0) -> Spy:
    student, teacher, candidates = case
    spy, student = Spy(monkeypatch, module), student.clone().requires_grad_()
    result = module(student, teacher, candidates, positive, generator(seed))
    result.loss.backward()
    exact = student.detach().double().requires_grad_()
    slow = slow_loss(module, exact, positive, spy.anchors, spy.rows[-1])
    slow.backward()
    assert result.loss.item() == pytest.approx(slow.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(student.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    return spy


@pytest.mark.parametrize("loss", ["info_nce", "binary"])
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_and_gradient_equal_the_loop(monkeypatch, loss, classes, dtype):
    module = build(classes, loss=loss, queue_dtype=dtype)
    case = random_case(classes, classes, absent=[1] if classes > 2 else [])
    positive, _ = class_means(case[1], case[2].positive_Bhw, classes)
    spy = compare_with_loop(monkeypatch, module, case, positive)
    for c, places in enumerate(spy.anchors):
        qualified = set((case[2].anchor_Bhw.flatten() == c).nonzero().flatten().tolist())
        assert (
            len(set(places)) == len(places) == min(8, len(qualified)) and set(places) <= qualified
        )


def test_keys_are_unit_teacher_embeddings_of_this_steps_candidates_and_drawn_at_once():
    module, (student, teacher, candidates) = build(3), random_case(0, 3)
    result = module(student, teacher, candidates, torch.ones(3, WIDTH), generator())
    flat = teacher.permute(0, 2, 3, 1).reshape(-1, WIDTH).double()
    for c in range(3):
        expected = flat[candidates.negative_BChw[:, c].flatten()]
        expected = expected / expected.norm(dim=1, keepdim=True)
        start, filled = int(module.queue.start[c]), int(module.queue.filled[c])
        assert filled == min(20, len(expected)) > 0
        for row in module.queue.rows[start : start + filled].double():
            assert (expected - row).abs().amax(dim=1).min() < 1e-6
    assert result.scalars["contrast_classes"] == 3


def test_more_candidates_than_the_queue_are_sampled_without_repeats():
    module, case = build(2, queue=10, queue_background=10), random_case(1, 2, negatives=1.0)
    rows = []
    for seed in range(4):
        module(*case, torch.ones(2, WIDTH), generator(seed))
        kept = module.queue.rows[:10]
        assert len(kept.unique(dim=0)) == 10
        rows.append(kept.clone())
    assert not torch.equal(rows[0], rows[1])


def test_the_queue_remembers_steps():
    module = build(2, queue=100, queue_background=100)
    for step in range(3):
        module(*random_case(step, 2, negatives=0.1), torch.ones(2, WIDTH), generator(step))
    expected = [
        sum(
            int(random_case(step, 2, negatives=0.1)[2].negative_BChw[:, c].sum())
            for step in range(3)
        )
        for c in range(2)
    ]
    assert module.queue.filled.tolist() == expected


def test_fewer_candidates_than_anchors(monkeypatch):
    case = random_case(3, 4, anchors=0.05)
    spy = compare_with_loop(
        monkeypatch, build(4, anchors=1000), case, torch.randn(4, WIDTH, generator=generator())
    )
    assert (
        sorted(place for places in spy.anchors for place in places)
        == (case[2].anchor_Bhw.flatten() != IGNORE).nonzero().flatten().tolist()
    )


def zero_gradient(module: PixelContrast, case, positive) -> bool:
    student = case[0].clone().requires_grad_()
    result = module(student, case[1], case[2], positive, generator())
    assert result.loss.requires_grad
    result.loss.backward()
    return result.loss.item() == 0 and not student.grad.any()


def test_without_anchors_keys_or_prototypes_the_loss_is_a_connected_zero():
    ones = torch.ones(3, WIDTH)
    assert zero_gradient(build(3), random_case(0, 3, anchors=0.0), ones)
    assert zero_gradient(build(3), random_case(0, 3, negatives=0.0), ones)
    assert zero_gradient(build(3), random_case(0, 3), torch.zeros(3, WIDTH))
    assert not zero_gradient(build(3), random_case(0, 3), ones)


def test_a_class_without_keys_or_prototype_is_left_out_of_the_mean(monkeypatch):
    student, teacher, candidates = random_case(4, 4)
    candidates.negative_BChw[:, 1] = False
    positive = torch.randn(4, WIDTH, generator=generator())
    positive[2] = 0
    compare_with_loop(monkeypatch, build(4), (student, teacher, candidates), positive)
    count = build(4)(student, teacher, candidates, positive, generator()).scalars[
        "contrast_classes"
    ]
    assert count == 2


def test_ignored_pixels_have_neither_influence_nor_gradient():
    student, teacher, candidates = random_case(5, 3, anchors=0.3, negatives=0.1)
    unused = candidates.anchor_Bhw.eq(IGNORE).unsqueeze(1)
    no_key = ~candidates.negative_BChw.any(dim=1, keepdim=True)
    assert unused.any() and no_key.any()
    positive = torch.randn(3, WIDTH, generator=generator())
    plain = build(3)(student, teacher, candidates, positive, generator()).loss
    changed = torch.where(unused, torch.tensor(77.0), student).requires_grad_()
    other = build(3)(
        changed, torch.where(no_key, torch.tensor(-5.0), teacher), candidates, positive, generator()
    ).loss
    other.backward()
    assert other == plain
    assert not changed.grad[unused.expand_as(changed)].any()


def test_only_the_students_anchors_get_a_gradient():
    student, teacher, candidates = random_case(6, 3)
    positive = torch.randn(3, WIDTH, requires_grad=True)
    student.requires_grad_()
    teacher.requires_grad_()
    build(3)(student, teacher, candidates, positive.detach(), generator()).loss.backward()
    assert student.grad.any() and teacher.grad is None


@pytest.mark.parametrize("loss", ["info_nce", "binary"])
@pytest.mark.parametrize("absent", [(), (0,), (2, 4)])
def test_a_permutation_of_the_classes_changes_nothing(monkeypatch, loss, absent):
    """The released code looks features up by a class's place among the classes that are present.

    With absent classes that is another class's place.
    """
    classes, order = 6, torch.tensor([4, 2, 0, 5, 1, 3])
    table = torch.full((256,), IGNORE)
    table[order] = torch.arange(classes)
    plain, renamed = build(classes, loss=loss), build(classes, loss=loss)
    draw = renamed.queue.draw  # the same numbers for the same class under its new name
    monkeypatch.setattr(renamed.queue, "draw", lambda uniform: draw(uniform[order]))
    for step in range(3):
        student, teacher, candidates = random_case(step, classes, absent=absent)
        positive, _ = class_means(teacher, candidates.positive_Bhw, classes)
        moved = Candidates(
            table[candidates.anchor_Bhw],
            table[candidates.positive_Bhw],
            candidates.negative_BChw[:, order],
        )
        first, second = student.clone().requires_grad_(), student.clone().requires_grad_()
        a = plain(first, teacher, candidates, positive, generator(step))
        b = renamed(second, teacher, moved, positive[order], generator(step))
        a.loss.backward()
        b.loss.backward()
        torch.testing.assert_close(b.loss, a.loss)
        torch.testing.assert_close(second.grad, first.grad)
        for name in ("anchors", "negatives", "queue_fill"):
            assert torch.equal(b.scalars[name], a.scalars[name][order])


def test_the_step_depends_on_its_generator_alone():
    case, positive = random_case(7, 3), torch.ones(3, WIDTH)
    losses = [build(3)(*case, positive, generator(seed)).loss.item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_a_checkpoint_brings_the_contrast_back():
    module, other = build(3), build(3)
    for step in range(4):
        module(*random_case(step, 3), torch.ones(3, WIDTH), generator(step))
    other.load_state_dict(module.state_dict())
    losses = [
        each(*random_case(9, 3), torch.ones(3, WIDTH), generator(9)).loss
        for each in (module, other)
    ]
    assert losses[0] == losses[1]


def test_autocast_does_not_lower_the_precision():
    case, positive = random_case(8, 3), torch.randn(3, WIDTH, generator=generator())
    plain = build(3)(*case, positive, generator()).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert build(3)(*case, positive, generator()).loss == plain


def test_two_processes_score_like_one(twins, monkeypatch):
    """Both take half of the labelled and half of the unlabelled images.

    Queues, draws and the averaged gradient are those of a single process.
    """
    classes, whole = 4, build(4)
    halves = [build(4), build(4)]
    parts = [torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3, 6, 7])]
    for step in range(2):
        student, teacher, candidates = random_case(step, classes, images=8, anchors=0.2)
        candidates.anchor_Bhw[parts[0]] = torch.where(
            candidates.anchor_Bhw[parts[0]] == 2, IGNORE, candidates.anchor_Bhw[parts[0]]
        )
        positive, _ = class_means(teacher, candidates.positive_Bhw, classes)
        full = student.clone().requires_grad_()
        one = whole(full, teacher, candidates, positive, generator(step))
        one.loss.backward()
        leaves = [student[part].clone().requires_grad_() for part in parts]

        def score(
            rank: int,
            step=step,
            leaves=leaves,
            teacher=teacher,
            candidates=candidates,
            positive=positive,
        ):
            mine = Candidates(*(value[parts[rank]] for value in candidates))
            return halves[rank](leaves[rank], teacher[parts[rank]], mine, positive, generator(step))

        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            for name in ("rank", "gather", "total"):
                patch.setattr(distributed, name, getattr(twins, name))
            two = twins.run(score)
        torch.testing.assert_close((two[0].loss + two[1].loss) / 2, one.loss)
        for part, leaf, result in zip(parts, leaves, two, strict=True):
            result.loss.backward()
            torch.testing.assert_close(leaf.grad / 2, full.grad[part])
            assert torch.equal(result.scalars["anchors"], one.scalars["anchors"])
        for half in halves:
            assert torch.equal(half.queue.rows[:-1], whole.queue.rows[:-1]) and torch.equal(
                half.queue.filled, whole.queue.filled
            )


@pytest.mark.parametrize("case", ["A", "B"])
def test_the_whole_contrast_matches_the_fixture(shared, monkeypatch, case):
    z = np.load(shared("fixtures/contrast.npz"))
    prob, split, classes = (
        torch.tensor(z["in_prob_teacher"]),
        int(z["cfg_num_labeled"]),
        z["in_bank"].shape[0],
    )
    label_l, label_u = torch.tensor(z["in_label_l"]), torch.tensor(z["in_label_u"])
    low, high = (torch.tensor(z[f"in_{name}_mask"]).squeeze(1) == 1 for name in ("low", "high"))
    student, teacher = (
        torch.tensor(z["in_rep_student"], requires_grad=True),
        torch.tensor(z["in_rep_teacher"]),
    )
    length = z["in_bank"].shape[1]
    config = RankedContrastConfig(
        anchors=int(z["cfg_num_anchors"]),
        negatives=int(z["cfg_num_negatives"]),
        tau=float(z["cfg_temperature"]),
        queue=length,
        queue_background=length,
    )
    module = PixelContrast(config, classes, student.shape[1])
    bank = torch.nn.functional.normalize(torch.tensor(z["in_bank"]), dim=2)
    module.queue.rows[:-1] = bank.flatten(0, 1)
    module.queue.filled.fill_(length)

    delta_p, r_l, r_h = (z[f"cfg_{name}"].item() for name in ("delta_p", "low_rank", "high_rank"))
    labeled = select_labeled(prob[:split], torch.where(low[:split], label_l, IGNORE), r_l, delta_p)
    pushes = f"out_{case}_bank_after" in z
    pushed = high[split:] if pushes else torch.zeros_like(high[split:])
    unlabeled = select_unlabeled(prob[split:], label_u, low[split:], pushed, r_l, r_h, delta_p)
    released = Candidates(
        torch.cat([labeled.anchor_Bhw, unlabeled.anchor_Bhw]),
        torch.where(low, torch.cat([label_l, label_u]), IGNORE),
        torch.cat(
            [
                torch.zeros_like(labeled.negative_BChw),
                unlabeled.negative_BChw & one_hot(label_u, classes),
            ]
        ),
    )
    positive, _ = class_means(teacher, released.positive_Bhw, classes)
    assert_close(positive, z["out_A_prototypes"])
    by_class = one_hot(released.positive_Bhw, classes).transpose(0, 1)
    assert np.array_equal(by_class.numpy(), z["out_A_positive_mask"] == 1)

    def last_keys(member: torch.Tensor, limit: int, order: torch.Tensor) -> Taken:
        """As they stand; the released bank keeps the last of more than it holds."""
        rows = [row.nonzero().squeeze(1)[-limit:] for row in member]
        index = pad_sequence(rows, batch_first=True)
        return Taken(index, torch.tensor([len(row) for row in rows]))

    def given_anchors(member: torch.Tensor, limit: int, order: torch.Tensor) -> Taken:
        rows = [
            row.nonzero().squeeze(1)[torch.tensor(chosen)]
            for row, chosen in zip(member, z[f"in_{case}_anchor_idx"], strict=True)
        ]
        return Taken(torch.stack(rows), torch.full((classes,), limit))

    takes = iter([last_keys, given_anchors])

    def given_rows(_: torch.Tensor) -> torch.Tensor:
        """The fixture counts a bank's rows from the oldest."""
        index = torch.tensor(z[f"in_{case}_negative_idx"])
        head, start = module.queue.head.view(-1, 1, 1), module.queue.start.view(-1, 1, 1)
        return start + (head + index) % length

    monkeypatch.setattr(contrast, "take_first", lambda *given: next(takes)(*given))
    monkeypatch.setattr(module.queue, "draw", given_rows)
    result = module(student, teacher, released, positive, generator())
    result.loss.backward()
    assert_close(result.loss, z[f"out_{case}_loss"], scale=1)
    assert_close(student.grad, z[f"out_{case}_grad_rep"])
    if pushes:
        new = z[f"out_{case}_keys_count"].clip(max=length)
        assert result.scalars["negatives"].tolist() == new.tolist()
        after = torch.nn.functional.normalize(torch.tensor(z[f"out_{case}_bank_after"]), dim=2)
        for c in range(classes):
            rows = module.queue.rows[c * length : (c + 1) * length].roll(
                -int(module.queue.head[c]), dims=0
            )
            torch.testing.assert_close(rows, after[c], rtol=0, atol=1e-6)


def test_pixels_are_numbered_the_same_on_any_number_of_processes(twins, monkeypatch):
    marks = torch.arange(2 * 4 * 6).view(
        1, -1
    )  # 2 groups of 4 images of 6 pixels, numbered as one process sees them
    images = marks.view(8, 6)
    parts = [[0, 1, 4, 5], [2, 3, 6, 7]]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", twins.rank)
    monkeypatch.setattr(distributed, "gather", twins.gather)
    pixels = Pixels(groups=2, images=2, area=6)

    def look(rank: int):
        own = images[parts[rank]].reshape(1, -1)
        return pixels.gather(own), own[0], pixels.local(marks[0])

    results = twins.run(look)
    for joined, own, (local, mine) in results:
        assert torch.equal(joined, marks)
        assert torch.equal(own[local[mine]], marks[0][mine])
        assert not local[~mine].any()
    assert torch.equal(results[0][2][1], ~results[1][2][1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 1), (1, 1, 3, 5)])
def test_unit_rows_leave_their_input_alone(layout, dtype, shape):
    embed = torch.randn(shape, generator=generator()).to(dtype).to(memory_format=layout)
    before, rows = embed.clone(), unit_rows(embed)
    assert torch.equal(embed, before) and rows.dtype == torch.float32
    for n, (b, i, j) in enumerate(np.ndindex(shape[0], *shape[2:])):
        vector = embed[b, :, i, j].double()
        assert rows[n].tolist() == pytest.approx(
            (vector / vector.norm()).tolist(), rel=1e-5, abs=1e-7
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixel_rows_and_their_gradient(layout):
    embed = (
        torch.randn(2, 6, 3, 5, generator=generator(), dtype=torch.float64)
        .to(memory_format=layout)
        .requires_grad_()
    )
    index = torch.tensor([0, 29, 14, 15, 7, 7])
    rows = pixel_rows(embed, index)
    for row, n in zip(rows, index.tolist(), strict=True):
        assert torch.equal(row, embed[n // 15, :, n % 15 // 5, n % 5])
    assert torch.autograd.gradcheck(lambda e: pixel_rows(e, index), [embed])


def test_defaults_are_the_papers():
    config = RankedContrastConfig()
    assert (
        config.anchors,
        config.negatives,
        config.tau,
        config.delta_p,
        config.r_l,
        config.r_h,
    ) == (256, 50, 0.5, 0.3, 3, 20)
    assert config.queue_lengths(3) == [50_000, 30_000, 30_000]


def test_few_classes_are_clamped_and_said_so():
    config = RankedContrastConfig()
    assert config.thresholds(21)[:2] == (3, 20) and config.notes(21) == []
    assert config.thresholds(2)[:2] == (1, 2) and config.thresholds(3)[:2] == (1, 3)
    (note,) = config.notes(2)
    assert [int(number) for number in re.findall(r"\d+", note)] == [2, 3, 20, 1, 2]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_queue_memory_is_that_of_its_keys(dtype, size):
    config = RankedContrastConfig(queue=7, queue_background=11, queue_dtype=dtype)
    queue = PixelContrast(config, 3, WIDTH).queue
    assert queue.capacity == 25 and queue.nbytes == 25 * WIDTH * size
    assert queue.rows.nbytes == queue.nbytes + WIDTH * size  # one spare row


def test_perfect_embeddings_reach_the_least_loss_that_tau_allows():
    classes, module = 2, build(2, tau=0.5)
    anchor = torch.zeros(2, 1, 4, dtype=torch.int64)
    negative = one_hot(torch.ones(2, 1, 4, dtype=torch.int64), classes)
    negative[:, 0] = True
    student = torch.zeros(2, WIDTH, 1, 4)
    student[:, 0] = 3.0
    positive = torch.zeros(classes, WIDTH)
    positive[0, 0] = 5.0
    result = module(student, -student, Candidates(anchor, anchor, negative), positive, generator())
    assert result.loss.item() == pytest.approx(math.log(1 + 5 * math.exp(-4)), rel=1e-5)
