"""The folder of a run, for one program alone: a new one, or one whose run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.files import write_json
from u2pl.training.run_folder import CONFIG, check_empty, next_folder
from u2pl.training.run_lock import locked


class Numbered(NamedTuple):
    """A folder that gets the next free number when it is claimed."""

    parent: Path
    stem: str


class Claim(NamedTuple):
    """A folder that no other program writes into."""

    folder: Path
    note: str  # for a person; empty if there is nothing to say


@contextmanager
def claimed(place: Path | Numbered, config: dict[str, object] | None) -> Iterator[Claim]:
    """Have a run's folder for oneself: a new one with its config, or that of a run to go on with.

    Args:
        place: the folder.
        config: of a new run; None: it is there, see `check_same`.

    Raises UserError, and changes nothing, if another program writes there, or if a new folder
    cannot be made or is not empty. Of several processes the first claims, the others wait for it.
    """
    with ExitStack() as until_the_end:
        claim = Claim(Path(), "")
        if distributed.rank() == 0:
            claim = until_the_end.enter_context(_claimed(place, config))
        yield claim._replace(folder=Path(distributed.from_first(str(claim.folder))))


@contextmanager
def _claimed(place: Path | Numbered, config: dict[str, object] | None) -> Iterator[Claim]:
    where = place.parent if isinstance(place, Numbered) else place
    try:
        if isinstance(place, Numbered):
            folder = _make_numbered(*place)
        else:
            folder = place
            if config is not None:
                check_empty(folder)
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {where}: {error.strerror}; choose another --out"
        ) from error
    with locked(folder) as note:
        if config is not None:
            check_empty(folder)  # until it was locked another run could begin there
            write_json(folder / CONFIG, config)
        yield Claim(folder, note)


def _make_numbered(parent: Path, stem: str) -> Path:
    while True:
        folder = next_folder(parent, stem)
        with suppress(FileExistsError):  # another run has just taken this number
            folder.mkdir(parents=True)
            return folder
