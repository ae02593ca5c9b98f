from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from u2pl import distributed
from u2pl.maps import upsample
from u2pl.memory.class_queue import ClassQueue
from u2pl.memory.teacher import AverageConfig, Teacher
from u2pl.methods.method import (
    LabeledMethod,
    LabeledMethodConfig,
    Method,
    MethodConfig,
    label_accuracy,
    partition_scalars,
)
from u2pl.methods.pixel_contrast import ContrastConfig, PixelContrast, RankedContrastConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.methods.supervised_loss import SupervisedConfig
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.pseudo.partition import Partition
from u2pl.schedules import Progress

IGNORE = 255


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4, ceil_mode=True)
        self.head = nn.Conv2d(3, 5, 1)
        self.embedder = nn.Conv2d(3, 2, 1)

    def forward(self, image, embed: bool = True):
        small = self.pool(image.float() / 255)
        return SegOutput(self.head(small), self.embedder(small) if embed else None)


class Supervised(LabeledMethod):
    """Takes supervised steps alone."""

    def forward(self, batch, progress: Progress) -> StepResult:
        return self.supervised_step(*batch)


def make(loss: str = "cross_entropy", **options) -> LabeledMethod:
    torch.manual_seed(0)
    supervised = SupervisedConfig(loss=loss, **options)
    return Supervised(LabeledMethodConfig(supervised=supervised), Student(), 5)


def random_batch(seed: int = 0, batch: int = 2, size=(13, 18)):
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (batch, *size), generator=draw, dtype=torch.uint8)
    label[:, :, -4:] = IGNORE
    return torch.randint(0, 256, (batch, 3, *size), generator=draw, dtype=torch.uint8), label


def random_output(seed: int = 1) -> SegOutput:
    """Of two labelled images and two others."""
    draw = torch.Generator().manual_seed(seed)
    return SegOutput(torch.randn(4, 5, 4, 5, generator=draw) * 2)


def slow_loss(logits, label, keep=lambda p: True) -> float:
    costs = [
        -math.log(p)
        for b, i, j in (label != IGNORE).nonzero().tolist()
        if keep(p := logits[b, :, i, j].double().softmax(0)[label[b, i, j].item()].item())
    ]
    return sum(costs) / len(costs)


def test_supervised_loss_is_the_mean_over_labelled_pixels():
    _, label = random_batch()
    output = random_output()
    logits = upsample(output.logits[:2], (13, 18))  # those of the images that follow do not count
    assert make().supervised_loss(output, label).item() == pytest.approx(
        slow_loss(logits, label), rel=1e-5
    )


def test_ohem_is_the_mean_over_hard_pixels():
    _, label = random_batch()
    output = random_output()
    method = make("ohem", ohem_threshold=0.2, ohem_min_kept=10)
    assert method.supervised_loss(output, label).item() == pytest.approx(
        slow_loss(upsample(output.logits[:2], (13, 18)), label, lambda p: p <= 0.2), rel=1e-5
    )


def test_the_auxiliary_classifier_has_the_same_loss_at_its_weight():
    _, label = random_batch()
    output, other = random_output(), random_output(seed=2).logits
    found = make(auxiliary=0.25).supervised_loss(output._replace(auxiliary=other), label)
    main, second = (
        slow_loss(upsample(logits[:2], (13, 18)), label) for logits in (output.logits, other)
    )
    assert found.item() == pytest.approx(main + 0.25 * second, rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_a_supervised_step_reaches_every_parameter(loss):
    """Also those it has no use for: processes wait for the gradient of each."""
    method = make(loss)
    result = method.supervised_step(*random_batch())
    result.loss.backward()
    assert torch.isfinite(result.loss) and result.scalars["loss/sup"] == result.loss.detach()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.student.head.weight.grad.any() and not method.student.embedder.weight.grad.any()


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_a_step_without_labels_is_a_connected_zero(loss):
    method = make(loss)
    image, label = random_batch()
    result = method.supervised_step(image, torch.full_like(label, IGNORE))
    result.loss.backward()
    assert result.loss.item() == 0
    assert not any(parameter.grad.any() for parameter in method.parameters())


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_two_processes_have_the_gradient_of_one(loss, twins, monkeypatch):
    image, label = random_batch(batch=4)
    label[:2, 3:] = IGNORE
    whole = make(loss, ohem_threshold=0.1, ohem_min_kept=200)
    whole.supervised_step(image, label).loss.backward()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "total", twins.total)
    monkeypatch.setattr(distributed, "gather", twins.gather)
    halves = [make(loss, ohem_threshold=0.1, ohem_min_kept=200) for _ in range(2)]

    def step(rank: int) -> None:
        halves[rank].supervised_step(
            image[2 * rank : 2 * rank + 2], label[2 * rank : 2 * rank + 2]
        ).loss.backward()

    twins.run(step)
    for a, b, both in zip(
        halves[0].parameters(), halves[1].parameters(), whole.parameters(), strict=True
    ):
        torch.testing.assert_close((a.grad + b.grad) / 2, both.grad)


def test_a_method_is_its_student_unless_it_says_more():
    method = make()
    assert list(method.networks()) == ["student"] and method.networks()["student"] is method.student
    assert method.notes() == method.queues() == []
    assert method.device == torch.device("cpu")


def test_label_accuracy_counts_where_a_truth_is_known():
    label, truth = (
        torch.tensor([[[0, 1, 2, 3]]]),
        torch.tensor([[[0, 2, 255, 3]]], dtype=torch.uint8),
    )
    where = torch.tensor([[[True, True, True, False]]])
    assert label_accuracy(label, truth, where).item() == 0.5
    assert label_accuracy(label, torch.full_like(truth, 255), where).isnan()


def test_partition_scalars_leave_out_ignored_pixels():
    label = torch.tensor([[[0, 1, 2, 255]]])
    reliable = torch.tensor([[[True, True, False, False]]])
    unreliable = torch.tensor([[[False, False, True, False]]])
    part = Partition(torch.zeros(1, 1, 4), torch.tensor(0.5), reliable, unreliable)
    truth = torch.tensor([[[0, 2, 2, 255]]])
    assert {key: value.item() for key, value in partition_scalars(part, label, truth).items()} == {
        "gamma_t": 0.5,
        "reliable_share": pytest.approx(2 / 3),
        "accuracy/reliable": 0.5,
        "accuracy/unreliable": 1.0,
    }


class WarmConfig(MethodConfig):
    warm_start: float = 0.25


@pytest.mark.parametrize(("config", "share"), [(MethodConfig(), 0.0), (WarmConfig(), 0.25)])
def test_the_warm_start_is_the_option_of_that_name(config, share):
    assert Method.warm_start(config) == share
    method = Supervised(config, nn.Linear(1, 1), 2)
    warm = [method.warming_up(Progress(step, 10)) for step in range(10)]
    assert warm == [step < round(share * 10) for step in range(10)]


class Normed(Method):
    """Two BatchNorms, of which one is frozen; remembers what it sees when it follows."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)), 2)
        self.moving = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3))
        self.frozen = nn.BatchNorm2d(2)
        self.without = nn.BatchNorm2d(2, track_running_stats=False)
        self.seen: list[torch.Tensor] = []

    def forward(self, batch: None, progress: Progress) -> StepResult:
        raise NotImplementedError

    def follow(self, progress: Progress) -> None:
        self.seen.append(self.student[0].running_mean.clone())


def test_after_a_step_processes_share_the_statistics_of_batchnorms_in_training(
    connected, monkeypatch
):
    methods = [Normed(), Normed()]
    for rank, method in enumerate(methods):
        method.frozen.eval()
        for buffer in method.buffers():
            buffer.fill_(rank + 1)
    exchanges = []
    total = connected.total
    monkeypatch.setattr(
        distributed, "total", lambda value: exchanges.append(len(value)) or total(value)
    )
    connected.run(lambda rank: methods[rank].after_step(Progress(0, 1)))
    assert exchanges == [2 + 2 + 3 + 3] * 2  # one from each process, with everything in it
    for rank, method in enumerate(methods):
        for norm in (method.student[0], method.moving[0]):
            assert (norm.running_mean == 1.5).all() and (norm.running_var == 1.5).all()
            assert norm.num_batches_tracked == rank + 1
        assert all((buffer == rank + 1).all() for buffer in method.frozen.buffers())
        assert torch.equal(method.seen[0], torch.full((2,), 1.5))  # follows what is averaged


def test_one_process_averages_nothing_and_follows():
    method = Normed()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.after_step(Progress(0, 1))
    assert len(method.seen) == 1
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


class Views(Method):
    """The student sees labelled images and views of half their side, the teacher the others."""

    def __init__(self, student: Segmentor, contrast: ContrastConfig | None = None) -> None:
        super().__init__(MethodConfig(), student, 2)
        self.teacher = Teacher(student, AverageConfig())
        self.parts = nn.ModuleList()
        if contrast is not None:
            self.parts.append(PixelContrast(contrast, 2, 4))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor], progress: Progress) -> StepResult:
        labeled, others = batch
        self.teacher(others)
        loss = (
            self.student(labeled).logits.sum() + self.student(labeled[..., ::2, ::2]).logits.sum()
        )
        if progress.step:
            raise ZeroDivisionError
        return weighted_sum({}, sup=loss)


@pytest.fixture
def views(tiny: Callable[..., Segmentor]) -> Views:
    return Views(tiny(2))


def test_passes_count_images_by_area_with_and_without_gradient(views):
    batch = torch.zeros(2, 3, 64, 32), torch.zeros(3, 3, 64, 32)
    passes = views.count_passes(batch, Progress(0, 2), 64 * 32)
    assert passes == (2 + 2 / 4, 3)
    assert views.count_passes(batch, Progress(0, 2), 64 * 64) == (passes[0] / 2, passes[1] / 2)


def test_counting_leaves_no_hook_even_after_an_error(views):
    batch = torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)
    before = [len(part._forward_pre_hooks) for part in views.modules()]
    with pytest.raises(ZeroDivisionError):
        views.count_passes(batch, Progress(1, 2), 32 * 32)
    assert [len(part._forward_pre_hooks) for part in views.modules()] == before


def test_queues_and_notes_are_those_of_the_parts(views):
    assert views.queues() == views.notes() == []
    config = RankedContrastConfig(queue=5, queue_background=7, queue_device="cpu")
    method = Views(views.student, config)
    (queue,) = method.queues()
    assert isinstance(queue, ClassQueue) and (queue.capacity, queue.width) == (12, 4)
    assert queue.pinned == "cpu"
    assert method.notes() == config.notes(2) != []
