"""Memory: how much there is, what a step takes at least, reusing what was freed."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from u2pl import distributed
from u2pl.counting import amount
from u2pl.errors import UserError
from u2pl.evaluate.inference import evaluating
from u2pl.methods.method import AnyMethod
from u2pl.training.config import DataConfig, TrainConfig

#: What a container may take at most: the systems' second and first way of saying it.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
#: Side in pixels of the image that is tried, in units of what the network divides sides by.
_TRIED = 2

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Make glibc reuse large freed blocks instead of returning them to the system.

    Every step allocates and frees the same large tensors; once returned, each of their pages causes
    a page fault again. Does nothing except on Linux with glibc. Returns whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # older versions accept no more than 32 MiB
    kept = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)
    return bool(kept and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))


def memory_of(device: torch.device) -> int:
    """Bytes that the GPU, or the machine or container, has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for file in _LIMITS if (limit := _limit(file)) > 0)])


def kept_bytes(network: nn.Module, image_3HW: Tensor) -> int:
    """Bytes that autograd keeps of an image's forward pass, for the backward one."""
    own = (*network.parameters(), *network.buffers())
    held = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # BatchNorm cannot train on one image; in evaluation mode it keeps the same tensors
    with (
        evaluating([network]),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        network(image_3HW[None])
    return sum(kept.values())


def check_memory(
    method: AnyMethod, train: TrainConfig, data: DataConfig, device: torch.device
) -> None:
    """Refuse a step that cannot fit, before anything is taken.

    A lower bound: what autograd keeps of the labelled images alone, from a small one by its area.
    `doctor` tells more closely, by an image or by whole steps.

    Args:
        method: on the device where it was built.
        train: batch and precision.
        data: crop.
        device: that it is trained on.

    Raises UserError if the bound is above what the device has.
    """
    side = _TRIED * method.student.divisor
    small = torch.zeros(method.student.channels, side, side, device=method.device)
    full = device.type == "cpu" and train.precision in ("auto", "float32")
    bytes_per_pixel = kept_bytes(method.student, small) / side**2 / (1 if full else 2)
    image = bytes_per_pixel * data.crop**2
    # on a CPU all processes share the memory
    images = train.batch if device.type == "cpu" else -(-train.batch // distributed.world_size())
    limit = memory_of(device) - sum(queue.nbytes for queue in method.queues() if not queue.pinned)
    if images * image <= limit:
        return
    share = max(limit, 0) / (images * image)
    most, crop = int(train.batch * share), int(data.crop * share**0.5)
    enough = most >= method.student.min_images
    less = f"train.batch of at most {most}" if enough else f"data.crop of at most {crop}"
    raise UserError(
        f"a step keeps at least {amount(images * image)} of its images, {train.batch} of "
        f"{data.crop} x {data.crop} pixels, and there are {amount(max(limit, 0))}: set a smaller "
        f"{less}; doctor says what fits"
    )


def _limit(file: Path) -> int:
    """The bytes that a file of the system names; 0 if it names none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
