"""CutMix that pastes labelled pixels where the teacher is unsure (AugSeg sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from u2pl import distributed
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import box_mask, scaled_boxes
from u2pl.mixing.mixers import Mixed


def beta_quantiles(first: int, second: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws of Beta(a, b) for whole a and b: the a-th smallest of a + b - 1 uniform numbers."""
    draw = torch.rand(count, first + second - 1, generator=generator, device=generator.device)
    return draw.sort(dim=1).values[:, first - 1]


class AdaptiveCutMix:
    """Pastes a box of a labelled image with probability 1 - confidence, then one of the next image.

    The boxes have the image's shape; the kept area is drawn from Beta(8, 2) for labelled boxes and
    Beta(4, 4) for unlabelled ones, as in the released code.
    """

    @torch.no_grad()
    def __call__(
        self, generator: torch.Generator, confidence_B: Tensor, labeled: Mixed, unlabeled: Mixed
    ) -> Mixed:
        """The mixed images, in place of the unlabelled ones.

        Args:
            generator: the step's generator, equal on all processes.
            confidence_B: of each unlabelled image, in [0, 1].
            labeled: as many images; their maps correspond to the other's, None to None.
            unlabeled: images, validity and maps.
        """
        count, on = len(confidence_B) * distributed.world_size(), confidence_B.device
        size = (unlabeled.valid_BHW.shape[-2], unlabeled.valid_BHW.shape[-1])

        def boxes(kept: tuple[int, int]) -> Tensor:
            area = 1 - beta_quantiles(*kept, count, generator)
            place = torch.rand(count, 2, generator=generator, device=generator.device)
            return distributed.local_rows(scaled_boxes(area, place, size)).to(on)

        coin = torch.rand(count, generator=generator, device=generator.device)
        unsure = distributed.local_rows(coin).to(on) >= confidence_B
        inject = box_mask(boxes((8, 2)), size) & unsure.view(-1, 1, 1)
        others = box_mask(boxes((4, 4)), size)

        def mix(own: Tensor | None, inserted: Tensor | None) -> Tensor | None:
            if own is None or inserted is None:
                return None
            return paste(others, distributed.next_in_batch(own), paste(inject, inserted, own))

        image, valid, *maps = (
            mix(own, inserted)
            for own, inserted in zip(
                (unlabeled.image_B3HW, unlabeled.valid_BHW, *unlabeled.maps),
                (labeled.image_B3HW, labeled.valid_BHW, *labeled.maps),
                strict=True,
            )
        )
        assert image is not None and valid is not None
        return Mixed(image, valid, tuple(maps))
