"""Pixel-to-part contrast: anchors against mean features of parts, in a queue each (ESL sec. 3.3).

Shapes: S = parts of all classes; M = anchors per class, A = C x M; K = negatives per anchor (N_s).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.contrast import bank_similarity, info_nce
from u2pl.maps import one_hot
from u2pl.memory.class_queue import ClassQueue, Taken, take_first
from u2pl.memory.prototypes import sums_by_slot
from u2pl.methods.pixel_contrast import ContrastResult, Pixels, pixel_rows


class PartContrastConfig(BaseModel):
    """Contrast of pixels with parts; the defaults are ESL's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="probability that an unlabelled anchor's class must exceed, zeta (ESL Eq 9)",
    )
    share: float = Field(
        0.1, gt=0, le=1, description="share of a class's candidates that become anchors"
    )
    anchors: int = Field(256, gt=0, description="maximum anchors per class and step (ours)")
    negatives: int = Field(255, gt=0, description="negatives per anchor, N_s (ESL Eq 10)")
    sigma: float = Field(0.5, gt=0, description="temperature (ESL Eq 10)")
    queue: int = Field(
        256, gt=0, description="capacity of each part's queue, in mean features (q, unstated)"
    )


class PartContrast(nn.Module):
    """Contrastive loss of sampled anchors; owns the parts' queues.

    Sampling and queues are those of the global batch, as in `PixelContrast`.

    Args:
        config: sizes and temperature.
        num_classes: C.
        slots: S.
        width: D of the embeddings.
    """

    def __init__(
        self, config: PartContrastConfig, num_classes: int, slots: int, width: int
    ) -> None:
        super().__init__()
        self.config, self.num_classes, self.slots = config, num_classes, slots
        self.queue = ClassQueue([config.queue] * slots, width)

    def forward(
        self,
        student_BDhw: Tensor,
        teacher_BDhw: Tensor,
        anchor_Bhw: Tensor,
        part_Bhw: Tensor,
        generator: torch.Generator,
        groups: int = 2,
    ) -> ContrastResult:
        """Enqueue the step's parts, sample anchors, positives and negatives, and score the anchors.

        Args:
            student_BDhw: embeddings of the anchors, with gradient.
            teacher_BDhw: embeddings that the parts are means of.
            anchor_Bhw: int64, the class that the pixel may be an anchor of, 255 = none (ESL Eq 9).
            part_Bhw: int64, the pixel's part, S = none.
            generator: the step's generator, equal on all processes, on the embeddings' device.
            groups: number of equal groups in the batch, see `Pixels`.
        """
        config, pixels = self.config, Pixels.of(anchor_Bhw, groups)

        # 1. the mean feature of each part in each image goes to the part's queue (ESL Eq 8)
        self._push(teacher_BDhw, part_Bhw, groups)

        # 2. anchors: a share of each class's candidates, at most M
        anchor_Bhw = torch.where(part_Bhw < self.slots, anchor_Bhw, 255)
        anchor_CN = one_hot(anchor_Bhw, self.num_classes).transpose(0, 1).flatten(1)
        anchor_CN = pixels.gather(anchor_CN)
        part_N = pixels.gather(part_Bhw.reshape(1, -1))[0]
        order = torch.randperm(len(part_N), generator=generator, device=part_N.device)
        taken = take_first(anchor_CN, config.anchors, order)
        wanted = (anchor_CN.sum(dim=1) * config.share).ceil().long()
        used_C = torch.minimum(taken.count_C, wanted)
        place = torch.arange(taken.index_CM.shape[1], device=used_C.device)
        chosen = (place < used_C.unsqueeze(1)).flatten()
        # with many classes most are absent: no more rows than there can be anchors
        most = min(len(chosen), int(config.share * len(part_N)) + self.num_classes)
        row_A = (~chosen).to(torch.uint8).argsort(stable=True)[:most]
        class_A = row_A // len(place)

        # 3. one positive from the anchor's part, N_s negatives from all other parts
        index_A = taken.index_CM.flatten()[row_A]
        part_A = part_N[index_A].clamp(max=self.slots - 1)
        draw = torch.rand(
            len(part_A), 1 + config.negatives, generator=generator, device=generator.device
        )
        rows_AK = torch.cat(
            [
                self.queue.draw_own(draw[:, 0], part_A).unsqueeze(1),
                self.queue.draw_others(draw[:, 1:], part_A),
            ],
            dim=1,
        )
        own_A, all_keys = self.queue.filled[part_A], self.queue.filled.sum()
        usable_A = (own_A > 0) & (all_keys > own_A) & chosen[row_A]

        # 4. InfoNCE, mean over a class's anchors, then over classes with anchors (ESL Eq 10)
        local_A, mine_A = pixels.local(index_A)
        anchor_AD = F.normalize(pixel_rows(student_BDhw, local_A).float(), dim=1)
        similarity = bank_similarity(anchor_AD, self.queue.rows, rows_AK)
        loss_A = info_nce(similarity[:, 0], similarity[:, 1:], config.sigma)
        used_C = torch.zeros_like(used_C).scatter_add_(0, class_A, usable_A.long())
        classes = (used_C > 0).sum().clamp(min=1)
        weight_A = usable_A / (used_C.clamp(min=1)[class_A] * classes)
        loss = (loss_A * mine_A * weight_A).sum() * distributed.world_size()
        scalars = {
            "anchors": used_C.float(),
            "parts_fill": self.queue.filled.float().mean() / self.config.queue,
            "contrast_classes": (used_C > 0).sum().float(),
        }
        return ContrastResult(loss, scalars)

    @torch.no_grad()
    def _push(self, teacher_BDhw: Tensor, part_Bhw: Tensor, groups: int) -> None:
        sums_BSD, count_BS = sums_by_slot(teacher_BDhw, part_Bhw, self.slots)
        mean_BSD = F.normalize(sums_BSD, dim=2)  # the direction is that of the mean
        # images of the global batch, group by group, so that processes do not show in the order
        images = Pixels(groups, len(part_Bhw) // groups, 1)
        present_SB = images.gather(count_BS.t()) > 0
        rows = images.gather(mean_BSD.flatten(1).t()).t().unflatten(1, (self.slots, -1))
        taken = take_first(present_SB, present_SB.shape[1])
        # row b S + s of the table is image b's mean of part s
        part = torch.arange(self.slots, device=rows.device).unsqueeze(1)
        index = taken.index_CM * self.slots + part
        self.queue.push(Taken(index, taken.count_C), rows.flatten(0, 1).contiguous())
