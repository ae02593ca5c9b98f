"""Score networks on a list of images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from u2pl import distributed
from u2pl.counting import OnProgress
from u2pl.data.class_counts import class_counts
from u2pl.data.ids import first_three
from u2pl.errors import LoadingError, UserError
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.counts import Counts
from u2pl.evaluate.inference import center_crop, evaluating, predict_probabilities
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.notation import IGNORE

if TYPE_CHECKING:
    from u2pl.data.source import Source


class Example(NamedTuple):
    """An image and its mask."""

    image: Tensor  # uint8 [3, H, W]
    label: Tensor  # uint8 [H, W]


def check_scored(source: Source, ids: Sequence[str]) -> None:
    """Raise UserError if there is no image or some have no mask; decodes nothing."""
    if not ids:
        raise UserError(
            f"{source.name}: there is no image to evaluate on; choose a split that has some"
        )
    bare = [id for id in ids if not source.has_mask(id)]
    if bare:
        advice = source.where_masks_lack("add their masks, or score on another split")
        raise UserError(f"{source.name}: images without mask: {first_three(bare)}: {advice}")


def read_scored(source: Source, ids: Sequence[str], progress: OnProgress | None = None) -> None:
    """Decode every mask that will be scored, before a run costs hours; their counts are cached.

    Each process takes its share of the masks.

    Raises UserError on every process if there is no image, or a mask is missing or broken, or none
    holds a labelled pixel.
    """
    check_scored(source, ids)
    if not class_counts(source, ids, progress, distributed.device()).any():
        raise UserError(
            f"{source.name}: the masks to score on hold no labelled pixel (all are 255): choose "
            "another split"
        )


def evaluate(
    networks: Mapping[str, nn.Module],
    source: Source,
    ids: Sequence[str],
    protocol: EvaluationProtocol,
    device: torch.device | str,
    num_classes: int,
    progress: OnProgress | None = None,
) -> dict[str, Counts]:
    """Count the pixels of several networks in one pass over the images.

    Each process takes its share of the images; all return the same counts.

    Args:
        networks: by name, on `device`; in eval mode meanwhile.
        source: where images and masks come from.
        ids: images with masks.
        protocol: how images are passed to the networks.
        device: of the networks and the counts.
        num_classes: C of the networks' logits.
        progress: called after each image of this process with the numbers done and to do. All
            processes call it equally often, so that they can agree in it; what it raises ends this.

    Raises UserError if `ids` is empty or an image has no mask, LoadingError if one cannot be read.
    """
    check_scored(source, ids)
    mine = range(distributed.rank(), len(ids), distributed.world_size())
    most = -(-len(ids) // distributed.world_size())  # of a process
    whole = {name: Confusion(num_classes, device) for name in networks}
    images = {
        name: torch.zeros(len(ids), 3, num_classes, dtype=torch.int64, device=device)
        for name in networks
    }
    examples = decoded(source, [ids[index] for index in mine], protocol)
    with evaluating(networks.values()):
        for done, (index, example) in enumerate(zip(mine, examples, strict=True), 1):
            image, label = example.image.to(device), example.label.to(device)
            for name, network in networks.items():
                one = Confusion(num_classes, device)
                one.update(predict_probabilities(network, image, protocol).argmax(0), label)
                whole[name].matrix.add_(one.matrix)
                images[name][index] = one.by_class()
            if progress is not None:
                progress(done, most)
    if progress is not None and len(mine) < most:
        progress(most, most)
    return {
        name: Counts(
            distributed.total(whole[name].matrix).cpu(), distributed.total(images[name]).cpu()
        )
        for name in networks
    }


def decoded(source: Source, ids: Sequence[str], protocol: EvaluationProtocol) -> Iterator[Example]:
    """Examples in the order of `ids`; one thread decodes ahead (sources may not be thread-safe)."""
    with ThreadPoolExecutor(1) as worker:
        waiting = deque(worker.submit(_example, source, id, protocol) for id in ids[:2])
        for index in range(len(ids)):
            try:
                example = waiting.popleft().result()
            except UserError as error:  # a run can go on once that is mended
                raise LoadingError(str(error)) from None
            if index + 2 < len(ids):
                waiting.append(worker.submit(_example, source, ids[index + 2], protocol))
            yield example


def load_example(source: Source, id: str) -> Example:
    """Decode an image and its mask; without a mask every label is 255."""
    image = torch.from_numpy(np.array(source.image(id))).permute(2, 0, 1)
    label = (
        torch.from_numpy(np.array(source.mask(id)))
        if source.has_mask(id)
        else torch.full_like(image[0], IGNORE)
    )
    assert image.shape[1:] == label.shape  # the source has checked it
    return Example(image, label)


def _example(source: Source, id: str, protocol: EvaluationProtocol) -> Example:
    example = load_example(source, id)
    return (
        Example(*center_crop(*example, protocol.side()))
        if protocol.mode == "center-crop"
        else example
    )
