"""U2PL+ for weak supervision: a pixel contrast on top of afa or cam (U2PL+ sec. 3.5.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from u2pl.memory.prototypes import PrototypeConfig, Prototypes
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor
from u2pl.schedules import Progress
from u2pl_ws.batches import TagBatch
from u2pl_ws.methods.afa import Afa, AfaConfig
from u2pl_ws.methods.cam import Cam
from u2pl_ws.selection import TagNegativesConfig, WeakContrastConfig, select_by_tags


class U2PLPlusConfig(AfaConfig):
    """Options of u2plplus."""

    host: Literal["afa", "cam"] = Field(
        "afa", description="the method that the contrast is added to; cam runs on any encoder"
    )
    contrast: WeakContrastConfig = Field(
        WeakContrastConfig(), description="contrastive loss L_c (U2PL+ Eqs 10, 29-31)"
    )
    prototypes: PrototypeConfig = Field(
        PrototypeConfig(), description="positive keys (U2PL+ Eqs 18, 30)"
    )
    negatives: TagNegativesConfig = Field(
        TagNegativesConfig(), description="which pixels become negatives (U2PL+ Tab. 14)"
    )
    beta: float = Field(
        0.45,
        ge=0,
        le=1,
        description="threshold on the map above which a pixel is reliable (U2PL+ Eqs 29, 31; "
        "value: AFA's background score)",
    )
    lambda_c: float = Field(0.1, ge=0, description="weight of L_c (U2PL+ Eq 9)")


class U2PLPlus(Afa):
    """L = L_host + lambda_c L_c."""

    Config = U2PLPlusConfig
    config: U2PLPlusConfig
    uses_embedding = True

    def __init__(self, config: U2PLPlusConfig, student: Segmentor, num_classes: int) -> None:
        self.host: type[Cam] = {"afa": Afa, "cam": Cam}[config.host]
        # the host's own constructor: on cam no affinity head is built
        self.host.__init__(self, config, student, num_classes)
        self.contrast = PixelContrast(config.contrast, num_classes - 1, student.embed_dim)
        self.prototypes = Prototypes(config.prototypes, num_classes - 1, student.embed_dim)

    def forward(self, batch: TagBatch, progress: Progress) -> StepResult:
        # 1. the host's losses, activation maps and representations, from one pass
        terms = self.host.terms(self, batch, progress)
        weights = self.host.weights(self) | {"contrast": self.config.lambda_c}
        if terms.cam_BKHW is None:
            return weighted_sum(weights, **terms.losses)
        embed = terms.output.embed
        assert embed is not None

        # 2. reliable pixels are anchors and update the prototypes; negatives of a class: pixels of
        #    images without its tag, and unreliable ones
        size = (embed.shape[-2], embed.shape[-1])
        chosen = select_by_tags(
            terms.cam_BKHW, batch.tags, batch.valid, size, self.config.beta, self.config.negatives
        )
        self.prototypes.update(embed, chosen.positive_Bhw)

        # 3. L = L_host + lambda_c L_c
        generator = progress.generator(embed.device)
        contrast = self.contrast(
            embed, embed.detach(), chosen, self.prototypes.center, generator, groups=1
        )
        return weighted_sum(weights, **terms.losses, contrast=contrast.loss).log(**contrast.scalars)

    def explain(
        self, image_B3HW: Tensor, valid_BHW: Tensor, tags_BK: Tensor | None, progress: Progress
    ) -> dict[str, Tensor]:
        shown = self.host.explain(self, image_B3HW, valid_BHW, tags_BK, progress)
        return {**shown, "reliable": valid_BHW & (shown["activation"] > self.config.beta)}

    def explained_maps(
        self, image_B3HW: Tensor, tags_BK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.host.explained_maps(self, image_B3HW, tags_BK)
