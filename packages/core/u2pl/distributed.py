"""The only file that uses `torch.distributed`: collectives over the training processes.

Without a process group, or with a single process, each collective is the identity or does nothing,
so callers need not branch on the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_peer_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process has ended or does not answer."""
    # before they are connected only the launcher's word tells that there are several
    several = world_size() > 1 or os.environ.get("WORLD_SIZE", "1") != "1"
    lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return several and lost


def device() -> torch.device:
    """Device that collectives work on: the GPU with the NCCL backend, else the CPU."""
    return torch.device("cuda" if world_size() > 1 and dist.get_backend() == "nccl" else "cpu")


def total(value: Tensor) -> Tensor:
    """Sum over processes (all-reduce), detached."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def largest(value: Tensor) -> Tensor:
    """Largest over processes (all-reduce), detached."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def average(value: Tensor) -> Tensor:
    """Mean over processes (all-reduce), detached.

    A loss that divides its local sum by the average of the local counts has, once gradients are
    averaged over processes, the gradient of the global mean.
    """
    if world_size() == 1:
        return value.detach()
    return total(value.float() if not value.is_floating_point() else value) / world_size()


def share(part: Tensor, whole: Tensor) -> Tensor:
    """The sum of `part` over processes, divided by that of `whole`; 0 if the latter is 0."""
    return total(part.float()) / total(whole.float()).clamp(min=1)


def gather(value: Tensor) -> Tensor:
    """Concatenate along the first axis in rank order (all-gather), detached.

    Every process must hold the same number of rows.
    """
    if world_size() == 1:
        return value.detach()
    value = value.detach().contiguous()
    as_bytes = value.view(torch.uint8) if value.dtype == torch.bool else value
    out = as_bytes.new_empty((world_size() * as_bytes.shape[0], *as_bytes.shape[1:]))
    dist.all_gather_into_tensor(out, as_bytes)
    return out.view(value.dtype)


@torch.no_grad()
def average_all(values: Sequence[Tensor]) -> None:
    """Average float tensors over processes in place, in one all-reduce (BatchNorm statistics)."""
    if world_size() > 1 and values:
        mean = average(torch.cat([value.flatten().float() for value in values]))
        for value, part in zip(values, mean.split([v.numel() for v in values]), strict=True):
            value.copy_(part.view_as(value))


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def from_first(text: str) -> str:
    """What the first process says; the others wait for it."""
    said = [text]
    if world_size() > 1:
        dist.broadcast_object_list(said, device=device())
    return said[0]


def next_in_batch(value: Tensor) -> Tensor:
    """Roll the global batch by one: each image gets the next one's value, the last the first's."""
    if world_size() == 1:
        return value.roll(-1, dims=0)
    first = gather(value[:1])[(rank() + 1) % world_size()]
    return torch.cat([value[1:], first.unsqueeze(0)])


def reversed_in_batch(value: Tensor) -> Tensor:
    """Turn the global batch around: the first image gets the last one's value, and so on."""
    return local_rows(gather(value).flip(0))


def pick(value: Tensor, index: Tensor) -> Tensor:
    """Rows of the global batch, by their place in it.

    Args:
        value: this process's rows.
        index: int64 places, a different list on each process.
    """
    return gather(value)[index]


def local_rows(value: Tensor) -> Tensor:
    """This process's rows of a tensor drawn identically on every process: an equal share each."""
    size = value.shape[0] // world_size()
    return value[rank() * size : (rank() + 1) * size]
