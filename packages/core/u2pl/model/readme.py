"""The README.md of a model's folder, written from its card."""

from __future__ import annotations

import json
from collections.abc import Mapping

from u2pl.model.card import Card

#: Entries of a card that have a place of their own in the text.
PLACED = {
    "format", "app", "method", "options", "network", "classes", "palette", "data", "evaluation",
    "scores", "normalisation",
}  # fmt: skip


def readme(card: Card) -> str:
    """Markdown: what the network is, how well it does under which protocol, and how to use it."""
    network = card.network
    method, data = card.method or "u2pl", card.data or "data not stated"
    details = card.model_dump(mode="json", exclude=PLACED, exclude_none=True)
    paragraphs = [
        "---\nlibrary_name: u2pl\npipeline_tag: image-segmentation\n---",
        f"# {network.encoder} {network.decoder}, {len(card.classes)} classes",
        f"A semantic segmentation network trained with {_line(method)} on {_line(data)}.",
        "## Scores",
        _table(card.scores) or "Not evaluated.",
        "Protocol: " + _line(card.evaluation or "not stated"),
        "## Use",
        f"```\n{card.app} predict FOLDER IMAGE --out DIR\n```",
        '```python\nimport u2pl\n\nmodel = u2pl.load("FOLDER")\n'
        'prediction = model.predict("IMAGE")  # .ids, .overlay()\n```',
        "FOLDER is this folder.",
        "## Classes",
        "\n".join(f"{index}. {_line(name)}" for index, name in enumerate(card.classes)),
        "## Details",
        _table({"network": network.model_dump(mode="json")} | details),
    ]
    return "\n\n".join(paragraphs).rstrip("\n") + "\n"


def _table(values: Mapping[str, object]) -> str:
    if not values:
        return ""
    rows = [f"| {key} | {_line(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(inner)}" for key, inner in value.items())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
