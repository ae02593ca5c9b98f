"""AFA: activation maps spread along an affinity learned from self-attention (Ru et al., CVPR 2022).

The baseline of U2PL+ sec. 4.3. B H W as in u2pl.notation; n: tokens of the feature map, row by row.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.losses.affinity import (
    affinity_loss,
    affinity_target,
    pair_counts,
    radius_mask,
    token_label,
)
from u2pl.networks.attention import Attention, attention_of, build_affinity
from u2pl.networks.segmentor import Segmentor
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import Tokens, activation_maps, maps_and_attention, tokens_inside
from u2pl_ws.batches import TagBatch
from u2pl_ws.map_labels import refined_label, walked_label
from u2pl_ws.methods.cam import Cam, CamConfig, Terms


class AffinityConfig(BaseModel):
    """The affinity of pairs of tokens, and the random walk along it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(0.1, ge=0, description="lambda_aff, weight of the affinity loss")
    radius: int = Field(
        8, gt=0, description="maximum distance of a pair of tokens, in rows and in columns"
    )
    walk_start: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the steps before the random walk is used; 6 000 of 20 000 in AFA",
    )
    walk_view: Literal["largest", "image"] = Field(
        "largest",
        description="view whose affinity the random walk follows: the largest of cam.scales "
        "(released; 48 x 48 tokens for 512 pixels at 1.5), or the image itself, from the training "
        "pass, with a fifth of the pairs",
    )


class AfaConfig(CamConfig):
    """Options of afa."""

    affinity: AffinityConfig = Field(AffinityConfig(), description="affinity from attention (AFA)")


class Afa(Cam):
    """L = L_tags + lambda_seg L_seg + lambda_aff L_aff."""

    Config = AfaConfig
    config: AfaConfig

    def __init__(self, config: AfaConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        if student.encoder.frozen:
            raise UserError(
                "network.freeze_encoder=true leaves the affinity nothing to learn by, for it is "
                "made of the encoder's attention: leave it out, or use method cam (u2plplus: --set "
                "method.host=cam)"
            )
        try:
            self.affinity = build_affinity(student.encoder)
        except UserError as error:
            raise UserError(
                f"{error}, or use method cam (u2plplus: --set method.host=cam)"
            ) from None

    def terms(self, batch: TagBatch, progress: Progress) -> Terms:
        if self.warming_up(progress):
            return self.tags_alone(batch)
        options, levels = self.config.affinity, self.config.cam.levels

        # 1. classification loss on the tags; affinity of the tokens from self-attention
        with attention_of(self.student.encoder) as blocks:
            output = self.student(batch.image, embed=self.uses_embedding)
        tags, affinity = self.tag_loss(output, batch), self.affinity(blocks)
        grid = (output.deep.shape[-2], output.deep.shape[-1])

        # 2. refined activation maps give pseudo-labels, which supervise the affinity
        cam, tokens = self.maps_and_tokens(batch, blocks)
        maps, kernel = self.prepared(cam, batch)
        label = refined_label(maps, kernel, batch.valid, levels)
        aff = self.affinity_loss(affinity, label, grid)

        # 3. later, a random walk along the affinity comes before the refinement
        if progress.after(options.walk_start) >= 0:
            near = radius_mask(*tokens.grid, options.radius, label.device)
            with torch.no_grad():
                spread = self.affinity(tokens.blocks)
            label = walked_label(maps, spread, near, tokens.grid, kernel, batch.valid, levels)

        # 4. the segmentation head learns from the pseudo-labels
        seg = self.segmentation_loss(output, label)
        return Terms({"tags": tags, "seg": seg, "affinity": aff}, output, cam)

    def maps_and_tokens(self, batch: TagBatch, blocks: list[Attention]) -> tuple[Tensor, Tokens]:
        """Activation maps, and the attention that the random walk follows.

        Args:
            batch: images and tags.
            blocks: attention of the training pass.
        """
        scales = self.config.cam.scales
        if self.config.affinity.walk_view == "largest":
            return maps_and_attention(self.student, batch.image, batch.tags, scales)
        size = (batch.image.shape[-2], batch.image.shape[-1])
        cam = activation_maps(self.student, batch.image, batch.tags, scales)
        return cam, tokens_inside(self.student, blocks, size)

    def explained_maps(
        self, image_B3HW: Tensor, tags_BK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scales, size = self.config.cam.scales, image_B3HW.shape[-2:]
        cam, tokens = maps_and_attention(self.student, image_B3HW, tags_BK, scales)
        # of the token where the maps are highest, to all others
        small = F.adaptive_max_pool2d(cam.amax(dim=1, keepdim=True), tokens.grid)
        top = small.flatten(1).argmax(dim=1).view(-1, 1, 1)
        affinity = self.affinity(tokens.blocks)
        row = affinity.gather(1, top.expand(-1, 1, affinity.shape[-1]))
        spread = row.view(-1, 1, *tokens.grid)
        spread = F.interpolate(spread, size, mode="bilinear", align_corners=False).squeeze(1)
        return cam, {"affinity": spread}

    def affinity_loss(self, prob_Bnn: Tensor, label_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
        """L_aff: whether pairs of tokens of an h x w grid are of one class, over all processes."""
        stride = -(-label_BHW.shape[-1] // grid[1])
        target = affinity_target(token_label(label_BHW, grid, stride), self.config.affinity.radius)
        divisors = (distributed.total(pair_counts(target)) + 1) / distributed.world_size()
        return affinity_loss(prob_Bnn, target, divisors)

    def weights(self) -> dict[str, float]:
        return super().weights() | {"affinity": self.config.affinity.weight}
