"""Options that make a run small, whatever the method: they follow from what its `Config` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from u2pl.methods.discovery import load_method
from u2pl.methods.method import Method
from u2pl.run.app import App
from u2pl.run.sections import flat_keys

Options = Mapping[str, Any]

#: Small queues, for every method with a contrast.
QUEUES: Options = {
    "method.contrast.queue": 20,
    "method.contrast.queue_background": 30,
    "method.contrast.keys": 16,
    "method.contrast.anchors": 8,
    "method.contrast.negatives": 4,
}


def method_of(name: str) -> str:
    """The method of a case: its name, or the first word of a variant's."""
    return name.partition(" ")[0]


class Tiny:
    """Makes the `--set` words of a tiny run of a method, or of a variant: a method with options.

    As in a recipe, options of the method's section that a method does not have are left out; this
    is why nothing here names a method.

    Args:
        app: whose methods.
        options: of every run.
        variants: options by the variant's name, which begins with that of its method.
        sections: more options of the methods that have a section of this name.
    """

    def __init__(
        self,
        app: App,
        options: Options,
        variants: Mapping[str, Options] | None = None,
        sections: Mapping[str, Options] | None = None,
    ) -> None:
        self.app = app
        self.options = options
        self.variants = variants or {}
        self.sections = sections or {}

    def kind(self, name: str) -> type[Method[Any]]:
        """The class of a method or variant."""
        return load_method(f"{self.app.package}.methods", self.app.methods, method_of(name))

    def __call__(self, name: str, usual: Options | None = None, **changes: Any) -> list[str]:
        """The words.

        Args:
            name: of the method or variant.
            usual: more options, left out if the method does not have them.
            changes: options that it must have; `train_lr=1` is train.lr.
        """
        kind = self.kind(name)
        values = {**self.options}
        for section, options in self.sections.items():
            values |= options if section in kind.Config.model_fields else {}
        own = {key for key, _ in flat_keys(kind.Config, "method.")}
        values = {
            key: value
            for key, value in (values | dict(usual or {})).items()
            if key in own or not key.startswith("method.")
        }
        values |= self.variants.get(name, {})
        values |= {key.replace("_", ".", 1): value for key, value in changes.items()}
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]

    def assignments(self, name: str, usual: Options | None = None, **changes: Any) -> list[str]:
        """The same as `Request.set` takes them."""
        return self(name, usual, **changes)[1::2]
