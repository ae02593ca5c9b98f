"""Whether a value is as it was written, told apart from one that merely equals it in Python."""

from __future__ import annotations

import math


def same(written: object, resolved: object) -> bool:
    """Whether a value is as it was written: no number is a truth value, nor one that is finite."""
    if isinstance(written, list) and isinstance(resolved, list):
        pairs = zip(written, resolved, strict=False)
        return len(written) == len(resolved) and all(same(*each) for each in pairs)
    if isinstance(written, (int, float)) and not isinstance(written, bool):
        number = isinstance(resolved, (int, float)) and not isinstance(resolved, bool)
        return number and written == resolved and math.isfinite(resolved)  # type: ignore[arg-type]
    # what has no weights is called none
    none = resolved == "none" and str(written).lower() in ("", "none")
    return none or (type(written) is type(resolved) and written == resolved)
