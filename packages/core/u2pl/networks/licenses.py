"""Licences of pretrained weights, as the hub names them."""

from __future__ import annotations

#: Licences that leave a user free to do anything; "unknown" is what timm calls those it lacks.
FREE = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"})

#: NVIDIA's, of the pretrained weights of `mit_b0` to `mit_b5`.
NVIDIA = "nvidia-source-code-license-for-segformer"

#: Where the text of a licence with terms of its own is.
TEXTS = {
    NVIDIA: "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
    "dinov3-license": "https://ai.meta.com/resources/models-and-libraries/dinov3-license",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0",
}


def is_special(license: str | None) -> bool:
    """Whether a licence is known to have terms that a user should read before using the weights."""
    return license is not None and license != "unknown" and license not in FREE


def license_notes(weights: str, license: str | None) -> list[str]:
    """A note for a person if pretrained weights are under terms of their own."""
    if not is_special(license):
        return []
    where = f" ({TEXTS[license]})" if license in TEXTS else ""
    return [
        f"the pretrained weights {weights} are under the {license}{where}: read it before you use "
        "or share what is trained from them"
    ]
