"""SupOnly: the labelled images alone, the baseline of every table (004 Tab. 1)."""

from __future__ import annotations

from u2pl.supervised import Baseline


class SupOnly(Baseline):
    """L = L_s."""
