from __future__ import annotations

from collections import deque

import pytest
import torch

from u2pl.memory import class_queue
from u2pl.memory.class_queue import ClassQueue, Taken, take_first


def random_members(seed: int, classes: int, size: int, share: float = 0.3):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(classes, size, generator=draw) < share, torch.randperm(size, generator=draw)


def slow_take(member, limit, order):
    return [[n for n in order.tolist() if row[n]][:limit] for row in member]


@pytest.mark.parametrize("classes", [1, 2, 25])
@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("limit", [1, 5, 64, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_take_first_equals_its_loop(classes, size, limit, share):
    member, order = random_members(classes + size, classes, size, share)
    for given, in_order in ((order, order), (None, torch.arange(size))):
        taken = take_first(member, limit, given)
        for c, expected in enumerate(slow_take(member, limit, in_order)):
            assert taken.count_C[c] == len(expected)
            assert taken.index_CM[c, : len(expected)].tolist() == expected
        assert taken.index_CM.shape[1] >= taken.count_C.max()
        assert (
            (taken.index_CM >= 0) & (taken.index_CM < size)
        ).all()  # what lies beyond the count must be safe to look up


def test_a_random_order_makes_it_a_fair_sample():
    member = torch.ones(1, 10, dtype=torch.bool)
    member[0, 3] = False
    seen = torch.zeros(10)
    draw = torch.Generator().manual_seed(0)
    for _ in range(900):
        seen[take_first(member, 3, torch.randperm(10, generator=draw)).index_CM[0]] += 1
    assert seen[3] == 0
    assert (seen[member[0]] - 300).abs().max() < 60  # 300 +- 14


def push(queue: ClassQueue, keys: list[torch.Tensor], whole: bool = False) -> None:
    """Push these keys of each class, given as one table or by a function.

    Positions beyond a class's count point at a row of NaN, which must never be read.
    """
    table = torch.cat([torch.full_like(queue.rows[:1], torch.nan), *keys])
    counts = torch.tensor([len(k) for k in keys])
    index = torch.zeros(len(keys), max(1, int(counts.max())), dtype=torch.int64)
    begin = 1
    for c, count in enumerate(counts.tolist()):
        index[c, :count] = torch.arange(begin, begin + count)
        begin += count
    queue.push(Taken(index, counts), table if whole else lambda rows: table[rows])


def oldest_first(queue: ClassQueue, c: int) -> torch.Tensor:
    """The rows of a class in the order they came."""
    start, length, filled, head = (
        int(x[c]) for x in (queue.start, queue.length, queue.filled, queue.head)
    )
    return (
        torch.stack([queue.rows[start + (head - filled + i) % length] for i in range(filled)])
        if filled
        else queue.rows[:0]
    )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("chunk", [3, 8192])
@pytest.mark.parametrize("seed", range(4))
def test_queue_equals_deques_over_many_pushes(monkeypatch, chunk, seed, whole):
    monkeypatch.setattr(class_queue, "CHUNK", chunk)
    lengths, width = [11, 5, 1, 7], 3
    queue, slow = ClassQueue(lengths, width), [deque(maxlen=length) for length in lengths]
    draw = torch.Generator().manual_seed(seed)
    for _ in range(25):
        counts = torch.randint(0, 9, (4,), generator=draw) * (torch.rand(4, generator=draw) < 0.8)
        keys = [torch.randn(int(n), width, generator=draw) for n in counts]
        push(queue, keys, whole)
        for rows, new, length in zip(slow, keys, lengths, strict=True):
            rows.extend(new[:length])  # of more keys than fit, the first ones
        for c, rows in enumerate(slow):
            assert queue.filled[c] == len(rows)
            assert torch.equal(
                oldest_first(queue, c), torch.stack(list(rows)) if rows else torch.zeros(0, width)
            )


def test_of_more_candidates_than_fit_the_first_stay():
    queue = ClassQueue([4, 2], 1)
    push(queue, [torch.arange(9.0).view(-1, 1), torch.arange(10.0, 15.0).view(-1, 1)])
    assert oldest_first(queue, 0).flatten().tolist() == [0, 1, 2, 3]
    assert oldest_first(queue, 1).flatten().tolist() == [10, 11]


def test_pushing_nothing_changes_nothing():
    queue = ClassQueue([4, 2], 2)
    push(queue, [torch.ones(3, 2), torch.ones(1, 2)])
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    push(queue, [torch.zeros(0, 2), torch.zeros(0, 2)])
    for name in ("filled", "head"):
        assert torch.equal(queue.state_dict()[name], before[name])
    assert torch.equal(queue.rows[:-1], before["rows"][:-1])


def test_keys_that_carry_a_gradient_do_not_keep_it():
    queue = ClassQueue([4], 2)
    push(queue, [torch.ones(3, 2, requires_grad=True)])
    assert not queue.rows.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_16_bits(dtype):
    queue = ClassQueue([6, 4], 3, dtype)
    keys = [torch.randn(5, 3), torch.randn(2, 3)]
    push(queue, keys)
    assert queue.rows.dtype == dtype
    assert queue.nbytes == 10 * 3 * 2
    for c, key in enumerate(keys):
        assert torch.equal(oldest_first(queue, c), key.to(dtype))


def test_draw_stays_in_the_filled_part_of_its_own_class():
    queue = ClassQueue([7, 5, 3], 1)
    push(queue, [torch.zeros(4, 1), torch.zeros(5, 1), torch.zeros(0, 1)])
    uniform = torch.rand(3, 20, 50, generator=torch.Generator().manual_seed(0))
    uniform[:, 0, 0], uniform[:, 0, 1] = 0.0, 1 - 2**-24  # the ends of what rand can give
    rows = queue.draw(uniform)
    assert rows.shape == uniform.shape and rows.dtype == torch.int64
    assert rows[0].unique().tolist() == [0, 1, 2, 3]
    assert rows[1].unique().tolist() == [7, 8, 9, 10, 11]
    assert rows[2].unique().tolist() == [12]


def test_the_highest_draw_stays_inside_a_long_queue():
    queue = ClassQueue([50_000, 30_000], 1)
    queue.filled.copy_(queue.length)
    rows = queue.draw(torch.full((2, 1), 1 - 2**-24))
    assert rows[0] < 50_000 and 50_000 <= rows[1] < 80_000


def test_draw_is_uniform():
    queue = ClassQueue([8], 1)
    push(queue, [torch.zeros(8, 1)])
    counts = (
        queue.draw(torch.rand(1, 8000, generator=torch.Generator().manual_seed(1)))
        .flatten()
        .bincount(minlength=8)
    )
    assert (counts - 1000).abs().max() < 150  # 1000 +- 30


def test_state_dict_brings_everything_back():
    queue, other = ClassQueue([4, 3], 2), ClassQueue([4, 3], 2)
    push(queue, [torch.randn(6, 2), torch.randn(2, 2)])
    push(queue, [torch.randn(3, 2), torch.randn(2, 2)])
    other.load_state_dict(queue.state_dict())
    more = [torch.randn(2, 2), torch.randn(1, 2)]
    push(queue, more)
    push(other, more)
    for c in range(2):
        assert torch.equal(oldest_first(other, c), oldest_first(queue, c))


@pytest.mark.parametrize(
    "cast",
    [
        lambda q: q.half(),
        lambda q: q.double(),
        lambda q: q.to(torch.bfloat16),
        lambda q: q.to("cpu"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_casting_the_module_leaves_the_rows_alone(cast, dtype):
    queue = ClassQueue([4, 3], 2, dtype)
    push(queue, [torch.randn(3, 2), torch.randn(2, 2)])
    before = queue.rows.clone()
    holder = cast(torch.nn.Sequential(queue, torch.nn.Linear(2, 2)))
    assert holder[0].rows.dtype == dtype and torch.equal(holder[0].rows[:-1], before[:-1])
    assert holder[0].filled.dtype == torch.int64
    assert dict(holder.named_buffers())["0.rows"] is holder[0].rows


def test_pinned_rows_do_not_move():
    pinned, free = ClassQueue([4], 2, device="cpu"), ClassQueue([4], 2)
    assert pinned.to("meta").rows.device.type == "cpu"
    assert free.to("meta").rows.device.type == "meta"


def test_both_ways_to_write_leave_the_same_rows():
    """On a GPU every place is written, on a CPU only those that hold a key."""
    draw = torch.Generator().manual_seed(3)
    runs, full = (ClassQueue([5, 9, 4], 2) for _ in range(2))
    for _ in range(6):
        keys = torch.rand(12, 2, generator=draw)
        taken = take_first(torch.rand(3, 12, generator=draw) < 0.4, 9)
        count = torch.minimum(taken.count_C, full.length)
        runs.push(taken, lambda index, keys=keys: keys[index])
        full._write_all(taken.index_CM, count, lambda index, keys=keys: keys[index])
        full.head.copy_((full.head + count) % full.length)
        assert torch.equal(runs.head, full.head)
        assert torch.equal(runs.rows[:-1], full.rows[:-1])
