"""Predictions of some images beside their truth, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from u2pl.data.source import Source
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import decoded
from u2pl.report.gallery import Row


def picture_rows(
    network: nn.Module,
    source: Source,
    ids: Sequence[str],
    protocol: EvaluationProtocol,
    device: torch.device | str,
    count: int = 6,
) -> list[Row]:
    """Image, truth and prediction of `count` images spread evenly over `ids`, for `gallery`."""
    picked = [
        ids[index * len(ids) // min(count, len(ids))] for index in range(min(count, len(ids)))
    ]
    rows = []
    with evaluating([network]):
        for id, example in zip(picked, decoded(source, picked, protocol), strict=True):
            prediction = predict_probabilities(network, example.image.to(device), protocol).argmax(
                0
            )
            image = example.image.permute(1, 2, 0).numpy()
            truth = example.label.numpy() if source.has_mask(id) else None
            rows.append(Row(id, image, truth, prediction.to(torch.uint8).cpu().numpy()))
    return rows
