"""How good the labels are that a run learnt from."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from u2pl.cli.use import choose_device, own_protocol
from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.protocol import Protocol
from u2pl.evaluate.run import load_example
from u2pl.networks.segmentor import Segmentor
from u2pl.networks.sharing import find_shared, load_shared
from u2pl.notation import IGNORE, shrink_factor
from u2pl.outputs import top_class
from u2pl.report.tables import score_table
from u2pl.train.files import write_json
from u2pl_ws.activation import CamConfig, activation_maps
from u2pl_ws.affinity_labels import refined_label, refined_maps_label, tagged_maps
from u2pl_ws.cam import cam_label
from u2pl_ws.pixel_refinement import affinity_kernel, half_size
from u2pl_ws.planning import find_tags

#: Score of the background where every pixel must get a class (AFA's).
BACKGROUND = 0.45
COLUMNS = ("CAM", "refined", "certain labels", "masks")


def score_cams(path: Path, data: str | None, split: str | None, tags_file: str | None, limit: int, cpu: bool, console: Console) -> None:
    """Print and write down the scores of maps, labels and masks on tagged images that have masks."""
    network, config = load_shared(path)
    if network.tagger is None:
        raise UserError(f"{path} has no image-level classifier, so no activation maps: give a run of u2pl-ws")
    text = data or config["source"]
    source, device = open_source(text), choose_device(cpu)
    if tuple(source.classes) != tuple(config["classes"]):
        raise UserError(f"{source.name} has other classes than the network: {', '.join(source.classes[:4])}, ...")
    split = split or source.train_split
    ids = [id for id in source.split(split) if source.has_mask(id)]
    if not ids:
        raise UserError(f"{source.name}: no image of {split} has a mask: there is nothing to score with")
    tags, _ = find_tags(source, text, tags_file, ids)
    options = CamConfig.model_validate(config["options"]["cam"])
    ids = [ids[place * len(ids) // limit] for place in range(limit)] if 0 < limit < len(ids) else ids
    protocol = own_protocol(config, {})
    counts = {name: Confusion(len(source.classes), device) for name in COLUMNS}
    certain, pixels = 0.0, 0.0
    with evaluating([network.to(device)]):
        for id in track(ids, "scoring", console=console, disable=not console.is_terminal):
            example = load_example(source, id)
            image, truth = example.image.to(device), example.label.to(device)
            shown = torch.tensor([[k in tags[id] for k in range(1, len(source.classes))]], device=device)
            labels = labels_of(network, image, shown, options, protocol)
            known = labels["certain labels"] != IGNORE
            certain, pixels = certain + known.sum().item(), pixels + known.numel()
            for name, label in labels.items():
                counts[name].update(label.where(label != IGNORE, 0), truth.where(label != IGNORE, IGNORE))
    scores = {name: count.scores() for name, count in counts.items()}
    share = 100 * certain / pixels
    where = f"{find_shared(path)} on {len(ids)} tagged images of {source.name} {split}"
    console.print(f"{where}; {share:.1f} % of the pixels have a certain label", soft_wrap=True, highlight=False, markup=False)
    console.print(score_table(source.classes, scores))
    name = f"cams-{split}.json"
    result = {"data": source.name, "fingerprint": source.fingerprint(), "images": len(ids), "certain": share}
    write_json(find_shared(path) / name, result | {name: score._asdict() for name, score in scores.items()})


def labels_of(network: Segmentor, image_3HW: Tensor, tags_1K: Tensor, options: CamConfig, protocol: Protocol) -> dict[str, Tensor]:
    """What the maps of one tagged image, the refined maps, the labels of training and the network say, int64 [H, W] each.

    Maps and refined maps give every pixel a class, by a background of `BACKGROUND`; labels leave uncertain pixels 255. All are of the
    image as the protocol shrinks it, and brought to its own size.
    """
    size = (image_3HW.shape[1], image_3HW.shape[2])
    shrink = shrink_factor(size, protocol.long_side)
    shown = tuple(max(2, round(side * shrink)) for side in size)
    # in floats: on a GPU there is no antialiasing of bytes
    image = F.interpolate(image_3HW[None].float(), shown, mode="bilinear", antialias=True).round().to(torch.uint8)
    cam = activation_maps(network, image, tags_1K, options.scales)
    maps, kernel = tagged_maps(cam, tags_1K), affinity_kernel(half_size(image))
    everywhere = torch.ones_like(image[:, 0], dtype=torch.bool)
    labels = {
        "CAM": cam_label(cam, BACKGROUND)[0],
        "refined": refined_maps_label(maps, kernel, everywhere, BACKGROUND)[0],
        "certain labels": refined_label(maps, kernel, everywhere, options.levels)[0],
    }
    own_size = {name: F.interpolate(label[None, None].float(), size, mode="nearest")[0, 0].long() for name, label in labels.items()}
    return own_size | {"masks": top_class(predict_probabilities(network, image_3HW, protocol)[None])[0]}
