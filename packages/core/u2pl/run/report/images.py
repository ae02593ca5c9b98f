"""The pictures of a report: scored images worst first, and pseudo-labels over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from u2pl.counting import Counting
from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.scoring import decoded
from u2pl.model.model import Model
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import doubt
from u2pl.report import pictures
from u2pl.report.page import Picture, Shown
from u2pl.run.moments import Look
from u2pl.run.report.finding import Finding

#: Images of the gallery: the worst ones, and others evenly spread over the rest.
WORST, REST = 6, 6
#: Moments of training that are shown, at most.
MOMENTS = 4

#: How the maps of `Method.explain` are read.
MAPS = {
    "label": "Label: what the method would teach its network here; grey pixels have no label.",
    "entropy": "Entropy: doubt over all classes, dark at 0, bright at its highest value.",
    "reliable": "Reliable: pixels in full colour may be learnt as labels; pink ones are "
    "unreliable, and serve as negatives of the classes they surely are not.",
    "confident": "Confident: pixels in full colour are sure enough to be learnt from.",
    "one class": "One class: pixels in full colour have one label; pink ones learn from a soft "
    "label over several classes.",
    "activation": "Activation: the highest class activation map of the image's tags.",
    "refined": "Refined: the maps' classes after refinement by colours, every pixel with a class.",
    "prediction": "Prediction: what the segmentation network itself says.",
    "affinity": "Affinity: how much the pixel with the highest activation shares its class with "
    "all others, by self-attention.",
}


class Watched(NamedTuple):
    """An image, and what the method made of it at moments of training."""

    title: str
    pictures: list[Picture]
    moments: list[Shown]


def gallery(run: Finding, counting: Counting) -> tuple[list[Shown], str, list[str]]:
    """Scored images, worst first, each with what the network says of it; a text; notes."""
    model, counts, scored = run.model, run.counts, run.scored
    if model is None or counts is None or scored is None or model.card.source is None:
        return [], "", []
    ranked = sorted(
        (value, id)
        for value, id in zip(counts.image_mious(), scored.ids, strict=True)
        if value is not None
    )
    rest = ranked[WORST:]
    spread = [rest[i * len(rest) // REST] for i in range(min(REST, len(rest)))]
    chosen = [*ranked[:WORST], *spread]
    try:
        source = open_source(model.card.source, counting)
        if model.card.scaling is not None:
            source.show_as(model.card.scaling)
        found = []
        with evaluating([model.network]), counting("drawing the report") as progress:
            examples = decoded(source, [id for _, id in chosen], model.card.protocol)
            for done, ((miou, id), example) in enumerate(zip(chosen, examples, strict=True), 1):
                prob = predict_probabilities(
                    model.network, example.image.to(model.device), model.card.protocol
                ).cpu()
                found.append(
                    Shown(
                        f"{id}: mIoU {miou:.1f}",
                        _pictures(
                            example.image.permute(1, 2, 0).numpy(),
                            example.label.numpy(),
                            prob,
                            model,
                            id,
                        ),
                    )
                )
                progress(done, len(chosen))
    except (UserError, OSError) as error:  # the data have moved since
        return [], "", [f"No images are shown, as the data cannot be read any more: {error}"]
    words = choice_words(len(chosen), len(ranked))
    return found, f"{words} An image's mIoU is over the classes in it or in its prediction.", []


def choice_words(shown: int, scored: int) -> str:
    """Which of the scored images are shown."""
    if shown == scored:
        return "All scored images, worst first."
    return (
        f"{shown} of {scored} scored images, worst first: the {WORST} worst, then some of all the "
        "others, evenly spread."
    )


def _pictures(
    image: np.ndarray, truth: np.ndarray, prob_CHW: Tensor, model: Model, id: str
) -> list[Picture]:
    palette = model.palette
    ids = prob_CHW.argmax(0).to(torch.uint8).numpy()
    confidence, entropy = prob_CHW.amax(0).numpy(), doubt(prob_CHW[None])[0].numpy()
    return [
        Picture(pictures.photo(image), "image", f"{id}, the image"),
        Picture(pictures.mask(truth, palette), "truth", f"{id}, its true mask"),
        # not over the image, which would change the colours: they are compared with the truth's
        Picture(pictures.mask(ids, palette), "prediction", f"{id}, the predicted classes"),
        Picture(pictures.heat(confidence), "confidence", f"{id}, the network's confidence"),
        Picture(pictures.heat(entropy), "entropy", f"{id}, the network's doubt"),
    ]


def moments(run: Finding, palette: np.ndarray) -> list[Watched]:
    """For each image that was looked at, what was made of it over time."""
    kept = run.moments
    if not kept:
        return []
    last = len(kept) - 1
    count = min(MOMENTS, len(kept))
    picked = [kept[round(i * last / max(1, count - 1))] for i in range(count)]
    shown = []
    for i, look in enumerate(picked[-1].looks):
        mine = [Picture(pictures.photo(look.image), "image", f"{look.id}, the image")]
        if (look.truth != IGNORE).any():
            mine.append(Picture(pictures.mask(look.truth, palette), "truth", f"{look.id}, truth"))
        over = [
            Shown(
                f"after {moment.step} steps",
                [_map(moment.looks[i], name, palette) for name in moment.looks[i].maps],
            )
            for moment in picked
            if i < len(moment.looks)
        ]
        shown.append(Watched(f"{look.role}: {look.id}", mine, over))
    # those of the last stream, which is learnt from without labels, come first
    own = picked[-1].looks[-1].role
    return sorted(shown, key=lambda each: not each.title.startswith(f"{own}: "))


def _map(look: Look, name: str, palette: np.ndarray) -> Picture:
    value = look.maps[name]
    alt = f"{look.id}, {name}"
    if value.dtype == np.bool_:
        return Picture(pictures.marked(look.image, value), name, alt)
    if value.dtype == np.uint8:
        return Picture(pictures.mask(value, palette), name, alt)
    return Picture(pictures.heat(value.astype(np.float32)), name, alt)


def moments_text(run: Finding) -> list[str]:
    """How to read the maps of the moments."""
    names = run.moments[-1].looks[0].maps if run.moments and run.moments[-1].looks else {}
    return [MAPS[name] for name in names if name in MAPS]
