"""The judge itself: what is planted is found, and what is not mutated is accepted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.mutations import (
    Mutate,
    in_bytes,
    in_json,
    in_json_lines,
    in_png,
    in_safetensors,
    in_text,
    in_toml,
)
from harness.verdicts import (
    Judged,
    Subject,
    Verdict,
    expect,
    judge,
    judge_cases,
    judge_untouched,
)
from harness.world import type_words
from u2pl.errors import UserError

NUMBER = b"number = 7\n"


def number_in(text: str) -> int:
    """A reader without a fault."""
    try:
        name, number = text.split(" = ")
        found = int(number)
    except ValueError:
        raise UserError("number.txt holds no number: write one") from None
    if name != "number" or not number.strip().isdecimal():
        raise UserError("number.txt holds something else")
    return found


def accepts_anything(text: str) -> int:
    """What is no number is 7."""
    try:
        return number_in(text)
    except UserError:
        return 7


def crashes(text: str) -> int:
    """What is no number is not foreseen."""
    try:
        return number_in(text)
    except UserError as error:
        raise ValueError("not foreseen") from error


def is_the_number(folder: Path, found: int) -> None:
    written = (folder / "number.txt").read_text().split("=")[1]
    expect(written.strip().isdecimal() and found == int(written), found)


def subject(reader: Callable[[str], int]) -> Subject:
    def prepare(draw: Random, folder: Path) -> str:
        content, words = in_text(draw, NUMBER)
        (folder / "number.txt").write_bytes(content)
        return words

    def act(folder: Path) -> int:
        return reader((folder / "number.txt").read_bytes().decode(errors="replace"))

    return Subject("a number", prepare, act, is_the_number)


def test_a_planted_crash_and_a_planted_silent_acceptance_are_caught(tmp_path: Path) -> None:
    for name, reader, verdict in (
        ("right", number_in, None),
        ("silent", accepts_anything, Verdict.WRONG),
        ("crash", crashes, Verdict.CRASH),
    ):
        (tmp_path / name).mkdir()
        counts, faults = judge_cases(subject(reader), range(60), tmp_path / name)
        assert counts.total() == 60 and counts[Verdict.EQUAL]
        assert {each.judged.verdict for each in faults} == ({verdict} if verdict else set())
        assert counts[Verdict.CLEAR] or verdict
        # the folder of a fault stays, with what was mutated
        assert len(list((tmp_path / name).iterdir())) == len(faults)
        for fault in faults[:1]:
            assert f"--fuzz-case 'a number:{fault.number}'" in str(fault) and fault.mutation


def judged(act: Callable[[], Any], folder: Path, check: Any = None, most: float = 5.0) -> Judged:
    return judge(act, check or (lambda made: None), folder, most)


def fail(error: Exception) -> Any:
    raise error


def test_each_verdict(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as it was")

    def writes(name: str) -> None:
        (tmp_path / name).write_text("half")
        raise UserError("that is wrong")

    def warns() -> None:
        warnings.warn("something of a library", stacklevel=1)

    def wrong(made: object) -> None:
        expect(made == 2, f"{made}, not 2")

    def hangs() -> None:
        try:
            time.sleep(9)
        except Exception:
            raise UserError("nobody waits") from None

    for act, verdict, said in (
        (lambda: fail(UserError("that is wrong")), Verdict.CLEAR, "error: that is wrong"),
        (lambda: 1, Verdict.EQUAL, ""),
        (lambda: fail(ValueError("x")), Verdict.CRASH, "ValueError: x"),
        (lambda: fail(SystemExit(2)), Verdict.CRASH, "SystemExit"),
        (lambda: writes("kept"), Verdict.WRONG, "refused, but changed"),
        (lambda: writes(".new.00000000.part"), Verdict.WRONG, "refused, but changed"),
        (warns, Verdict.WRONG, "something of a library"),
    ):
        found = judged(act, tmp_path)
        assert found.verdict is verdict and said in found.said, found
    assert judged(lambda: 1, tmp_path, wrong) == (Verdict.WRONG, "1, not 2")
    found = judged(lambda: 2, tmp_path, lambda made: fail(KeyError("k")))
    assert found.verdict is Verdict.WRONG and "not by the reference: KeyError" in found.said
    found = judged(hangs, tmp_path, most=0.2)
    assert found.verdict is Verdict.CRASH and "not done after 0.2 seconds" in found.said


def test_commands_are_judged_by_what_they_print(tmp_path: Path, monkeypatch: Any) -> None:
    assert judged(partial(type_words, "methods"), tmp_path).verdict is Verdict.EQUAL
    refused = judged(partial(type_words, "show nothing"), tmp_path)
    assert refused.verdict is Verdict.CLEAR and "no method 'nothing'" in refused.said
    body = "u2pl.cli.lists.list_methods"
    for act, verdict in (
        (lambda app: print("\n\n", fail(RuntimeError("ours"))), Verdict.CRASH),
        (lambda app: fail(UserError("two\nlines")), Verdict.CLEAR),
        (lambda app: fail(UserError("x" * 10_000)), Verdict.CLEAR),  # which is shortened
    ):
        monkeypatch.setattr(body, act)
        assert judged(partial(type_words, "methods"), tmp_path).verdict is verdict


@pytest.mark.parametrize(
    ("mutate", "content"),
    [
        (in_bytes, b"abc"),
        (in_text, b"a b\nc\n"),
        (in_json, b'{"a": [1, {"b": null}]}'),
        (in_json_lines, b'{"a": 1}\n{"b": [2]}\n'),
        (in_toml, b"a = 1\nb = [2]\n"),
        (in_safetensors, (9).to_bytes(8, "little") + b'{"a":[1]}' + bytes(16)),
        (in_png, b"\x89PNG\r\n\x1a\n" + (1).to_bytes(4, "big") + b"IHDRx" + bytes(4)),
    ],
)
def test_a_seed_decides_the_mutation(mutate: Mutate, content: bytes) -> None:
    found = [mutate(Random(number), content) for number in range(40)]
    assert found == [mutate(Random(number), content) for number in range(40)]
    assert len({each.content for each in found}) > 15
    assert all(each.words for each in found)


def test_a_refusal_of_what_is_not_mutated_is_found(tmp_path: Path) -> None:
    def write(mutate: Mutate, draw: Random, folder: Path) -> str:
        content, words = mutate(draw, NUMBER)
        (folder / "number.txt").write_bytes(content)
        return words

    for name, reader, verdict in (
        ("right", number_in, Verdict.EQUAL),
        ("strict", lambda text: fail(UserError("never")), Verdict.CLEAR),
    ):
        asked = Subject.of_file(
            name,
            write,
            in_text,
            lambda folder, read=reader: read((folder / "number.txt").read_text()),
            is_the_number,
        )
        assert judge_untouched(asked, tmp_path / name).verdict is verdict
