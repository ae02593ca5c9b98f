"""Which images to label next: those that a network doubts, and that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.counting import Counting, silently
from u2pl.data.regions import Decoded
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.evaluate.inference import evaluating
from u2pl.maps import resize_image, shrink_factor
from u2pl.model.model import Model

#: Long side in pixels at which images are compared, at most.
SEEN = 384


class Suggested(NamedTuple):
    """An image that is worth a label."""

    id: str
    score: float  # doubt times distance, when it was chosen
    doubt: float  # mean entropy relative to that of even odds
    distance: float  # from the nearest image that is labelled or was chosen before; 0 to 2


def suggest(
    model: Model,
    source: Source,
    candidates: Sequence[str],
    labeled: Sequence[str],
    count: int,
    counting: Counting = silently,
) -> list[Suggested]:
    """Choose images to label.

    Args:
        model: trained on the labelled images.
        source: of all images; no mask is opened.
        candidates: ids to choose from.
        labeled: ids that need no label, and to whose like the others are compared.
        count: how many to choose.
        counting: opens a counter for each piece of work.

    Returns: the best one first. Equal images and numbers give equal choices.
    Raises UserError if there are fewer candidates, or an image cannot be read.
    """
    if not 1 <= count <= len(candidates):
        raise UserError(
            f"--count {count}: {source.name} has {len(candidates)} images without a label to "
            "choose from"
        )
    ids = sorted(candidates)
    with counting("looking at labelled images") as progress:
        known = []
        for done, id in enumerate(sorted(labeled), 1):
            known.append(feature(model, np.array(source.image(id))))
            progress(done, len(labeled))
    with counting("looking at the others") as progress:
        features, doubts = [], []
        for done, id in enumerate(ids, 1):
            pixels = np.array(source.image(id))
            features.append(feature(model, pixels))
            doubts.append(model.segment(Decoded(pixels)).mean_doubt)
            progress(done, len(ids))
    doubt = torch.tensor(doubts, dtype=torch.float64)
    chosen = greedy_centres(doubt, torch.stack(features), known, count)
    return [
        Suggested(ids[index], score, doubts[index], score / doubts[index] if doubts[index] else 0.0)
        for index, score in chosen
    ]


def feature(model: Model, pixels_HWC: np.ndarray) -> Tensor:
    """What an image looks like to the network: the mean of its encoder's last map.

    Returns: float64 [D] of length 1, on the CPU.
    """
    image = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].to(model.device).float() / 255
    size = (image.shape[-2], image.shape[-1])
    factor = shrink_factor(size, SEEN)
    small = resize_image(image, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))
    with evaluating([model.network]):
        deep = model.network(small, embed=False).deep
    return F.normalize(deep[0].double().mean((-2, -1)).cpu(), dim=0)


def greedy_centres(
    doubt_N: Tensor, feature_ND: Tensor, known: Sequence[Tensor], count: int
) -> list[tuple[int, float]]:
    """The k-centre choice of Sener and Savarese (2018), with distances weighted by doubt.

        centers = known
        repeat count times:
            for each candidate: score = doubt * distance to the nearest center
            centers += [the first candidate with the highest score]

    Args:
        doubt_N: float, at least 0.
        feature_ND: float, of length 1.
        known: features [D] of the first centers; without any all distances begin with 2, the
            largest there is.
        count: candidates to choose, at most N.

    Returns: index and score of each, in the order of choice.
    """
    near = torch.full_like(doubt_N, 2.0)
    for center in known:
        near = torch.minimum(near, (feature_ND - center).norm(dim=1))
    free = torch.ones_like(doubt_N, dtype=torch.bool)
    chosen = []
    for _ in range(count):
        score = torch.where(free, doubt_N * near, -1.0)
        index = int(score.argmax())
        # the first of equal ones
        index = int((score == score[index]).nonzero()[0])
        chosen.append((index, float(score[index])))
        free[index] = False
        near = torch.minimum(near, (feature_ND - feature_ND[index]).norm(dim=1))
    return chosen
