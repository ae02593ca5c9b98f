"""Scores of the activation maps and pseudo-labels that a run was trained on.

H W as in u2pl.notation; K: foreground classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from rich.progress import track
from torch import Tensor

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.cli.keeping import is_replaced, keep_results
from u2pl.errors import UserError, explain
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import load_example
from u2pl.maps import resize_image, shrink_factor, top_class
from u2pl.model.folder import locate
from u2pl.model.model import choose_device, load
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.report.tables import score_table
from u2pl_ws.activation_maps import ActivationConfig, activation_maps, cam_label
from u2pl_ws.map_labels import BACKGROUND, refined_label, refined_maps_label, tagged_maps
from u2pl_ws.pixel_refinement import affinity_kernel, half_size
from u2pl_ws.requests import MapsRequest
from u2pl_ws.task import find_tags

COLUMNS = ("CAM", "refined", "certain labels", "masks")


def score_maps(request: MapsRequest) -> None:
    """Print and save the scores of maps, pseudo-labels and predictions, on images with masks."""
    console = standard_output()
    place = locate(request.checkpoint)
    model = load(place.folder, choose_device(request.cpu))
    if model.network.tagger is None:
        raise UserError(
            f"{request.checkpoint} has no image-level classifier, so no activation maps: give a "
            "run "
            "of u2pl-ws"
        )
    counting = ConsoleReporter(console).counting
    source, ids = model.open_scored(request.data, None, counting)
    split = request.split or source.train_split
    ids = [id for id in source.split(split) if source.has_mask(id)]
    if not ids:
        advice = source.where_masks_lack("there is nothing to score with")
        raise UserError(f"{source.name}: no image of {split} has a mask: {advice}")
    text = request.data or model.card.source or ""
    tags, _ = find_tags(source, text, request.tags, ids, counting)
    try:
        options = ActivationConfig.model_validate(model.card.options.get("cam"))
    except ValidationError as error:
        reason = explain(error, "method.cam.")
        raise UserError(f"{request.checkpoint} has no options of its maps ({reason})") from None
    limit, protocol = request.limit, model.protocol()
    ids = [ids[i * len(ids) // limit] for i in range(limit)] if 0 < limit < len(ids) else ids
    counts = {name: Confusion(len(source.classes), model.device) for name in COLUMNS}
    certain, pixels = 0.0, 0.0
    with evaluating([model.network]):
        for id in track(ids, "scoring", console=console, disable=not console.is_terminal):
            example = load_example(source, id)
            image, truth = example.image.to(model.device), example.label.to(model.device)
            shown = torch.tensor([[k in tags[id] for k in range(1, len(source.classes))]])
            labels = labels_of(model.network, image, shown.to(model.device), options, protocol)
            known = labels["certain labels"] != IGNORE
            certain, pixels = certain + known.sum().item(), pixels + known.numel()
            for name, label in labels.items():
                known = label != IGNORE
                counts[name].update(label.where(known, 0), truth.where(known, IGNORE))
    scores = {name: count.scores() for name, count in counts.items()}
    share = 100 * certain / pixels
    where = f"{place.name} on {len(ids)} tagged images of {source.name} {split}"
    line = f"{where}; {share:.1f} % of the pixels have a certain label"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(score_table(source.classes, scores))
    facts = {"data": source.name, "fingerprint": source.fingerprint(), "images": len(ids)}
    found = {name: score._asdict() for name, score in scores.items()}
    words = f"cams {source.name} {split} {len(ids)} images {source.fingerprint()}"
    result = {words: {**facts, "certain": share, **found}}
    keep_results(place.beside, result, console, is_replaced(place, model.card))


def labels_of(
    network: Segmentor,
    image_3HW: Tensor,
    tags_1K: Tensor,
    options: ActivationConfig,
    protocol: EvaluationProtocol,
) -> dict[str, Tensor]:
    """Labels of one tagged image by the keys of `COLUMNS`, int64 [H, W] each.

    `CAM` and `refined` use the background score `BACKGROUND`; `certain labels`, those of training,
    are 255 where uncertain. All but the network's own `masks` are computed on the image as shrunk
    by the protocol, and resized to the image's own size.
    """
    size = (image_3HW.shape[1], image_3HW.shape[2])
    shrink = shrink_factor(size, protocol.long_side)
    shown = (max(2, round(size[0] * shrink)), max(2, round(size[1] * shrink)))
    image = resize_image(image_3HW[None].float(), shown).round().to(torch.uint8)
    cam = activation_maps(network, image, tags_1K, options.scales)
    maps, kernel = tagged_maps(cam, tags_1K), affinity_kernel(half_size(image))
    everywhere = torch.ones_like(image[:, 0], dtype=torch.bool)
    labels = {
        "CAM": cam_label(cam, BACKGROUND)[0],
        "refined": refined_maps_label(maps, kernel, everywhere, BACKGROUND)[0],
        "certain labels": refined_label(maps, kernel, everywhere, options.levels)[0],
    }
    own_size = {
        name: F.interpolate(label[None, None].float(), size, mode="nearest")[0, 0].long()
        for name, label in labels.items()
    }
    prob = predict_probabilities(network, image_3HW, protocol)
    return own_size | {"masks": top_class(prob[None])[0]}
