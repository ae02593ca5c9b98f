"""The README.md of a shared network, written from its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Entries of a config that have a place of their own in the card.
PLACED = ("format", "network", "options", "classes", "palette", "normalisation", "method", "data", "evaluation", "scores", "app")


def model_card(config: Mapping[str, Any]) -> str:
    """Markdown: what the network is, how well it does under which protocol, and how to use it."""
    network = config["network"]
    method, data = _line(config.get("method", "u2pl")), _line(config.get("data", "data not stated"))
    title = f"{network['encoder']} {network['decoder']}, {len(config['classes'])} classes"
    paragraphs = [
        "---\nlibrary_name: u2pl\npipeline_tag: image-segmentation\n---",
        f"# {title}",
        f"A semantic segmentation network trained with {method} on {data}.",
        "## Scores",
        _table(config.get("scores")) or "Not evaluated.",
        "Protocol: " + _line(config.get("evaluation", "not stated")),
        "## Use",
        f"```\n{config.get('app', 'u2pl-semi')} predict FOLDER IMAGE --out DIR\n```",
        "FOLDER is this folder. From Python: `from u2pl.networks.sharing import load_shared; network, config = load_shared(FOLDER)`.",
        "## Classes",
        "\n".join(f"{index}. {name}" for index, name in enumerate(config["classes"])),
        "## Details",
        _table({"network": network} | {key: value for key, value in config.items() if key not in PLACED}),
    ]
    return "\n\n".join(paragraphs).rstrip("\n") + "\n"


def _table(values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return "" if not values else _line(values)
    rows = [f"| {key} | {_line(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(inner)}" for key, inner in value.items())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
