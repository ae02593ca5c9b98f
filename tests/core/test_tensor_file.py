from __future__ import annotations

import random
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from u2pl.files import in_memory, replace_file
from u2pl.tensor_file import (
    DTYPES,
    SHA256,
    Damaged,
    Kind,
    differing,
    not_finite,
    read_facts,
    read_kinds,
    read_tensors,
    tensor_file,
)


def drawn() -> dict[str, Tensor]:
    """Tensors of every type and of odd shapes, one of them in another layout."""
    draw = torch.Generator().manual_seed(0)
    found = {
        f"{dtype}".partition(".")[2]: torch.randint(0, 2, (3, 5), generator=draw).to(dtype)
        for dtype in DTYPES
    }
    image = torch.rand(2, 3, 4, 5, generator=draw)
    return found | {
        "image": image.to(memory_format=torch.channels_last),
        "part": image[:, 1],
        "number": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "ü \"quoted\"": torch.tensor([True]),
    }  # fmt: skip


FACTS = {"step": "3", "zeros": "0" * 64, "name": 'ü "quoted"\n'}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    replace_file(tmp_path / "file.safetensors", tensor_file(drawn(), FACTS))
    return tmp_path / "file.safetensors"


def test_what_is_written_is_read_and_checked(path: Path) -> None:
    tensors, facts, checked = read_tensors(path)
    assert facts == FACTS and checked and tensors.keys() == drawn().keys()
    for name, value in drawn().items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype
    assert read_kinds(path) == {name: Kind.of(value) for name, value in drawn().items()}
    assert read_facts(path)["step"] == "3"
    assert in_memory(tensor_file(drawn(), FACTS)) == path.read_bytes()


def test_any_reader_of_safetensors_reads_it_and_tensors_lie_at_multiples_of_their_size(
    path: Path,
) -> None:
    theirs = load_file(path)
    assert all(torch.equal(theirs[name], value) for name, value in drawn().items())
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {*FACTS, SHA256}
    assert all(value.data_ptr() % value.element_size() == 0 for value in theirs.values())


def test_nothing_is_copied_but_what_lies_in_another_order() -> None:
    """A state is the largest thing in memory already."""

    class Watched(BytesIO):
        def write(self, data: Any) -> int:
            given.append(np.frombuffer(data, np.uint8).ctypes.data if len(data) else 0)
            return super().write(data)

    given: list[int] = []
    tensors = {f"{i}": torch.rand(4, 5) for i in range(3)} | {"turned": torch.rand(4, 5).T}
    content = tensor_file(tensors)
    assert callable(content)
    content(Watched())
    own = {name: value.data_ptr() in given for name, value in tensors.items()}
    assert own == {"0": True, "1": True, "2": True, "turned": False}


def test_a_flipped_bit_is_found_wherever_it_is(path: Path) -> None:
    whole, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    # blanks behind the header mean nothing
    end = len(whole[:header].rstrip())
    places = [
        *(draw.randrange(8 * 8, 8 * end) for _ in range(200)),
        *(draw.randrange(8 * header, 8 * len(whole)) for _ in range(200)),
    ]
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with suppress(Damaged):
            assert not read_tensors(path).checked  # it has hit the digest's name


def test_tensors_that_were_renamed_retyped_reshaped_or_exchanged_are_found(path: Path) -> None:
    tensors = read_tensors(path).tensors
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    save_file(tensors, path, facts)
    assert read_tensors(path).checked  # the same in another order
    changes = {
        "renamed": {"other": tensors["number"]},
        "retyped": {"number": tensors["number"].int()},
        "the same bits": {"float32": tensors["float32"].view(torch.int32)},
        "reshaped": {"float32": tensors["float32"].T.contiguous()},
        "one number": {"number": torch.tensor(8)},
    }
    for change in changes.values():
        save_file({k: v for k, v in tensors.items() if k != "number"} | change, path, facts)
        with pytest.raises(Damaged, match="the SHA-256 is another one"):
            read_tensors(path)
    save_file(tensors, path, facts | {"step": "4"})
    with pytest.raises(Damaged):
        read_tensors(path)


def test_a_file_of_somebody_else_is_read_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(2)}, path, {"format": "pt"})
    tensors, facts, checked = read_tensors(path)
    assert torch.equal(tensors["a"], torch.ones(2)) and facts == {"format": "pt"} and not checked


@pytest.mark.parametrize("content", [None, b"", b"\x80" * 20, b"\xff" * 8 + b"{}"])
def test_what_is_no_file_of_tensors_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file.safetensors"
    if content is not None:
        path.write_bytes(content)
    for read in (read_tensors, read_kinds, read_facts):
        with pytest.raises(Damaged):
            read(path)


def test_a_difference_is_said_with_its_first_tensor() -> None:
    wanted = {"a": Kind((2,), "F32"), "b": Kind((), "I64")}
    many = "tensors are missing, unknown or of another shape or type; first:"
    assert differing(wanted, wanted) == ""
    assert differing(wanted, {"a": wanted["a"]}) == f"1 {many} b"
    assert differing(wanted, wanted | {"c": wanted["a"]}) == f"1 {many} c"
    assert (
        differing(wanted, wanted | {"a": Kind((2,), "F16")}) == f"1 {many} a (F16 [2], not F32 [2])"
    )
    assert not_finite({"a": torch.ones(2), "b": torch.tensor(1)}) == ""
    said = not_finite({"a": torch.ones(2), "b": torch.tensor([0, torch.inf])})
    assert said == "numbers that are not finite, in 1 tensors; first: b"
