"""Source only: trained on the source images and asked about the target's; the baseline that adaptation has to beat."""

from __future__ import annotations

from u2pl.supervised import Baseline


class SourceOnly(Baseline):
    """L = L_s."""
