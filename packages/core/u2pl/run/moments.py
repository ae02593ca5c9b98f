"""What a method makes of a few of its images, kept at moments of training for a person to look at.

B C H W as in u2pl.notation; h, w: of a kept map.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.data.channels import as_photo
from u2pl.errors import LoadingError, UserError
from u2pl.evaluate.inference import evaluating
from u2pl.evaluate.scoring import Example, load_example
from u2pl.files import make_folder, parse_json, replace_file
from u2pl.maps import resize_image, shrink_factor
from u2pl.methods.method import AnyMethod
from u2pl.notation import IGNORE, padding
from u2pl.run.task import Part, Task
from u2pl.schedules import Progress
from u2pl.tensor_file import Damaged, read_tensors, tensor_file

#: Folder of the moments in that of a run.
MOMENTS = "moments"
#: Images that are looked at: of the last stream, and of each other one.
COUNT, OTHERS = 4, 2
#: Long side in pixels, at most: of an image that the method is shown, and of the maps kept.
SHOWN, KEPT = 320, 160


class Look(NamedTuple):
    """An image, and what the method makes of it."""

    id: str
    role: str  # labelled, target, ...
    image: np.ndarray  # uint8 [h, w, 3]
    truth: np.ndarray  # uint8 [h, w], 255 = unknown: training opens no masks but the labelled ones
    maps: dict[str, np.ndarray]  # [h, w]: uint8 class ids, float from 0 to 1, or bool


class Moment(NamedTuple):
    """What the method makes of some images after a number of steps."""

    step: int
    looks: list[Look]


def keep_moment(folder: Path, task: Task, method: AnyMethod, progress: Progress) -> None:
    """Show the method a few images of training and write down what it makes of them.

    The same images every time. Neither the method nor what is drawn in training changes.

    Args:
        folder: of the run.
        task: what is run.
        method: on any device.
        progress: of the last step.

    Raises:
        LoadingError: An image cannot be read.
        DiskError: The disk is full.
    """
    side = min(task.recipe.sections.data.crop, SHOWN)
    chosen, examples = [], []
    for part, id in _chosen(task):
        try:
            examples.append(_shrunk(*_example(part, id), side))
        except UserError as error:
            if part.masked:  # a run can go on once that is mended
                raise LoadingError(str(error)) from None
            continue  # training leaves it out as well
        chosen.append((part, id))
    height, width = (max(label.shape[axis] for _, label in examples) for axis in (0, 1))
    device = method.device
    colour = torch.tensor(padding(len(examples[0][0])), dtype=torch.uint8)
    image = colour.view(1, -1, 1, 1)
    image = image.repeat(len(chosen), 1, height, width)
    valid = torch.zeros(len(chosen), height, width, dtype=torch.bool)
    for i, (pixels, label) in enumerate(examples):
        image[i, :, : label.shape[0], : label.shape[1]] = pixels
        valid[i, : label.shape[0], : label.shape[1]] = True
    tags = task.tags_of([id for _, id in chosen])
    with evaluating([method]):
        shown = None if tags is None else tags.to(device)
        maps = method.explain(image.to(device), valid.to(device), shown, progress)
    tensors = {}
    for i, (pixels, label) in enumerate(examples):
        h, w = label.shape
        small = _small(pixels.float()).round().to(torch.uint8)
        colours = as_photo(small.permute(1, 2, 0).numpy())
        tensors[f"{i}.image"] = torch.from_numpy(colours).permute(2, 0, 1).contiguous()
        tensors[f"{i}.truth"] = _small(label)
        for name, value in maps.items():
            tensors[f"{i}.{name}"] = _small(value[i, :h, :w].cpu())
    facts = {
        "step": str(progress.step + 1),
        "images": json.dumps([[part.role, id] for part, id in chosen]),
        "maps": json.dumps(list(maps)),
    }
    make_folder(folder / MOMENTS)
    path = folder / MOMENTS / f"{progress.step + 1:07}.safetensors"
    replace_file(path, tensor_file(tensors, facts))


def read_moments(folder: Path) -> list[Moment]:
    """The moments of a run in the order of their steps; UserError if a file is damaged."""
    return [_read(path) for path in sorted((folder / MOMENTS).glob("*.safetensors"))]


def _read(path: Path) -> Moment:
    try:
        held = read_tensors(path)
        arrays, facts = {key: value.numpy() for key, value in held.tensors.items()}, held.facts
        images, names = parse_json(facts["images"]), parse_json(facts["maps"])
        looks = [
            Look(
                id,
                role,
                arrays[f"{i}.image"].transpose(1, 2, 0),
                arrays[f"{i}.truth"],
                {name: arrays[f"{i}.{name}"] for name in names},
            )
            for i, (role, id) in enumerate(images)
        ]
        _check(looks)
        return Moment(int(facts["step"]), looks)
    except (Damaged, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it, it is only for "
            "the report"
        ) from error


def _check(looks: list[Look]) -> None:
    """ValueError if there is nothing, or something that is no picture."""
    if not looks:
        raise ValueError("it holds no images")
    for look in looks:
        if look.image.dtype != np.uint8 or look.image.shape[2:] != (3,) or not look.image.size:
            raise ValueError(f"the image of {look.id} is none")
        maps = (look.truth, *look.maps.values())
        if look.truth.dtype != np.uint8 or any(m.shape != look.image.shape[:2] for m in maps):
            raise ValueError(f"a map of {look.id} is none of its image")


def _chosen(task: Task) -> Iterator[tuple[Part, str]]:
    """Some images of each stream, evenly spread; the last stream is the one to learn from."""
    *others, last = task.streams
    for part, count in [*((part, OTHERS) for part in others), (last, COUNT)]:
        count = min(count, len(part.ids))
        for i in range(count):
            yield part, part.ids[i * len(part.ids) // count]


def _example(part: Part, id: str) -> Example:
    """An image, with its mask if the run learns from it."""
    if part.masked:
        return load_example(part.source, id)
    image = torch.from_numpy(np.array(part.source.image(id))).permute(2, 0, 1)
    return Example(image, torch.full_like(image[0], IGNORE))


def _shrunk(image_3HW: Tensor, label_HW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Image and label with sides of at most `side` pixels."""
    size = (label_HW.shape[0], label_HW.shape[1])
    factor = shrink_factor(size, side)
    if factor == 1:
        return image_3HW, label_HW
    fitted = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    image = resize_image(image_3HW[None].float(), fitted)[0].round().to(torch.uint8)
    return image, _nearest(label_HW, fitted)


def _small(value: Tensor) -> Tensor:
    """A map or an image with sides of at most `KEPT` pixels; shares as 16-bit floats."""
    size = (value.shape[-2], value.shape[-1])
    factor = shrink_factor(size, KEPT)
    fitted = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    if not value.is_floating_point():
        return value if fitted == size else _nearest(value, fitted)
    shape = value.shape[:-2]
    small = resize_image(value.float().reshape(1, -1, *size), fitted).reshape(*shape, *fitted)
    return small if value.dim() == 3 else small.to(torch.float16)


def _nearest(value_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of ids or marks at another size, in its own dtype."""
    resized = F.interpolate(value_HW[None, None].float(), size, mode="nearest-exact")
    return resized[0, 0].to(value_HW.dtype)
