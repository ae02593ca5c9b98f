"""The README.md of a model's folder, written from its card; its header is what the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping

from u2pl.model.card import Card
from u2pl.model.hub import repository_of
from u2pl.networks.licenses import NVIDIA, TEXTS, is_special
from u2pl.notation import COLOURS
from u2pl.report.markdown import escaped

#: Entries of a card that have a place of their own in the text.
PLACED = {
    "format", "app", "method", "options", "network", "classes", "palette", "data", "evaluation",
    "scores", "normalisation",
}  # fmt: skip

#: The entry of a card's scores that is a list by class id.
PER_CLASS = "per_class_iou"
#: Scores that the hub shows: their names there, and what to call them.
METRICS = {
    "miou": ("mean_iou", "mIoU in percent"),
    "pixel_accuracy": ("accuracy", "pixel accuracy in percent"),
}


def readme(card: Card, name: str = "FOLDER") -> str:
    """Markdown: what the network is, how well it does under which protocol, and how to use it.

    Args:
        card: of the network.
        name: what to type for its folder; a name on the hub if it is there.
    """
    network = card.network
    method, data = card.method or "u2pl", card.data or "data not stated"
    details = card.model_dump(mode="json", exclude=PLACED, exclude_none=True)
    terms = _terms(card)
    licence = ["## Licence", terms] if terms else []
    paragraphs = [
        _header(card),
        f"# {network.encoder} {network.decoder}, {len(card.classes)} classes",
        f"A semantic segmentation network trained with {_line(method)} on {_line(data)}."
        + (f" Training began with {_line(card.origin.name)}." if card.origin else ""),
        *_bands(card),
        "## Scores",
        _table({key: _short(value) for key, value in card.scores.items() if key != PER_CLASS})
        or "Not evaluated.",
        "Protocol: " + _line(card.evaluation or "not stated"),
        "## Use",
        "In an environment where the package `u2pl` is installed:",
        f"```\n{card.app} predict {name} IMAGE --out DIR\n```",
        f'```python\nimport u2pl\n\nmodel = u2pl.load("{name}")\n'
        'prediction = model.predict("IMAGE")  # .ids, .overlay()\n```',
        *(["FOLDER is this folder."] if name == "FOLDER" else []),
        *licence,
        "## Classes",
        _classes(card),
        "## Details",
        _table({"network": network.model_dump(mode="json")} | details),
    ]
    return "\n\n".join(paragraphs).rstrip("\n") + "\n"


def _classes(card: Card) -> str:
    """The classes by id, with their IoU where they were scored."""
    scores = card.scores.get(PER_CLASS)
    if not isinstance(scores, list) or len(scores) != len(card.classes):
        return "\n".join(f"{index}. {_line(name)}" for index, name in enumerate(card.classes))
    shown = ["not in the masks" if score is None else _line(_short(score)) for score in scores]
    rows = [
        f"| {index} | {_line(name)} | {score} |"
        for index, (name, score) in enumerate(zip(card.classes, shown, strict=True))
    ]
    return "\n".join(["| id | class | IoU % |", "|---|---|---|", *rows])


def _bands(card: Card) -> list[str]:
    """What the network's channels are, if they are not those of a photo."""
    if card.scaling is None:
        return []
    bands = ", ".join(map(str, card.scaling.bands))
    text = f"Its input: bands {bands} of rasters of {_line(card.scaling.kind)}."
    if card.channels != COLOURS and card.pretrained is not None:
        text += " The first convolution was pretrained on three colours, whose weights were " + (
            "added up for one band." if card.channels == 1 else "repeated and scaled for these."
        )
    return [text]


def _header(card: Card) -> str:
    """YAML for the hub; values are written as JSON, which is YAML too."""
    tags = ["semantic-segmentation", "pytorch", card.method, card.network.encoder]
    entries: dict[str, object] = {
        "library_name": "u2pl",
        "pipeline_tag": "image-segmentation",
        "tags": [tag for tag in tags if tag],
        **_license(card),
        **_base(card),
        **_results(card),
    }
    lines = (f"{key}: {_yaml(value)}" for key, value in entries.items())
    return "\n".join(["---", *lines, "---"])


def _base(card: Card) -> dict[str, object]:
    """What it was trained on from, if that is on the hub."""
    repository = repository_of(card.origin.name) if card.origin else None
    return {"base_model": repository} if repository else {}


def _results(card: Card) -> dict[str, object]:
    """The scores as the hub's `model-index`; nothing without one."""
    metrics = [
        {"type": kind, "value": card.scores[key], "name": words}
        for key, (kind, words) in METRICS.items()
        if isinstance(card.scores.get(key), (int, float))
    ]
    if not metrics:
        return {}
    # the words of `evaluation`: the data's name and the split, then the protocol
    scored, _, protocol = card.evaluation.partition(", ")
    data = scored.removesuffix(f" {card.split}") or "data not stated"
    result = {
        "task": {"type": "image-segmentation", "name": protocol or "semantic segmentation"},
        "dataset": {"type": data, "name": data, "split": card.split},
        "metrics": metrics,
    }
    name = " ".join(filter(None, [card.method or "u2pl", card.network.encoder, data]))
    return {"model-index": [{"name": name, "results": [result]}]}


def _terms(card: Card) -> str:
    """Under which licence the pretrained weights were released, if it is known."""
    license = card.weights_license
    if license == NVIDIA:
        return "Training began with weights that NVIDIA licenses for non-commercial use."
    if license is None or card.pretrained is None:
        return ""
    where = f" ({TEXTS[license]})" if license in TEXTS else ""
    name, license = _line(card.pretrained.name), _line(license)
    return f"Training began with the weights {name}, under {license}{where}."


def _license(card: Card) -> dict[str, object]:
    """The licence as the hub has it, if that of the pretrained weights has terms of its own."""
    license = card.weights_license
    if license is None or not is_special(license):
        return {}
    link = {"license_link": TEXTS[license]} if license in TEXTS else {}
    return {"license": "other", "license_name": license, **link}


def _yaml(value: object) -> str:
    plain = isinstance(value, str) and all(c.isalnum() or c in "-_" for c in value)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def _table(values: Mapping[str, object]) -> str:
    if not values:
        return ""
    rows = [f"| {key} | {_line(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _short(score: object) -> object:
    return round(score, 2) if isinstance(score, float) else score


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(inner)}" for key, inner in value.items())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escaped(text)
