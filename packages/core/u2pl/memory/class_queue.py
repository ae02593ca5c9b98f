"""A first-in-first-out queue of keys for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Rows copied at once: what a push needs beyond the queue itself.
CHUNK = 8_192


class Taken(NamedTuple):
    """For each class the places of its first candidates."""

    index_CK: Tensor  # int64 positions; arbitrary beyond the count
    count_C: Tensor  # int64, at most K


def take_first(member_CN: Tensor, limit: int, order_N: Tensor | None = None) -> Taken:
    """The first `limit` members of each class, in the order given (a random permutation makes this a sample without repeats).

    In words, but for all classes at once and without waiting for the device::

        for c in range(C):
            members = [n for n in order if member[c, n]]
            count[c] = min(len(members), limit)
            index[c, :count[c]] = members[:limit]

    Args:
        member_CN: bool, candidate n belongs to class c.
        limit: K, at most this many of each class.
        order_N: int64 permutation of the candidates; as they stand when None.
    """
    classes, size = member_CN.shape
    limit = min(limit, size)
    member = member_CN if order_N is None else member_CN.gather(1, order_N.expand(classes, -1))
    source = torch.arange(size, device=member.device) if order_N is None else order_N
    place = member.cumsum(dim=1, dtype=torch.int32)
    count = place[:, -1].long().clamp(max=limit)
    # members beyond the limit and all others land in a spare column
    place = torch.where(member & (place <= limit), place - 1, limit).long()
    index = torch.zeros(classes, limit + 1, dtype=torch.int64, device=member.device)
    return Taken(index.scatter_(1, place, source.expand(classes, -1))[:, :limit], count)


class ClassQueue(nn.Module):
    """Ring buffers for all classes in one table of rows; everything in it is a buffer and so part of every checkpoint.

    Args:
        lengths: capacity of each class's queue, in rows.
        width: D, numbers in a row.
        dtype: of the rows; float16 or bfloat16 halve the memory.
        device: where the rows stay whatever the module is moved to; None moves them with it.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.pinned = device
        self.dtype = dtype
        length = torch.tensor(lengths, dtype=torch.int64)
        # one spare row at the end takes what is not to be kept
        self.register_buffer(
            "rows", torch.zeros(int(length.sum()) + 1, width, dtype=dtype, device=device)
        )
        self.register_buffer("length", length, persistent=False)
        self.register_buffer("start", length.cumsum(0) - length, persistent=False)
        self.register_buffer("filled", torch.zeros_like(length))
        self.register_buffer("head", torch.zeros_like(length))

    rows: Tensor
    length: Tensor
    start: Tensor
    filled: Tensor
    head: Tensor

    @property
    def capacity(self) -> int:
        """Keys of all classes together."""
        return self.rows.shape[0] - 1

    @property
    def width(self) -> int:
        """Numbers of a key."""
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the keys in bytes."""
        return self.capacity * self.width * self.rows.element_size()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClassQueue:
        """Moving or casting the module leaves the rows' dtype alone, and their device where one was asked for."""
        rows = self.rows
        super()._apply(fn, recurse)
        device = torch.device(self.pinned) if self.pinned is not None else self.rows.device
        self.rows = rows.to(device=device, dtype=self.dtype)
        return self

    @torch.no_grad()
    def push(self, taken: Taken, rows_of: Callable[[Tensor], Tensor]) -> None:
        """Append the taken keys of each class, dropping its oldest rows; of more keys than a queue holds, the first are kept.

        Args:
            taken: positions of new keys, as from `take_first`.
            rows_of: gives the rows [P, D] for positions [P]; called for a chunk at a time.
        """
        count = torch.minimum(taken.count_C, self.length)
        if taken.index_CK.device.type == "cpu":
            self._write_runs(taken.index_CK, count, rows_of)
        else:
            self._write_all(taken.index_CK, count, rows_of)
        self.head.copy_((self.head + count) % self.length)
        self.filled.copy_(torch.minimum(self.filled + count, self.length))

    def _write_runs(
        self, index_CK: Tensor, count_C: Tensor, rows_of: Callable[[Tensor], Tensor]
    ) -> None:
        """Where the counts are known without waiting: each class's keys and no others, copied to where they follow one another."""
        sizes = (tensor.tolist() for tensor in (self.start, self.head, self.length, count_C))
        for index_K, start, head, length, count in zip(index_CK, *sizes, strict=True):
            wrap = min(count, length - head)
            for begin, end in pairwise([*range(0, wrap, CHUNK), *range(wrap, count, CHUNK), count]):
                place = start + (head + begin) % length
                self.rows[place : place + end - begin] = rows_of(index_K[begin:end])

    def _write_all(
        self, index_CK: Tensor, count_C: Tensor, rows_of: Callable[[Tensor], Tensor]
    ) -> None:
        """Where they are not: every place is written, those beyond the count to the spare row."""
        place = torch.arange(index_CK.shape[1], device=index_CK.device)
        target = self.start.unsqueeze(1) + (self.head.unsqueeze(1) + place) % self.length.unsqueeze(
            1
        )
        target = torch.where(place < count_C.unsqueeze(1), target, self.rows.shape[0] - 1).flatten()
        for index, where in zip(
            index_CK.flatten().split(CHUNK), target.to(self.rows.device).split(CHUNK), strict=True
        ):
            self.rows.index_copy_(0, where, rows_of(index).to(self.rows.device, self.dtype))

    def draw(self, uniform_CX: Tensor) -> Tensor:
        """Row numbers drawn with replacement from each class's queue; of an empty queue, its first row.

        Args:
            uniform_CX: float numbers in [0, 1), any number of them per class.

        Returns:
            int64 row numbers of the same shape, on the rows' device.
        """
        shape = (-1, *[1] * (uniform_CX.dim() - 1))
        filled = self.filled.view(shape)
        index = (uniform_CX * filled).long().clamp(max=filled.sub(1).clamp(min=0))
        return (self.start.view(shape) + index).to(self.rows.device)

    def extra_repr(self) -> str:
        return f"classes={len(self.length)}, rows={self.capacity}, width={self.width}, {self.nbytes / 2**20:.0f} MiB"
