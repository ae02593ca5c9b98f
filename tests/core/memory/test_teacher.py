from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from u2pl.memory.teacher import Teacher, TeacherConfig
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def forward(self, image):
        return self.drop(self.norm(self.conv(image)))


def student_at(step: int, seed: int = 0) -> Net:
    """A student whose parameters and buffers all differ from step to step."""
    draw = torch.Generator().manual_seed(100 * seed + step)
    net = Net()
    with torch.no_grad():
        for value in [*net.parameters(), *net.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draw).abs() + 0.1)
            else:
                value.fill_(10 * step + 1)
    return net


def slow_average(values: list[torch.Tensor], momentum: float) -> torch.Tensor:
    average = values[0].double()
    for step, value in enumerate(values):
        m = min(1 - 1 / (step + 1), momentum)
        average = m * average + (1 - m) * value.double()
    return average


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("statistics", ["averaged", "own"])
def test_updates_equal_the_loop(momentum, statistics):
    teacher = Teacher(student_at(99), TeacherConfig(momentum=momentum, statistics=statistics))
    students = [student_at(step) for step in range(8)]
    for step, student in enumerate(students):
        teacher.update(student, step)
    parameters = dict(teacher.network.named_parameters())
    for name, value in teacher.network.state_dict().items():
        history = [student.state_dict()[name] for student in students]
        if name in parameters or (statistics == "averaged" and value.is_floating_point()):
            torch.testing.assert_close(
                value.double(), slow_average(history, momentum), rtol=1e-5, atol=1e-6
            )
        elif statistics == "averaged":
            assert torch.equal(value, history[-1])
        else:
            assert torch.equal(
                value, history[0]
            )  # copied at the end of the warm start, its own from there


def test_the_first_update_and_all_before_it_copy_the_student():
    teacher = Teacher(student_at(0), TeacherConfig())
    for step, student in [(-5, student_at(1)), (-1, student_at(2)), (0, student_at(3))]:
        teacher.update(student, step)
        for name, value in student.state_dict().items():
            assert torch.equal(teacher.network.state_dict()[name], value), name


def test_without_ramp_the_copy_is_averaged_at_full_momentum_at_once():
    teacher = Teacher(student_at(9), TeacherConfig(momentum=0.9, ramp=False))
    for step in range(3):
        teacher.update(student_at(step), step)
    first, second, third = (student_at(step).conv.weight.double() for step in range(3))
    torch.testing.assert_close(
        teacher.network.conv.weight.double(),
        0.81 * first + 0.09 * second + 0.1 * third,
        rtol=1e-5,
        atol=1e-6,
    )


def test_averaging_matches_the_fixture(shared):
    z = np.load(shared("fixtures/schedules.npz"))
    student = nn.Linear(z["in_ema_student"].shape[1], 1, bias=False)
    teacher = Teacher(student, TeacherConfig(momentum=float(z["cfg_ema_alpha"])))
    for step, row in enumerate(z["in_ema_student"]):
        student.weight.data.copy_(torch.tensor(row))
        teacher.update(student, step)
        np.testing.assert_allclose(
            teacher.network.weight.detach().numpy()[0],
            z["out_ema_daformer"][step],
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_copy_that_is_updated_with_the_steps_done_matches_the_fixture(shared):
    """DAFormer averages before its step i >= 1, which is after i optimizer steps.

    It starts from a copy of the untrained student.
    """
    z = np.load(shared("fixtures/schedules.npz"))
    first, *later = torch.tensor(z["in_ema_student"])
    student = nn.Linear(len(first), 1, bias=False)
    student.weight.data.copy_(first)
    teacher = Teacher(student, TeacherConfig(momentum=float(z["cfg_ema_alpha"]), statistics="own"))
    for done, row in enumerate(later, start=1):
        student.weight.data.copy_(row)
        teacher.update(student, done)
        np.testing.assert_allclose(
            teacher.network.weight.detach().numpy()[0],
            z["out_ema_daformer"][done],
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("statistics", ["averaged", "own"])
def test_the_forward_has_no_dropout_and_no_gradient(statistics):
    student = student_at(0)
    teacher = Teacher(student, TeacherConfig(statistics=statistics)).train()
    image = torch.randn(2, 3, 4, 5, requires_grad=True)
    first, second = teacher(image), teacher(image)
    assert torch.equal(first, second) and not first.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_averaged_statistics_are_used_and_left_alone():
    teacher = Teacher(student_at(0), TeacherConfig(statistics="averaged")).train()
    before, image = teacher.network.norm.running_mean.clone(), torch.randn(2, 3, 4, 5)
    expected = nn.functional.batch_norm(
        teacher.network.conv(image),
        before,
        teacher.network.norm.running_var,
        teacher.network.norm.weight,
        teacher.network.norm.bias,
    )
    torch.testing.assert_close(teacher(image), expected)
    assert torch.equal(teacher.network.norm.running_mean, before)


def test_own_statistics_come_from_the_teachers_batches_while_training_only():
    teacher = Teacher(student_at(0), TeacherConfig(statistics="own"))
    holder, norm, image = nn.Sequential(teacher), teacher.network.norm, torch.randn(2, 3, 4, 5)
    holder.train()
    raw = teacher.network.conv(image)
    torch.testing.assert_close(
        teacher(image),
        nn.functional.batch_norm(raw, None, None, norm.weight, norm.bias, training=True),
    )
    moved = norm.running_mean.clone()
    holder.eval()
    torch.testing.assert_close(
        teacher(image),
        nn.functional.batch_norm(raw, norm.running_mean, norm.running_var, norm.weight, norm.bias),
    )
    assert torch.equal(norm.running_mean, moved)
    teacher.update(student_at(1), 1)
    assert torch.equal(norm.running_mean, moved)


def test_the_teacher_shares_no_memory_with_the_student():
    student = student_at(0)
    teacher = Teacher(student, TeacherConfig())
    with torch.no_grad():
        student.conv.weight.fill_(7)
    assert not (teacher.network.conv.weight == 7).any()
    teacher.update(student, 0)
    with torch.no_grad():
        student.conv.weight.fill_(8)
    assert (teacher.network.conv.weight == 7).all()


def test_a_checkpoint_brings_the_teacher_back():
    teacher, other = (Teacher(student_at(0), TeacherConfig()) for _ in range(2))
    for step in range(3):
        teacher.update(student_at(step + 1), step)
    other.load_state_dict(teacher.state_dict())
    for each in (teacher, other):
        each.update(student_at(9), 3)
    for name, value in teacher.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_what_is_asked_without_learning_leaves_its_own_statistics_alone():
    """The output is normalised by its own batch all the same, and the next batch is learnt from."""
    teacher = Teacher(student_at(0), TeacherConfig(statistics="own")).train()
    norm, image = teacher.network.norm, torch.randn(2, 3, 4, 5)
    before = [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]
    quiet = teacher(image, learn=False)
    expected = nn.functional.batch_norm(
        teacher.network.conv(image), None, None, norm.weight, norm.bias, training=True
    )
    torch.testing.assert_close(quiet, expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            before, [norm.running_mean, norm.running_var, norm.num_batches_tracked], strict=True
        )
    )
    assert torch.equal(teacher(image), quiet)
    assert not torch.equal(norm.running_mean, before[0])
    # in evaluation they are used, whichever way was asked last
    teacher(image, learn=False)
    holder = nn.Sequential(teacher).eval()
    fixed = nn.functional.batch_norm(
        teacher.network.conv(image), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    torch.testing.assert_close(holder(image), fixed)


def test_running_statistics_can_be_asked_for_in_training():
    """As the released code labels clean images; the next batch is learnt from all the same."""
    teacher = Teacher(student_at(0), TeacherConfig(statistics="own")).train()
    norm, image = teacher.network.norm, torch.randn(2, 3, 4, 5)
    teacher(image)
    before = norm.running_mean.clone()
    for learn in (True, False):
        fixed = nn.functional.batch_norm(
            teacher.network.conv(image), norm.running_mean, norm.running_var, norm.weight, norm.bias
        )
        torch.testing.assert_close(teacher(image, running=True, learn=learn), fixed)
        assert torch.equal(norm.running_mean, before) and norm.training
        own = teacher(image, learn=learn)
        assert not torch.allclose(own, fixed)
        assert torch.equal(norm.running_mean, before) != learn
        before = norm.running_mean.clone()


def test_averaged_statistics_are_never_learnt():
    teacher = Teacher(student_at(0), TeacherConfig()).train()
    before, image = teacher.network.norm.running_mean.clone(), torch.randn(2, 3, 4, 5)
    assert torch.equal(teacher(image), teacher(image, learn=False))
    assert torch.equal(teacher.network.norm.running_mean, before)


def test_updates_go_on_when_the_networks_are_moved_or_loaded() -> None:
    """The lists of tensors that an update walks are made once; moving replaces the buffers."""
    student, config = student_at(0), TeacherConfig(momentum=0.5, ramp=False)
    teacher = Teacher(student, config)
    for step, change in enumerate((None, "double", "load")):
        if change == "double":
            student.double()
            teacher.double()
        if change == "load":
            teacher.load_state_dict(teacher.state_dict())
            student.load_state_dict(student_at(9).state_dict())
        expected = [
            (0.5 * own + 0.5 * new if step else new).clone()
            for own, new in zip(teacher.network.parameters(), student.parameters(), strict=True)
        ]
        mean = student.norm.running_mean.clone()
        mean = 0.5 * teacher.network.norm.running_mean + 0.5 * mean if step else mean
        teacher.update(student, step)
        for own, value in zip(teacher.network.parameters(), expected, strict=True):
            torch.testing.assert_close(own, value)
        torch.testing.assert_close(teacher.network.norm.running_mean, mean)


def test_a_frozen_encoder_is_shared_and_never_moved() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="segformer",
        encoder="test_resnet",
        encoder_weights="none",
        freeze_encoder=True,
        width=8,
    )
    student = build_segmentor(config, 3).train()
    teacher = Teacher(student, TeacherConfig(statistics="own")).train()
    assert teacher.network.encoder is student.encoder
    assert not any(part.training for part in student.encoder.modules())
    assert teacher.network.classifier[1].training  # its BatchNorm is the teacher's own
    before = copy.deepcopy(student.encoder.state_dict())
    teacher(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        for value in student.head_parameters():
            value.add_(1)
    teacher.update(student, 5)
    after = student.encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    for ours, theirs in zip(teacher.network.parameters(), student.parameters(), strict=True):
        assert (ours is theirs) == (not theirs.requires_grad)
        assert ours is theirs or not torch.equal(ours, theirs)
