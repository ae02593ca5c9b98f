"""The pages of the documentation, and what stands in their code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("apps/*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
#: Import packages by what is typed.
PROGRAMS = {"u2pl-semi": "u2pl_semi", "u2pl-da": "u2pl_da", "u2pl-ws": "u2pl_ws"}
#: The same for the files that a launcher is given.
FILES = {
    "apps/semi/cli.py": "u2pl-semi",
    "apps/domain_adapt/cli.py": "u2pl-da",
    "apps/weak/cli.py": "u2pl-ws",
}


class Command(NamedTuple):
    """A command in a block of the language bash."""

    text: str  # as printed
    words: tuple[str, ...]  # without environment, `uv run` and its options

    @classmethod
    def read(cls, line: str) -> Iterator[Command]:
        """The commands of a line, which `&&` joins; none if it is blank or a comment."""
        typed = shlex.split(line, comments=True)
        while typed:
            own = list(takewhile(lambda word: word != "&&", typed))
            typed = typed[len(own) + 1 :]
            words = list(dropwhile(lambda word: "=" in word, own))
            if words[:2] == ["uv", "run"]:
                words = words[2:]
                while words[0].startswith("--"):
                    words = words[2 if words[0] == "--group" else 1 :]
            yield cls(" ".join(own), tuple(words))

    @property
    def program(self) -> str | None:
        """Which of the three programs it starts, in one process or several; None for another."""
        if self.words[0] in PROGRAMS:
            return self.words[0]
        return next((FILES[word] for word in self.words if word in FILES), None)

    @property
    def arguments(self) -> list[str]:
        """What is typed behind the program."""
        starts = [k for k, word in enumerate(self.words) if word in PROGRAMS or word in FILES]
        return list(self.words[starts[0] + 1 :])

    @property
    def launcher(self) -> list[str] | None:
        """Options of `accelerate launch`, if that starts it."""
        if not (self.words[0].endswith("accelerate") and self.words[1] == "launch"):
            return None
        return list(takewhile(lambda word: word not in FILES, self.words[2:]))


def label(page: Path) -> str:
    """How a page is called in a report."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return [each["text"] for each in FENCE.finditer(text) if each["language"] == language]


def scripts(page: Path) -> list[str]:
    """The blocks that are whole shell scripts."""
    return [block for block in blocks(page, "bash") if block.startswith("#!")]


def commands(page: Path) -> Iterator[Command]:
    """The commands of all other bash blocks."""
    for block in blocks(page, "bash"):
        if not block.startswith("#!"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from Command.read(line)


def commands_in_text(page: Path) -> Iterator[Command]:
    """The commands of the three programs in the running text that are written out in full."""
    for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if code.startswith(("uv run ", *(f"{name} " for name in PROGRAMS))) and "…" not in code:
            yield from Command.read(code)
