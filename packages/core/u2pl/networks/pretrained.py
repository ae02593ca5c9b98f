"""Pretrained encoder weights, from the hub or a file, loaded strictly."""

from __future__ import annotations

import logging
import socket
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor

from u2pl.cache import digest
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.networks.encoder import Encoder, Weights, family_of
from u2pl.networks.licenses import is_special
from u2pl.notation import COLOURS
from u2pl.tensor_file import not_finite

#: Beginnings of the names of tensors that an encoder may do without: those of classifiers, and of
#: what only pretraining needs.
CLASSIFIER_KEYS = (
    "fc.",
    "classifier.",
    "head.",
    "head_dist.",
    "attn_pool.",
    "mask_token",
    "conv_head.",
    "bn2.",
    "norm.",
    "norm_head.",
    "fc_norm.",
)
#: Prefixes that wrapper modules put in front of an encoder's keys.
WRAPPERS = ("module.", "encoder.", "backbone.", "model.")
#: Share of the keys that must match, of the encoder's and of the file's.
MIN_MATCHED = 0.99

logger = logging.getLogger(__name__)


class LoadReport(NamedTuple):
    """Keys of a file compared with those of an encoder."""

    matched: list[str]
    missing: list[str]  # in the encoder only
    unexpected: list[str]  # in the file only, and no classifier's
    reshaped: list[str]  # in both, with different shapes

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.reshaped)} of another shape"
        )


def load_pretrained(encoder: Encoder, name: str, weights: str) -> LoadReport:
    """Load pretrained weights into an encoder, and log the report.

    Args:
        encoder: the encoder to fill.
        name: its name, as in `network.encoder`.
        weights: "imagenet" for the hub's weights of that name, or the path of a file.

    Raises:
        UserError: There are no such weights, they cannot be read, or they do not fit.
    """
    hub = weights == "imagenet"
    try:
        state = hub_weights(name) if hub else read_weights(expanded(weights))
    except UserError as error:
        raise error if hub else UserError(f"encoder weights: {error}") from None
    report = load_encoder(encoder, state, source=weights)
    family = family_of(name)
    full_name = family.hub_name(name) if hub else Path(weights).name
    license = family.hub_license(name)
    # whose file it is, nobody knows; but an encoder with terms of its own was released under them
    known = license if hub or is_special(license) else None
    encoder.weights = Weights(full_name, digest(state), known)
    logger.info("encoder %s from %s: %s", name, weights, report)
    return report


def load_encoder(encoder: Encoder, state: Mapping[str, Tensor], source: str) -> LoadReport:
    """Copy `state` into `encoder`, or copy nothing and raise.

    Weights for three colours are adapted to an encoder of other channels.

    Args:
        encoder: the encoder to fill.
        state: tensors by key, with or without wrappers' prefixes.
        source: where they come from, for the message.

    Raises:
        UserError: Fewer than 99 % of the keys match, one that is needed is missing, a shape
            differs, or a number is not finite.
    """
    own = {unwrapped(key): tensor for key, tensor in encoder.state_dict().items()}
    given = adapted(own, by_own_key(own, encoder.own_tensors(encoder_part(state))))
    report = compare(own, given)
    total = len(report.matched) + max(len(report.missing), len(report.unexpected))
    needed = [key for key in report.missing if key.startswith(encoder.needed)]
    if report.reshaped or needed or len(report.matched) < MIN_MATCHED * total:
        first = (report.reshaped + needed + report.missing + report.unexpected)[:3]
        raise UserError(
            f"{source} does not fit the encoder: {report}; first: {', '.join(first)}; "
            "check network.encoder"
        )
    check_finite({key: given[key] for key in report.matched}, source)
    with torch.no_grad():
        for key in report.matched:
            own[key].copy_(given[key])
    return report


def adapted(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given` with convolutions of three colours made to fit those of other channels, as timm does.

    The weights of red, green and blue are repeated in this order, as often as there are channels,
    and scaled by 3 / channels; for one channel they are added up. Only the first convolution of a
    network is one of three colours in the one and of other channels in the other.
    """

    def fit(key: str, tensor: Tensor) -> Tensor:
        wanted = own[key].shape if key in own else tensor.shape
        of_colours = tensor.dim() == 4 and tensor.shape[1] == COLOURS != wanted[1]
        if not of_colours or (len(wanted), *wanted[2:]) != (4, *tensor.shape[2:]):
            return tensor
        made: Tensor = timm.models.adapt_input_conv(wanted[1], tensor)
        return made

    return {key: fit(key, tensor) for key, tensor in given.items()}


def compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> LoadReport:
    """Compare the keys of an encoder and of a file.

    BatchNorm's `num_batches_tracked`, which old files lack, never counts as missing.
    """
    both = [key for key in own if key in given]
    return LoadReport(
        matched=[key for key in both if own[key].shape == given[key].shape],
        missing=[
            key for key in own if key not in given and not key.endswith("num_batches_tracked")
        ],
        unexpected=[key for key in given if key not in own and not key.startswith(CLASSIFIER_KEYS)],
        reshaped=[key for key in both if own[key].shape != given[key].shape],
    )


def encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under "encoder." or "backbone.", or all if there are none; prefixes removed."""
    inner = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    part = {
        key: tensor for key, tensor in inner.items() if key.startswith(("encoder.", "backbone."))
    } or inner
    return {unwrapped(key): tensor for key, tensor in part.items()}


def unwrapped(key: str) -> str:
    """A key without the prefixes of wrapper modules."""
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key


def by_own_key(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given` with its keys in the encoder's spelling.

    timm's feature extractors spell stages_0 what its classifiers spell stages.0.
    """
    spelling = {key.replace(".", "_"): key for key in own}
    return {spelling.get(key.replace(".", "_"), key): tensor for key, tensor in given.items()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by key of a .safetensors file, or of a pickled state dict (`weights_only`, no code).

    Raises:
        UserError: There is no such file, it holds no tensors by key, or one that is not dense.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_sums(path)
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a file that is none can make of an unpickler
        raise UserError(
            f"{path} is damaged or no file of tensors ({type(error).__name__}); download it again"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = (
        {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(state, Mapping)
        else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    odd = [key for key, value in tensors.items() if not _is_plain(value)]
    if odd:
        raise UserError(
            f"{path} holds {len(odd)} tensors that are not plain numbers in memory; first: {odd[0]}"
        )
    return tensors


def _check_sums(path: Path) -> None:
    """UserError if the checksums of a file of `torch.save`, which torch ignores, are others."""
    if not zipfile.is_zipfile(path):  # files of before 2020 have none
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(
            f"{path} is damaged: the checksum of {damaged} is another one; download it again, or, "
            "if it was written without checksums, load and save it once more with torch"
        )


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """UserError if a number is NaN or infinite.

    Args:
        tensors: by key.
        source: where they come from, for the message.
    """
    said = not_finite(tensors)
    if said:
        raise UserError(f"{source} holds {said}; get the file again")


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense and real, and its file holds all of its numbers.

    A small file can claim a tensor of any size: one that is expanded, sparse or without memory.
    """
    if value.layout is not torch.strided or value.is_complex() or value.is_quantized:
        return False
    bytes_held = 0 if value.is_meta else value.untyped_storage().nbytes()
    return value.numel() * value.element_size() <= bytes_held


def hub_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of an encoder, from the hub or its local cache.

    Raises:
        UserError: No such weights were released, or the hub is unreachable and they are not cached.
    """
    advice = (
        "give a file with --set network.encoder_weights=FILE, or none for random initialisation"
    )
    try:
        with offline_if_unreachable():
            return family_of(name).hub_weights(name)
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    except Exception as error:  # whatever a network, a proxy or a cache can raise
        repository = family_of(name).hub_repository(name)
        file = f": model.safetensors of {repository} on the hub is one" if repository else ""
        raise UserError(
            f"ImageNet weights of {name} are not in the cache and the hub is out of reach "
            f"({type(error).__name__}); {advice}{file}"
        ) from error


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """If the hub is unreachable, use its cache at once instead of after a minute of retries."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    try:
        if not urllib.request.getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
