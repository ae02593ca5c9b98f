"""A network to the Hugging Face hub, with its card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from u2pl.data.demo.scenes import DEMOS
from u2pl.errors import UserError
from u2pl.files import in_memory
from u2pl.model.card import Card
from u2pl.model.folder import folder_files
from u2pl.model.hub import repository_of
from u2pl.model.model import Model
from u2pl.networks.config import RANDOM


def publish(model: Model, name: str, private: bool = False) -> str:
    """Write a model to the hub, as a new commit if there is one of this name already.

    Args:
        model: on any device.
        name: user/name, or the name alone.
        private: whether it is for the owner only; an existing one keeps what it is.

    Returns: the name with the user.
    Raises UserError, before anything is sent, if nobody is logged in, the hub is out of reach or
    refuses the name, or a private model would be sent to a public place.
    """
    if "@" in name:
        raise UserError(f"{name}: a model is pushed to a name, not to a revision of it")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name} can be no name on the hub ({_line(error)})") from None
    if huggingface_hub.get_token() is None:
        raise UserError("nobody is logged in to the hub: hf auth login, or set HF_TOKEN")
    api = huggingface_hub.HfApi(library_name="u2pl")
    with _one_line(name):
        repository: str = api.create_repo(name, private=private, exist_ok=True).repo_id
        public = private and not api.model_info(repository).private
    if public:
        raise UserError(
            f"{repository} is there already and public: make it private on its page, or choose "
            "another name"
        )
    files = folder_files(model.network, without_paths(model.card), repository)
    operations = [CommitOperationAdd(path, in_memory(content)) for path, content in files.items()]
    words = f"A segmenter of {len(model.classes)} classes, trained with u2pl"
    with _one_line(name):
        api.create_commit(repository, operations, commit_message=words)
    return repository


def without_paths(card: Card) -> Card:
    """A card that tells no one where files lie on this machine: names are kept, folders are not."""
    text = card.source or ""
    source = text if text in DEMOS or text.startswith("hf:") else None
    weights, origin = card.network.encoder_weights, card.origin
    if weights not in ("imagenet", RANDOM):
        weights = Path(weights).name
    if origin is not None and repository_of(origin.name) is None:
        origin = origin.model_copy(update={"name": Path(origin.name).name})
    network = card.network.model_copy(update={"encoder_weights": weights})
    return card.model_copy(update={"source": source, "network": network, "origin": origin})


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever the hub, or the way to it, raises is a UserError."""
    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(_refusal(name, error)) from error
    except Exception as error:  # whatever a network or a proxy can raise
        raise UserError(
            f"{name} is not pushed: the hub is out of reach ({_line(error)}); push it again when "
            "there is a network"
        ) from error


def _refusal(name: str, error: HfHubHTTPError) -> str:
    """What the hub's answer means."""
    status = error.response.status_code if error.response is not None else 0
    said = error.server_message or _line(error)
    if status == 401:
        return "the hub does not know who is logged in: hf auth login again, or renew HF_TOKEN"
    if status == 403:
        return (
            f"the hub refuses {name}: the token may not write there ({said}); take a name of your "
            "own, or a token with write access"
        )
    if status and status < 500:
        return f"the hub refuses {name}: {said}"
    return f"{name} is not pushed: the hub failed ({said}); push it again later"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
