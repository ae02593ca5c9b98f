"""FIFO queues of keys, one per class: the papers' category-wise memory bank.

Shapes: N = candidates (pixels), M = members taken per class, P = positions, X = any more axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Rows per copy, which bounds the memory that a push needs besides the queue.
CHUNK = 8_192


class Taken(NamedTuple):
    """Members taken of each class."""

    index_CM: Tensor  # int64 positions of the candidates; arbitrary beyond the count
    count_C: Tensor  # int64, at most M


def take_first(member_CN: Tensor, limit: int, order_N: Tensor | None = None) -> Taken:
    """The first `limit` members of each class, in the given order.

    With a random permutation as the order, this samples without replacement. It is the following
    loop for all classes at once, without a host sync:

        for c in range(C):
            members = [n for n in order if member[c, n]]
            count[c] = min(len(members), limit)
            index[c, :count[c]] = members[:limit]

    Args:
        member_CN: bool, whether candidate n belongs to class c.
        limit: maximum number of members per class; M = min(limit, N).
        order_N: int64 permutation of the candidates; their own order when None.
    """
    classes, size = member_CN.shape
    limit = min(limit, size)
    member = member_CN if order_N is None else member_CN.gather(1, order_N.expand(classes, -1))
    source = torch.arange(size, device=member.device) if order_N is None else order_N
    place = member.cumsum(dim=1, dtype=torch.int32)
    count = place[:, -1].long().clamp(max=limit)
    # non-members, and members beyond the limit, go to a spare column
    place = torch.where(member & (place <= limit), place - 1, limit).long()
    index = torch.zeros(classes, limit + 1, dtype=torch.int64, device=member.device)
    return Taken(index.scatter_(1, place, source.expand(classes, -1))[:, :limit], count)


class ClassQueue(nn.Module):
    """Ring buffers of all classes in one table of rows; its whole state is in the checkpoint.

    Args:
        lengths: capacity of each class's queue, in rows.
        width: D, the length of a row.
        dtype: of the rows; float16 and bfloat16 halve the memory.
        device: where the rows stay when the module is moved; None moves them with it.
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
        # one spare row at the end, where writes that are to be dropped go
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
        """Maximum number of keys, all classes together."""
        return self.rows.shape[0] - 1

    @property
    def width(self) -> int:
        """D, the length of a key."""
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the keys in bytes."""
        return self.capacity * self.width * self.rows.element_size()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClassQueue:
        """Move or cast the module, but keep the rows' dtype and, if one was given, their device."""
        rows = self.rows
        super()._apply(fn, recurse)
        device = torch.device(self.pinned) if self.pinned is not None else self.rows.device
        self.rows = rows.to(device=device, dtype=self.dtype)
        return self

    @torch.no_grad()
    def push(self, taken: Taken, rows_of: Tensor | Callable[[Tensor], Tensor]) -> None:
        """Enqueue the taken keys of each class in place of its oldest.

        Of more keys than a queue holds, the first are kept.

        Args:
            taken: positions of the new keys, as from `take_first`.
            rows_of: the keys of all positions, [N, D], or a function that gives those of some,
                int64 positions [P] -> [P, D]; called for a chunk at a time.
        """
        count = torch.minimum(taken.count_C, self.length)
        if taken.index_CM.device.type == "cpu":
            self._write_runs(taken.index_CM, count, rows_of)
        else:
            self._write_all(taken.index_CM, count, rows_of)
        self.head.copy_((self.head + count) % self.length)
        self.filled.copy_(torch.minimum(self.filled + count, self.length))

    def _write_runs(
        self, index_CM: Tensor, count_C: Tensor, rows_of: Tensor | Callable[[Tensor], Tensor]
    ) -> None:
        """Where the counts live on the host: contiguous copies of each class's keys."""
        sizes = (tensor.tolist() for tensor in (self.start, self.head, self.length, count_C))
        for index_M, start, head, length, count in zip(index_CM, *sizes, strict=True):
            wrap = min(count, length - head)
            for begin, end in pairwise([*range(0, wrap, CHUNK), *range(wrap, count, CHUNK), count]):
                place = start + (head + begin) % length
                _copy_rows(rows_of, index_M[begin:end], self.rows[place : place + end - begin])

    def _write_all(
        self, index_CM: Tensor, count_C: Tensor, rows_of: Tensor | Callable[[Tensor], Tensor]
    ) -> None:
        """Where the counts live on the device: all C x M keys, the surplus ones to the spare row.

        The shapes do not depend on the counts, so there is no host sync.
        """
        place = torch.arange(index_CM.shape[1], device=index_CM.device)
        ring = (self.head.unsqueeze(1) + place) % self.length.unsqueeze(1)
        target = self.start.unsqueeze(1) + ring
        target = torch.where(place < count_C.unsqueeze(1), target, self.rows.shape[0] - 1).flatten()
        for index, where in zip(
            index_CM.flatten().split(CHUNK), target.to(self.rows.device).split(CHUNK), strict=True
        ):
            found = _rows(rows_of, index).to(self.rows.device, self.dtype)
            self.rows.index_copy_(0, where, found)

    def draw(self, uniform_CX: Tensor) -> Tensor:
        """Rows drawn with replacement from each class's queue; an empty queue gives its first row.

        Args:
            uniform_CX: uniform random numbers in [0, 1), float [C, ...].

        Returns:
            int64 row numbers of the same shape, on the rows' device.
        """
        shape = (-1, *[1] * (uniform_CX.dim() - 1))
        filled = self.filled.view(shape)
        index = (uniform_CX * filled).long().clamp(max=filled.sub(1).clamp(min=0))
        return (self.start.view(shape) + index).to(self.rows.device)

    def draw_own(self, uniform_A: Tensor, own_A: Tensor) -> Tensor:
        """One row of queue `own[a]` for each a; its first row if it is empty.

        Args:
            uniform_A: uniform random numbers in [0, 1).
            own_A: int64, which queue.
        """
        filled = self.filled[own_A]
        index = (uniform_A * filled).long().clamp(max=filled.sub(1).clamp(min=0))
        return (self.start[own_A] + index).to(self.rows.device)

    def draw_others(self, uniform_AX: Tensor, own_A: Tensor) -> Tensor:
        """Rows drawn with replacement from all queues but `own[a]`, each stored row alike.

            rows = [row for queue in queues if queue != own for row in queue]
            out[a, x] = rows[int(uniform[a, x] * len(rows))]

        Args:
            uniform_AX: uniform random numbers in [0, 1).
            own_A: int64, which queue is left out.

        Returns:
            int64 row numbers of the same shape, on the rows' device; arbitrary if there are none.
        """
        end = self.filled.cumsum(0)
        begin, own = end - self.filled, own_A.unsqueeze(1)
        others = end[-1] - self.filled[own]
        place = (uniform_AX.double() * others).long().clamp(max=(others - 1).clamp(min=0))
        # skip the own queue's rows
        place = torch.where(place >= begin[own], place + self.filled[own], place)
        queue = torch.searchsorted(end, place, right=True).clamp(max=len(end) - 1)
        return (self.start[queue] + place - begin[queue]).to(self.rows.device)

    def extra_repr(self) -> str:
        classes, size = len(self.length), self.nbytes / 2**20
        return f"classes={classes}, rows={self.capacity}, width={self.width}, {size:.0f} MiB"


def _rows(rows_of: Tensor | Callable[[Tensor], Tensor], index_P: Tensor) -> Tensor:
    return rows_of.index_select(0, index_P) if isinstance(rows_of, Tensor) else rows_of(index_P)


def _copy_rows(
    rows_of: Tensor | Callable[[Tensor], Tensor], index_P: Tensor, out_PD: Tensor
) -> None:
    """Copy rows once, without a temporary if they need no other dtype."""
    if isinstance(rows_of, Tensor) and rows_of.dtype == out_PD.dtype:
        torch.index_select(rows_of, 0, index_P, out=out_PD)
    else:
        out_PD.copy_(_rows(rows_of, index_P))
