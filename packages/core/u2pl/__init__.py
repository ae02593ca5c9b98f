"""Label-efficient semantic segmentation with unreliable pseudo-labels: the core of the three apps.

`u2pl.train` trains, `u2pl.load` loads a model, `u2pl.compare` compares runs; see
docs/python.md. Torch is imported when one of them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from u2pl.version import __version__ as __version__

if TYPE_CHECKING:
    from u2pl.api import compare as compare
    from u2pl.api import train as train
    from u2pl.errors import UserError as UserError
    from u2pl.model.card import Card as Card
    from u2pl.model.model import Model as Model
    from u2pl.model.model import Prediction as Prediction
    from u2pl.model.model import load as load
    from u2pl.run.compare.comparison import Comparison as Comparison
    from u2pl.run.run import Run as Run

#: Public name -> the module that defines it.
_PUBLIC = {
    "Card": "u2pl.model.card",
    "Comparison": "u2pl.run.compare.comparison",
    "Model": "u2pl.model.model",
    "Prediction": "u2pl.model.model",
    "Run": "u2pl.run.run",
    "UserError": "u2pl.errors",
    "compare": "u2pl.api",
    "load": "u2pl.model.model",
    "train": "u2pl.api",
}

__all__ = [
    "Card",
    "Comparison",
    "Model",
    "Prediction",
    "Run",
    "UserError",
    "compare",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'u2pl' has no attribute {name!r}")
    found = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
