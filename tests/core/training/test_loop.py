"""The parts of the loop that need no run; whole runs are in tests/semi."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from harness.commands import journal
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.attention import AffinityHead
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.schedules import Progress
from u2pl.training.checkpoint import has_checkpoint
from u2pl.training.config import DataConfig, TrainConfig
from u2pl.training.loading import STOPPING
from u2pl.training.loop import (
    Job,
    Stopped,
    _batches,
    _evaluation_steps,
    _StopSignal,
    check_method,
    compile_encoders,
    fit,
    make_accelerator,
)
from u2pl.training.optimizer import build_optimizer


class Broken(Dataset[PairBatch]):
    """Has images until number 4, which cannot be read."""

    def __getitem__(self, position: int) -> PairBatch:
        if position == 4:
            raise UserError("4.png cannot be decoded: replace the file")
        image = torch.full((3, 2, 2), position, dtype=torch.uint8)
        return PairBatch(image, image[0], image, image[0].bool(), image[0])


def job(workers: int = 0, **train: Any) -> Job:
    values = {"batch": 2, **train}
    data = DataConfig(workers=workers)
    return Job(None, Broken(), TrainConfig(**values), data, 5, 0, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_cannot_read_is_one_line_too(workers: int) -> None:
    batches = _batches(job(workers), 1, torch.device("cpu"))
    assert next(batches).image_l[:, 0, 0, 0].tolist() == [2, 3]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == "4.png cannot be decoded: replace the file"


@pytest.mark.parametrize(
    ("total", "evaluations", "steps"),
    [(5, 1, {5}), (10, 4, {2, 5, 8, 10}), (2, 4, {0, 1, 2}), (500, 2, {250, 500})],
)
def test_the_last_step_is_always_scored(total: int, evaluations: int, steps: set[int]) -> None:
    train = TrainConfig(evaluations=evaluations)
    job = Job(None, None, train, DataConfig(), total, 0, None, None)  # type: ignore[arg-type]
    assert _evaluation_steps(job) == steps


@pytest.fixture
def _unchanged() -> Iterator[None]:
    """Signals as a terminal has them; a job in the background ignores some."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.usefixtures("_unchanged")
def test_signals_to_stop_are_caught_inside_only(number: int) -> None:
    before = signal.getsignal(number)
    with _StopSignal() as stop:
        assert not stop.asked(0)
        signal.raise_signal(number)
        assert stop.asked(0) == number
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("_unchanged")
def test_a_second_ctrl_c_does_not_wait_for_the_step(capfd: pytest.CaptureFixture[str]) -> None:
    with _StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked(0) and "Ctrl-C again stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_the_system_was_told_to_ignore_stays_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As behind nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked(0)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("received", "other", "alone", "expected"),
    [
        (0, 0, False, 0),
        (signal.SIGHUP, 0, False, signal.SIGHUP),
        (0, signal.SIGUSR1, False, signal.SIGUSR1),
        (0, 0, True, signal.SIGTERM),  # the launcher is gone: nobody would end them
    ],
)
def test_several_processes_agree_every_tenth_time(
    received: int, other: int, alone: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2pl.distributed.world_size", lambda: 2)
    monkeypatch.setattr("u2pl.distributed.device", lambda: torch.device("cpu"))
    monkeypatch.setattr("u2pl.distributed.largest", lambda own: own.clamp(min=other))
    stop = _StopSignal()
    stop.received = received
    if alone:
        monkeypatch.setattr(os, "getppid", lambda: 1)
    assert [stop.asked(done) for done in (1, 9)] == [0, 0]
    assert stop.asked(10) == stop.asked(11) == expected


def test_a_loop_in_another_thread_does_without_the_signal() -> None:
    asked = []

    def loop() -> None:
        with _StopSignal() as stop:
            asked.append(stop.asked(0))

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert asked == [False]


class Constant(Dataset[PairBatch]):
    def __getitem__(self, position: int) -> PairBatch:
        image = torch.full((3, 2, 2), position % 7, dtype=torch.uint8)
        return PairBatch(image, image[0], image, image[0].bool(), image[0])


class Overflowing(Method):
    """Its loss is 1 in every step; at one step the gradient is not finite."""

    def __init__(self, bad_step: int, bad: float) -> None:
        super().__init__(MethodConfig(), nn.Linear(3, 2), 2)
        self.bad_step, self.bad = bad_step, bad

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        score = self.student(batch.image_l.float().mean(dim=(2, 3)) / 7).sum()
        loss = score - score.detach() + 1
        if progress.step == self.bad_step:
            loss.register_hook(lambda grad: grad * self.bad)
        return weighted_sum({}, sup=loss)


class Silent:
    def step(self, step: int, total: int, entries: dict[str, Any], left: float | None) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None: ...

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...


def run_overflowing(folder: Path, bad_step: int, bad: float, **train: Any) -> list[Tensor]:
    """Six steps, scored after the third and the last; returns the weights that were kept."""
    kept: list[Tensor] = []
    score = Score([50.0, 50.0], 50.0, 50.0)
    config = TrainConfig(
        batch=2, lr=0.1, evaluations=2, **{"log_every": 100, "checkpoint_every": 2, **train}
    )
    job = Job(
        Overflowing(bad_step, bad), Constant(), config, DataConfig(workers=0), 6, 0,
        lambda networks, report: dict.fromkeys(networks, score),
        lambda kind, network, facts: kept.append(network.weight.detach().clone()),
    )  # fmt: skip
    try:
        fit(job, folder, make_accelerator(cpu=True), Silent())
    finally:
        assert all(weight.isfinite().all() for weight in kept)
        if has_checkpoint(folder):
            state = load_file(folder / "resume.safetensors")
            assert all(value.isfinite().all() for value in state.values())
    return kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("bad_step", "noticed"), [(0, 2), (1, 2), (2, 3), (3, 4), (5, 6)])
def test_weights_that_are_not_finite_are_never_kept(
    tmp_path: Path, bad: float, bad_step: int, noticed: int
) -> None:
    """A step's loss depends on the weights before it, so it alone does not tell of those after."""
    with pytest.raises(UserError) as caught:
        run_overflowing(tmp_path, bad_step, bad)
    line = str(caught.value)
    if noticed == bad_step + 1:
        assert line.startswith(f"the weights are not finite after step {noticed}; lower train.lr")
    else:  # the next step's loss has told first
        assert line.startswith(
            f"the loss is not finite at step {bad_step + 1}: sup; lower train.lr"
        )
    assert "\n" not in line and has_checkpoint(tmp_path) == (noticed > 2)


def test_a_gradient_that_is_finite_goes_through(tmp_path: Path) -> None:
    assert len(run_overflowing(tmp_path, 99, 1.0)) == 3  # last and best, then last


def test_clipping_does_not_hide_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the weights are not finite after step 6"):
        run_overflowing(tmp_path, 5, float("inf"), clip_norm=1.0)


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("mious", "warm_steps", "expected"),
    [
        ([40.0, 35.0, 45.0], 2, [(35.0, 40.0)]),
        ([40.0, 38.0, 39.5], 2, [(38.0, 40.0), (39.5, 40.0)]),
        ([40.0, 41.0, 39.2], 2, [(39.2, 40.0)]),
        ([40.0, 41.0, 42.0], 2, []),
        ([40.0, 30.0], 0, []),  # no warm start: nothing to compare with
    ],
)
def test_a_score_below_the_warm_starts_is_said_with_what_to_do(
    tmp_path: Path, mious: list[float], warm_steps: int, expected: list[tuple[float, float]]
) -> None:
    scores, reporter = iter(mious), Noting()
    method = type("Helped", (Overflowing,), {"remedy": "more labels"})(99, 1.0)
    config = TrainConfig(batch=2, lr=0.1, evaluations=2)
    job = Job(
        method, Constant(), config, DataConfig(workers=0), 6, 0,
        lambda networks, report: dict.fromkeys(networks, Score([None], next(scores), 50.0)),
        lambda kind, network, facts: None, warm_steps,
    )  # fmt: skip
    fit(job, tmp_path, make_accelerator(cpu=True), reporter)
    assert list(scores) == []
    assert reporter.notes == [
        f"self-training {'is hurting' if before - now > 1 else 'does not help so far'}: mIoU "
        f"{now:.2f}, and {before:.2f} at the end of the warm start"
        + ("" if i else "; try more labels")  # once
        for i, (now, before) in enumerate(expected)
    ]


@pytest.mark.parametrize(
    ("asked", "launcher", "gpu", "expected"),
    [
        ("auto", None, True, "bf16"),
        ("auto", None, False, None),
        ("auto", "no", True, None),  # the launcher's word holds
        ("auto", "fp16", True, None),
        ("float32", None, True, "no"),
        ("float32", "bf16", True, "no"),
        ("bfloat16", "no", False, "bf16"),
    ],
)
def test_precision_is_the_options_the_launchers_or_the_devices(
    asked: str,
    launcher: str | None,
    gpu: bool,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}

    def accelerator(**options: Any) -> SimpleNamespace:
        given.update(options)
        return SimpleNamespace(num_processes=1, mixed_precision="no")

    monkeypatch.setattr("u2pl.training.loop.Accelerator", accelerator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    make_accelerator(precision=asked)
    assert given["mixed_precision"] == expected
    make_accelerator(cpu=True)
    assert given["mixed_precision"] is None


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "x"}, "invalid literal"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR"),
    ],
)
def test_half_of_what_a_launcher_says_is_one_line(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    try:
        with pytest.raises(UserError, match=f"{says}.*; start with accelerate launch, or unset"):
            make_accelerator(cpu=True)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_precision_that_the_device_has_not_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^float16 needs a GPU: set train\.precision=bfloat16"):
        make_accelerator(cpu=True, precision="float16")


def test_scoring_has_the_precision_of_training(tmp_path: Path) -> None:
    seen = []

    def evaluate(networks: dict[str, nn.Module], _: Any) -> dict[str, Score]:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        seen.append((product.dtype, torch.backends.cudnn.benchmark))
        return dict.fromkeys(networks, Score([50.0], 50.0, 50.0))

    config = TrainConfig(batch=2, lr=0.1, evaluations=1)
    job = Job(
        Overflowing(99, 1.0), Constant(), config, DataConfig(workers=0), 2, 0, evaluate,
        lambda kind, network, facts: None,
    )  # fmt: skip
    fit(job, tmp_path, make_accelerator(cpu=True, precision="bfloat16"), Silent())
    assert seen == [(torch.bfloat16, False)]


class Convolving(Method):
    """One convolution, whose output is to be 1."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(MethodConfig(), nn.Conv2d(3, 4, 3, padding=1), 2)
        self.layouts: set[bool] = set()

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        weight = self.student.weight
        self.layouts.add(weight.is_contiguous(memory_format=torch.channels_last))
        return weighted_sum({}, sup=(self.student(batch.image_l.float() / 7) - 1).square().mean())


@pytest.mark.parametrize(("asked", "layout"), [("auto", False), ("off", False), ("on", True)])
def test_channels_last_is_another_layout_of_the_same_numbers(
    tmp_path: Path, asked: str, layout: bool
) -> None:
    found = []
    for folder, choice in ((tmp_path / "asked", asked), (tmp_path / "plain", "off")):
        method = Convolving()
        config = TrainConfig(batch=2, lr=0.1, evaluations=1, channels_last=choice)  # type: ignore[arg-type]
        job = Job(
            method, Constant(), config, DataConfig(workers=0), 4, 0,
            None, lambda kind, network, facts: None,
        )  # fmt: skip
        folder.mkdir()
        fit(job, folder, make_accelerator(cpu=True), Silent())
        found.append(method)
    assert found[0].layouts == {layout} and found[1].layouts == {False}
    torch.testing.assert_close(found[0].student.weight, found[1].student.weight)


def scored_run(
    folder: Path, resume: bool = False, at: tuple[int, int] | None = None, number: int = 0
) -> tuple[Tensor, list[dict[str, object]], list[tuple[int, int]]]:
    """Six steps, scored after the third and the last on four images.

    Args:
        folder: of the run.
        resume: go on with it.
        at: the scoring, from 1, and the image, from 1, at which a signal comes.
        number: of the signal.

    Returns: weights, evaluations, and the images that were scored in each scoring.
    """
    method, seen = Convolving(), list[tuple[int, int]]()

    def evaluate(networks: dict[str, nn.Module], progress: Any) -> dict[str, Score]:
        scoring = 1 + max((scoring for scoring, _ in seen), default=0)
        for image in range(1, 5):
            seen.append((scoring, image))
            if (scoring, image) == at:
                signal.raise_signal(number)
            progress(image, 4)
        score = method.student.weight.abs().mean().item()
        return dict.fromkeys(networks, Score([score], score, score))

    job = Job(
        method, Constant(), TrainConfig(batch=2, lr=0.1, evaluations=2), DataConfig(workers=0),
        6, 0, evaluate, lambda kind, network, facts: None, phases={3: "another phase"},
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    try:
        history = fit(job, folder, make_accelerator(cpu=True), Silent(), resume)
    except (Stopped, KeyboardInterrupt) as cut:
        assert at is not None and seen[-1] == at  # no image more was scored
        where = f"stopped after step {3 * at[0]} of 6, before it was scored"
        assert number == signal.SIGINT or (str(cut) == where and cut.signal == number)
        return scored_run(folder, resume=True)
    return method.student.weight.detach(), history.dump()["evaluations"], seen  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("at", "number", "left"),
    [((1, 2), signal.SIGTERM, 2), ((2, 1), signal.SIGUSR1, 1), ((2, 3), signal.SIGINT, 1)],
)
@pytest.mark.usefixtures("_unchanged")
def test_a_signal_ends_a_scoring_which_begins_again_when_the_run_goes_on(
    at: tuple[int, int], number: int, left: int, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    weights, evaluations, _ = scored_run(whole)
    found, scores, seen = scored_run(cut, at=at, number=number)
    assert torch.equal(found, weights) and scores == evaluations
    assert seen == [(scoring, image) for scoring in range(1, left + 1) for image in range(1, 5)]
    assert journal(cut) == journal(whole)


@pytest.mark.usefixtures("_unchanged")
def test_a_signal_at_the_last_image_does_not_throw_the_scores_away(tmp_path: Path) -> None:
    """Nothing is left to do after the second scoring."""
    _, scores, seen = scored_run(tmp_path / "run", at=(2, 4), number=signal.SIGTERM)
    assert len(scores) == 2 and len(seen) == 8


class Holder(Method):
    """Some modules as a student."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(MethodConfig(), nn.ModuleList(parts), 2)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        raise NotImplementedError


def test_encoders_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part, dynamic: compiled.append(part))
    encoder = Pyramid("test_resnet", 16)
    compile_encoders(Holder(encoder, nn.Conv2d(3, 3, 1)))
    assert compiled == [encoder]


def test_what_looks_into_the_encoder_is_not_compiled() -> None:
    holder = Holder(Pyramid("test_resnet", 16), AffinityHead(4))
    with pytest.raises(UserError, match=r"^train\.compile=true hides the attention .*leave it out"):
        check_method(holder, TrainConfig(compile=True), gpus=False)
    check_method(holder, TrainConfig(), gpus=False)


def test_what_no_data_can_change_is_said_before_a_run_begins() -> None:
    holder = Holder(Pyramid("test_resnet", 16))
    with pytest.raises(UserError, match=r"^float16 needs a GPU"):
        check_method(holder, TrainConfig(precision="float16"), gpus=False)
    check_method(holder, TrainConfig(precision="float16"), gpus=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_keeps_the_layout_that_fused_steps_need(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They walk a parameter and its averages side by side, whatever a file says of strides."""
    monkeypatch.setattr("u2pl.training.loop.build_optimizer", fused)

    def run(folder: Path, steps: int, resume: bool) -> Convolving:
        method = Convolving()
        config = TrainConfig(
            batch=2, lr=0.1, evaluations=1, channels_last="on", optimizer=optimizer,  # type: ignore[arg-type]
            poly_power=0, checkpoint_every=2,
        )  # fmt: skip
        job = Job(
            method, Constant(), config, DataConfig(workers=0), steps, 0,
            None, lambda kind, network, facts: None,
        )  # fmt: skip
        folder.mkdir(exist_ok=True)
        fit(job, folder, make_accelerator(cpu=True), Silent(), resume)
        return method

    whole = run(tmp_path / "whole", 6, False)
    run(tmp_path / "halves", 4, False)
    halves = run(tmp_path / "halves", 6, True)
    assert torch.equal(halves.student.weight, whole.student.weight)


def fused(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of GPUs, on a CPU."""
    optimizer = build_optimizer(method, config)
    for group in optimizer.param_groups:
        group["fused"] = True
    return optimizer


def test_compiled_encoders_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a backend that only follows the graph: a real one takes minutes."""
    original = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda part, dynamic: original(part, backend="eager", dynamic=dynamic)
    )
    torch.manual_seed(0)
    encoder = Pyramid("test_resnet", 16).eval()
    image = torch.rand(2, 3, 32, 48)
    plain = encoder(image)
    compile_encoders(Holder(encoder))
    assert encoder._compiled_call_impl is not None
    for ours, theirs in zip(encoder(image), plain, strict=True):
        assert torch.equal(ours, theirs)
    encoder._compiled_call_impl = None
