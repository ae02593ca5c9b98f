"""SupOnly: supervised training on the labelled images only, the baseline (U2PL Tab. 1)."""

from __future__ import annotations

from u2pl.methods.baseline import Baseline
from u2pl.methods.batches import PairBatch


class SupOnly(Baseline[PairBatch]):
    """L = L_s."""
