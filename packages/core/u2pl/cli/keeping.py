"""What was found out about a network, written down beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from u2pl.errors import DiskError, UserError
from u2pl.files import write_json
from u2pl.model.card import Card
from u2pl.model.folder import CONFIG, Found, read_card


def keep_results(
    folder: Path, results: Mapping[str, object], console: Console, replaced: bool
) -> None:
    """Write each result into a file of its own beside the network; where that cannot be, say so.

    Args:
        folder: of the network, or of its run.
        results: by the words that tell them apart, of which the file is named.
        console: for what was not written.
        replaced: whether training has put another network there meanwhile, so that the results
            would be taken for that one's.
    """

    def not_written(reason: object) -> None:
        console.print(f"note: not written down: {reason}", soft_wrap=True, markup=False)

    if replaced:
        not_written(f"training has written another network to {folder} since")
        return
    for words, result in results.items():
        label = re.sub(r"[\W_]+", "-", words).lower()
        try:
            write_json(folder / f"{label}.json", result)
        except DiskError as error:
            not_written(error)


def is_replaced(network: Found, card: Card) -> bool:
    """Whether a folder does not hold a network any more that was loaded from it."""
    try:
        return read_card(network.folder / CONFIG) != card
    except UserError:
        return True
