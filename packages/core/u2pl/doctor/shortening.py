"""What makes a run that is too long, or too large, smaller: options with their values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from u2pl.counting import duration
from u2pl.doctor.trial import try_one_image
from u2pl.errors import UserError
from u2pl.methods.method import AnyMethod
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM
from u2pl.networks.segmentor import Segmentor
from u2pl.run.task import Task

#: The weights that every encoder has.
IMAGENET = "imagenet"
#: Seconds of a run from which on it is said how to shorten it.
LONG = 2 * 3600.0
#: Encoders that take less time, by how the names of others begin; the first that does is named.
SMALLER = {
    "mit_": ("mit_b0",),
    "vit_": ("vit_small_patch14_dinov2",),
    "": ("tf_efficientnet_lite0", "resnet10t"),
}
#: Share of an encoder's time from which on another one is not worth naming.
WORTH = 0.7
#: Share of the pixels in a crop of half the side.
HALF = 0.25
#: No crop below this side is advised; encoders see too little in it.
LEAST_CROP = 64


class Length(NamedTuple):
    """Seconds of a run."""

    training: float
    scoring: float

    @property
    def total(self) -> float:
        """Of all of it."""
        return self.training + self.scoring


def shorter(
    task: Task, method: AnyMethod, image_3HW: torch.Tensor, length: Length
) -> Iterator[str]:
    """Options that shorten a run, each with the time that is then left.

    Args:
        task: what is run.
        method: on the device of the run.
        image_3HW: a crop of training.
        length: of the run as it is.
    """
    sections, room = task.recipe.sections, LONG - length.scoring
    if room > LONG / 4:
        steps = _two_digits(task.total * room / length.training)
        option = "--set train.steps=" if _sets_steps(task) else "--steps "
        yield _said(f"{option}{steps}", length.training * steps / task.total + length.scoring)
    crop = smaller_crop(task, max(room / length.training, HALF))  # some context must be left
    if crop is not None:
        share = (crop / sections.data.crop) ** 2
        yield _said(f"--set data.crop={crop}", length.training * share + length.scoring)
    encoder = _smaller_encoder(task, method, image_3HW)
    if encoder is not None:
        option, share = encoder
        yield _said(option, length.total * share)
    if is_vit(method.student):
        share = _frozen_share(method.student, image_3HW)
        if share < WORTH:
            left = length.training * share + length.scoring
            yield _said("--set network.freeze_encoder=true", left)
    if length.scoring > LONG / 4 and sections.train.evaluations > 1:
        once = length.scoring / sections.train.evaluations
        yield _said("--set train.evaluations=1", length.training + once)


def smaller_crop(task: Task, share: float) -> int | None:
    """The largest crop with at most this share of the pixels; None if no crop is worth naming.

    Args:
        task: what is run.
        share: of the time or memory of the present crop.
    """
    present = task.recipe.sections.data.crop
    crop = int(present * math.sqrt(share)) // 32 * 32
    return crop if LEAST_CROP <= crop < present else None


def smaller(task: Task, share: float, student: Segmentor) -> str:
    """Options that bring the memory of a step down to a share of it, as they are typed.

    Args:
        task: what is run.
        share: of the memory of the present batch and crop.
        student: as it is.
    """
    batch, crop = int(task.recipe.sections.train.batch * share), None
    if share >= HALF:
        crop = smaller_crop(task, share)
    options = [f"--set train.batch={batch}"] if batch >= student.min_images else []
    # tokens of all blocks are most of what a ViT keeps; checkpointing leaves one map per block
    if share >= HALF and is_vit(student) and not task.network().checkpointing:
        options.append("--set network.checkpointing=true")
    options += [f"--set data.crop={crop}"] if crop is not None else []
    return " or ".join(options) or "choose a smaller network.encoder"


def is_vit(student: Segmentor) -> bool:
    """Whether the encoder is a plain Vision Transformer that is trained."""
    return len({*student.encoder.strides}) == 1 and not student.encoder.frozen


def _frozen_share(student: Segmentor, image_3HW: torch.Tensor) -> float:
    """Share of a step's time that is left if the encoder is frozen.

    A step has a forward pass of student and teacher each, and a backward pass of twice that time.
    """
    student.encoder.frozen = True  # for the measurement alone
    try:
        one = try_one_image(student, image_3HW)
    finally:
        student.encoder.frozen = False
    return (4 * one.seconds - 2 * one.fixed) / (4 * one.seconds)


def _said(option: str, seconds: float) -> str:
    return f"{option} (about {duration(seconds)})"


def _two_digits(number: float) -> int:
    """The number rounded down to two digits, at least 1."""
    unit = 10 ** max(0, int(math.log10(max(number, 1))) - 1)
    return max(1, int(number) // unit * unit)


def _sets_steps(task: Task) -> bool:
    """Whether `--steps` would be overruled by a `--set`."""
    return any(each.partition("=")[0] == "train.steps" for each in task.request.set)


def _smaller_encoder(
    task: Task, method: AnyMethod, image_3HW: torch.Tensor
) -> tuple[str, float] | None:
    """An encoder that takes less time as one types it, and the share of the time that it takes."""
    network, present = task.network(), method.student
    names = next(names for begin, names in SMALLER.items() if network.encoder.startswith(begin))
    before = try_one_image(present, image_3HW).seconds
    weights = network.encoder_weights
    for name in names:
        changes = {"encoder": name, "encoder_weights": RANDOM}
        try:
            config = network.model_copy(update=changes)
            found = build_segmentor(config, len(task.classes), task.channels)
        except UserError:  # this decoder or stride does not go with it
            continue
        share = try_one_image(found.to(image_3HW.device), image_3HW).seconds / before
        if share < WORTH:
            # a file of weights belongs to the present encoder
            own = weights not in (IMAGENET, RANDOM)
            others = f" --set network.encoder_weights={IMAGENET}" if own else ""
            return f"--set network.encoder={name}{others}", share
    return None
