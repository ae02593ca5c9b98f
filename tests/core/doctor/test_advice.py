"""Each piece of advice is followed, and what it was given for is gone."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from core.doctor.test_findings import Printed
from core.toy.app import APP, ToyRequest, program
from u2pl.counting import silently
from u2pl.doctor import costs, shortening
from u2pl.doctor.findings import say_sizes
from u2pl.doctor.trial import OneImage, StepTimes
from u2pl.networks.segmentor import Segmentor
from u2pl.run.recipe import Recipe
from u2pl.run.task import Crops, Task
from u2pl.training.config import DataConfig


def advised(text: str) -> list[list[str]]:
    """Each option that is advised, as typed."""
    found = re.findall(r"--(?:set \S+=\S+?|steps \d+)(?=[;,)\s]|$)", text)
    return [shlex.split(option) for option in found]


def words_about(text: str, begin: str) -> str:
    """The one line that begins so."""
    (line,) = (line for line in text.splitlines() if begin in line)
    return line


# -- crops ----------------------------------------------------------------------------------------


def crop_warnings(sizes: dict[tuple[int, int], int], data: DataConfig, option: str) -> str:
    diagnosis = Printed()
    say_sizes("target", Counter(sizes), diagnosis, Crops((), data, option))
    return "\n".join(line for line in diagnosis.text.splitlines() if line.startswith("warning"))


@pytest.mark.parametrize("option", ["data.long_side", "data.target_long_side"])
@pytest.mark.parametrize(
    ("sizes", "data"),
    [
        ({(320, 240): 3, (300, 200): 1}, DataConfig(crop=513)),
        ({(320, 240): 3}, DataConfig(crop=256, long_side=128)),
        ({(640, 64): 2}, DataConfig(crop=513)),
        ({(64, 64): 1}, DataConfig(crop=96, scale=(0.5, 1.0))),
        ({(200, 100): 9, (900, 700): 8}, DataConfig(crop=640)),
        ({(4000, 3000): 3}, DataConfig(crop=256)),
        ({(2048, 1024): 3}, DataConfig(crop=96)),
        ({(8000, 900): 3}, DataConfig(crop=256)),
        ({(3000, 4000): 3, (300, 400): 1}, DataConfig(crop=256, long_side=3500)),
    ],
    ids=str,
)
def test_advice_about_crops(
    sizes: dict[tuple[int, int], int], data: DataConfig, option: str
) -> None:
    warned = crop_warnings(sizes, data, option)
    ((_, typed),) = advised(warned)
    key, value = typed.split("=")
    assert key in ("data.crop", option)
    # long_side of these images is what the option of the group is called
    field = "crop" if key == "data.crop" else "long_side"
    assert not crop_warnings(sizes, data.model_copy(update={field: int(value)}), option)


def test_images_that_fit_no_crop_get_no_advice() -> None:
    warned = crop_warnings({(16, 12): 3}, DataConfig(crop=64), "data.long_side")
    assert "small for this crop, and for any other" in warned and not advised(warned)


# -- time and memory ----------------------------------------------------------------------------


#: Share of the encoder in what a network takes.
ENCODER = 0.8


class Machine:
    """A machine whose times and memory follow from the crop, the batch and the encoder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.scoring, self.loading = 5e-4, 0.0, 0.0  # seconds of a pixel, an image
        self.memory = 10**12
        patch = monkeypatch.setattr
        patch(costs, "try_steps", self.try_steps)
        patch(costs, "try_scoring", lambda *_: self.scoring)
        patch(costs, "memory_of", lambda _: self.memory)
        for module in (costs, shortening):
            patch(module, "try_one_image", self.try_one_image)

    def try_steps(self, method: Any, train: Any, batch: tuple[Tensor, ...], *_: Any) -> StepTimes:
        image = batch[0]
        seconds = self.step * image.shape[0] * image.shape[-1] ** 2 * size(method.student)
        if method.student.encoder.frozen:  # half of a step is the backward pass
            seconds *= 1 - ENCODER / 2
        return StepTimes(seconds, seconds)

    def try_one_image(self, student: nn.Module, image_3HW: Tensor) -> OneImage:
        area = image_3HW.shape[-1] ** 2
        seconds, kept = 1e-6 * area * size(student), 10_000 * area
        assert isinstance(student, Segmentor)
        saves = getattr(student.encoder.model, "grad_checkpointing", False)
        fixed = ENCODER * seconds if student.encoder.frozen else 0.0
        return OneImage(seconds, int(kept * (1 - ENCODER if saves else 1)), fixed)


def size(student: nn.Module) -> float:
    """How long an encoder takes: as its weights are many."""
    assert isinstance(student, Segmentor)
    return sum(parameter.numel() for parameter in student.encoder.parameters()) / 1e5


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, patience: None) -> Machine:
    return Machine(monkeypatch)


WORDS = ["--method", "plain", "--preset", "light", "--cpu", "--most-images", "4"]


def doctor(*more: str) -> str:
    result = CliRunner().invoke(program, ["doctor", *WORDS, *more])
    assert result.exit_code in (0, 2), result.output
    return result.stdout


LONG = "warning: a run takes more than"


def hours(text: str) -> float:
    """What a run takes."""
    found = re.search(r"a run takes about ([\d.]+) (days|h|min|s)", text)
    assert found is not None
    return float(found[1]) * {"days": 24, "h": 1, "min": 1 / 60, "s": 1 / 3600}[found[2]]


@pytest.mark.parametrize("steps", [["--steps", "4000"], ["--set", "train.steps=4000"]], ids=str)
def test_advice_about_a_long_run(machine: Machine, steps: list[str]) -> None:
    base = [*steps, "--set", "data.crop=192"]
    text = doctor(*base)
    line = words_about(text, LONG)
    assert line.endswith(" or a GPU")
    options = advised(line)
    assert [option[-1].partition("=")[0] for option in options][1:] == ["data.crop"]
    shorter = doctor(*base, *options[0])
    assert LONG not in shorter and 1.5 < hours(shorter) <= 2.0
    assert hours(doctor(*base, *options[1])) < 0.6 * hours(text)


def test_a_short_run_gets_no_advice(machine: Machine) -> None:
    assert LONG not in doctor("--steps", "30")


def test_advice_about_a_run_that_mostly_scores(machine: Machine) -> None:
    machine.step, machine.scoring = 1e-9, 1200.0
    base = ["--steps", "400", "--set", "train.evaluations=4"]
    text = doctor(*base)
    (option,) = advised(words_about(text, LONG))
    assert option == ["--set", "train.evaluations=1"]
    assert LONG not in doctor(*base, *option) and hours(doctor(*base, *option)) < hours(text) / 3


def test_a_smaller_encoder_is_named_with_its_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortening, "SMALLER", {"": ("no_such_encoder", "test_byobnet")})
    base = ["--steps", "4000", "--set", "data.crop=64"]
    text = doctor(*base)
    option = advised(words_about(text, LONG))[-1]
    assert option == ["--set", "network.encoder=test_byobnet"]
    share = 199_856 / 372_688  # of the weights
    assert hours(doctor(*base, *option)) == pytest.approx(hours(text) * share, rel=0.1)
    said = re.search(r"test_byobnet \(about ([\d.]+) h\)", text)
    assert said is not None and float(said[1]) == pytest.approx(hours(text) * share, rel=0.1)


TOKENS = ["--set", "network.encoder=test_vit", "--set", "network.decoder=dpt"]


def test_freezing_a_vision_transformer_is_named_with_its_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortening, "SMALLER", {"": ()})
    base = [*TOKENS, "--steps", "4000", "--set", "data.crop=64"]
    text = doctor(*base)
    option = advised(words_about(text, LONG))[-1]
    assert option == ["--set", "network.freeze_encoder=true"]
    said = re.search(r"freeze_encoder=true \(about ([\d.]+) h\)", text)
    assert said is not None
    assert float(said[1]) == pytest.approx(hours(text) * 0.6, rel=0.1)
    assert hours(doctor(*base, *option)) == pytest.approx(float(said[1]), rel=0.1)
    assert "freeze" not in words_about(doctor(*base, *option), LONG)  # it is not said twice


def test_a_run_that_cannot_be_tried_is_estimated_and_advised_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "LONGEST_STEP", 0.0)
    base = ["--steps", "4000000", "--set", "data.crop=128"]
    text = doctor(*base)
    assert "not tried on the CPU" in text
    option = advised(words_about(text, LONG))[0]
    assert option[0] == "--steps" and LONG not in doctor(*base, *option)


MEMORY = "  - a step needs about"


def test_advice_about_memory(machine: Machine) -> None:
    base = ["--set", "data.crop=256", "--set", "train.batch=8", "--steps", "5"]
    for memory, expected in ((3 * 10**9, ["train.batch", "data.crop"]), (10**9, ["train.batch"])):
        machine.memory = memory
        options = advised(words_about(doctor(*base), MEMORY))
        assert [option[-1].partition("=")[0] for option in options] == expected
        for option in options:
            assert MEMORY not in doctor(*base, *option), option
    machine.memory = 10**8
    assert "choose a smaller network.encoder, or use a GPU" in words_about(doctor(*base), MEMORY)


def test_advice_about_the_memory_of_a_vision_transformer(machine: Machine) -> None:
    machine.memory = 3 * 10**9
    base = [*TOKENS, "--set", "data.crop=256", "--set", "train.batch=8", "--steps", "5"]
    options = advised(words_about(doctor(*base), MEMORY))
    assert ["--set", "network.checkpointing=true"] in options
    for option in options:
        assert MEMORY not in doctor(*base, *option), option


def test_advice_about_a_batch_that_is_too_small(machine: Machine) -> None:
    base = ["--set", "network.decoder=deeplabv3plus_light", "--set", "train.batch=1"]
    base += ["--set", "network.output_stride=16", "--set", "network.atrous_rates=[1, 2, 3]"]
    text = doctor(*base)
    (option,) = advised(words_about(text, "the decoder normalises over at least"))
    assert "the decoder normalises" not in doctor(*base, *option)


WAITING = "warning: the steps wait for images"


def test_advice_about_loading(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.step = 1e-9
    now = [0.0]

    def batch(*given: Any) -> Any:
        now[0] += 0.1
        return real(*given)

    real = costs._batch
    monkeypatch.setattr(costs, "_batch", batch)

    def passing() -> float:
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr(costs.time, "perf_counter", passing)
    monkeypatch.setattr(costs, "try_steps", lambda *_: StepTimes(0.03, 0.03))
    monkeypatch.setattr(costs.os, "sched_getaffinity", lambda _: range(8))
    base = ["--set", "data.workers=1"]
    (option,) = advised(words_about(doctor(*base), WAITING))
    assert option == ["--set", "data.workers=4"]
    assert WAITING not in doctor(*base, *option)
    monkeypatch.setattr(costs.os, "sched_getaffinity", lambda _: range(1))
    line = words_about(doctor(*base), WAITING)
    assert "in a smaller size on disk" in line and not advised(line)


# -- data -----------------------------------------------------------------------------------------


def test_advice_about_few_scored_images(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("a\nb\n")
    mask = np.resize(np.array([0, 1], np.uint8), (32, 32))
    for number in range(34):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(mask).save(root / f"masks/{number}.png")
    words = ["doctor", "--method", "plain", "--preset", "light", "--cpu", "--data", str(root)]
    lists = {29: True, 30: False}
    for count, warned in lists.items():
        (root / "splits/val.txt").write_text("\n".join(map(str, range(count))))
        said = CliRunner().invoke(program, words).stdout
        assert (f"warning: only {count} images are scored" in said) == warned


def task(**values: Any) -> Task:
    request = ToyRequest(method="plain", preset="light", most_images=4, **values)
    return APP.task_module.make_task(APP, request, Recipe.of_request(APP, request), silently)


def test_a_smaller_crop_is_none_that_shows_too_little() -> None:
    asked: Callable[[int, float], int | None] = lambda crop, share: shortening.smaller_crop(  # noqa: E731
        task(set=[f"data.crop={crop}"]), share
    )
    assert asked(512, 0.5) == 352 and asked(512, 0.01) is None
    assert asked(64, 0.5) is None and asked(96, 0.5) == 64 and asked(96, 0.4) is None
