"""Vision Transformers that are small enough for tests, of every kind that timm has."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from u2pl.networks.encoders.vit import PlainViT

#: What makes a model of a kind, beside its size.
KINDS: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14, "init_values": 1e-5},
    "dinov2 with registers": {
        "patch_size": 14,
        "init_values": 1e-5,
        "reg_tokens": 4,
        "no_embed_class": True,
    },
    "dinov3": {
        "patch_size": 16,
        "init_values": 1e-5,
        "num_reg_tokens": 4,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "qkv_bias": False,
    },
    "plain": {"patch_size": 16},
    "averaging": {"patch_size": 16, "class_token": False, "global_pool": "avg"},
    "patch 8": {"patch_size": 8},
    "patch 32": {"patch_size": 32},
}


def model(kind: str, depth: int = 4, **options: Any) -> nn.Module:
    """timm's model, 16 channels, made for four patches a side."""
    own = {**KINDS[kind], **options}
    size = 4 * own["patch_size"]
    sizes = {"img_size": size, "embed_dim": 16, "depth": depth, "num_heads": 2, "num_classes": 0}
    make = Eva if kind == "dinov3" else VisionTransformer
    torch.manual_seed(0)
    made = make(**sizes, dynamic_img_size=True, **own)
    with torch.no_grad():  # each parameter is told from every other, and from 0 and 1
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return made


def encoder(kind: str, **options: Any) -> PlainViT:
    """The encoder that wraps it, in evaluation mode."""
    channels = options.get("in_chans", 3)
    return PlainViT(model(kind, **options), "test_vit", channels).eval()
