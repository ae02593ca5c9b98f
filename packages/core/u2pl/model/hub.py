"""Networks on the Hugging Face hub: which names mean one, and how it gets here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from u2pl.errors import UserError
from u2pl.networks.pretrained import offline_if_unreachable

#: user/name, or user/name@revision.
NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)


#: The same with the revision that never changes, a commit.
FIXED = re.compile(r"(\w[\w.-]*/\w[\w.-]*)@[0-9a-f]{40}", re.ASCII)


class HubName(NamedTuple):
    """A network on the hub."""

    repository: str  # user/name
    revision: str | None = None  # a branch, a tag or a commit; None: the newest

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def hub_name(path: Path) -> HubName | None:
    """What a path to nothing means on the hub; None if it means nothing there either.

    `runs/x` beside a folder `runs` is a path with a slip, whoever has the name `runs` on the hub.
    """
    match = NAME.fullmatch(path.as_posix())
    if match is None or Path(path.parts[0]).exists():
        return None
    return HubName(match[1], match[2])


def repository_of(name: str) -> str | None:
    """The repository of a name with a commit; None for any other name, such as a folder's."""
    match = FIXED.fullmatch(name)
    return match[1] if match else None


def fetch(name: HubName, files: list[str]) -> Path:
    """The folder in the hub's cache that holds these files of a network, downloaded if need be.

    Its name is that of the commit. Files that the network does not have are left out.

    Raises:
        UserError: The hub has no such network or does not give it, or is out of reach and the cache
            does not hold it.
    """
    try:
        with offline_if_unreachable():
            return Path(
                huggingface_hub.snapshot_download(
                    name.repository, revision=name.revision, allow_patterns=files
                )
            )
    except GatedRepoError:
        reason = "the hub gives it to those alone whom its owner lets in: ask on its page"
    except RepositoryNotFoundError:
        reason = "the hub has no such network, or a private one: check the name, or `hf auth login`"
    except RevisionNotFoundError:
        reason = f"the hub's {name.repository} has no revision {name.revision}"
    except LocalEntryNotFoundError:
        reason = "the hub is out of reach and its cache does not hold all of it"
    except Exception as error:  # whatever a network, a proxy or a cache can raise
        reason = f"the hub did not give it ({type(error).__name__}); try again"
    raise UserError(f"no trained network at {name}: no such folder; {reason}")
