"""Numbers of released code, in ../shared/fixtures: a test takes names and sizes from the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def cases(keys: Iterable[str], pattern: str) -> list[Any]:
    """What the groups of `pattern` stand for in each key that it matches from end to end.

    A string for one group, a tuple for several. There is at least one such key.
    """
    found = [match for key in keys if (match := re.fullmatch(pattern, key))]
    assert found, f"no key matches {pattern}"
    return [match[1] if len(match.groups()) == 1 else match.groups() for match in found]


def assert_close(
    found: Any, expected: Any, tolerance: float = 1e-5, name: str = "", scale: float = 0.0
) -> None:
    """Equal up to `tolerance` times the largest number expected, or times `scale` if it is larger.

    So it asks nothing of the digits of far smaller numbers, which float32 does not have. `scale`
    is the size of terms that may cancel; `name` is part of the message.
    """
    ours, theirs = (torch.as_tensor(value).detach().double().numpy() for value in (found, expected))
    assert ours.shape == theirs.shape, name
    # if all are denormal, they have no digits either
    limit = tolerance * np.abs(theirs).max(initial=scale) + np.finfo(np.float32).tiny
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit, err_msg=name)
