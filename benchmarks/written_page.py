"""A page of docs/ that a command makes: written, or compared with what lies there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def write_or_check(text: str, file: Path, page: str, command: str) -> None:
    """Write a page; with `--check` exit with 1 if the file differs from it.

    Args:
        text: what the command's help says.
        file: where the page belongs.
        page: the whole of it.
        command: the script that makes it, from the root of the repository.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the page instead of writing it"
    )
    if not parser.parse_args().check:
        file.write_text(page)
    elif file.read_text() != page:
        sys.exit(f"docs/{file.name} differs from results/: run {command}")
