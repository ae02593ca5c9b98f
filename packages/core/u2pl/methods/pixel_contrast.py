"""The contrast of Algorithm 1 (004; 000): select, remember, score, for all classes at once.

Everything that is drawn, counted or remembered is that of the whole step: with several processes each holds the same queue, draws the
same anchors and negatives, and scores the anchors that lie in its own images.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.contrast import CONTRASTS, bank_similarity
from u2pl.maps import one_hot
from u2pl.memory.class_queue import ClassQueue, Taken, take_first
from u2pl.pseudo.select import Candidates, Thresholds, rank_limits


class ContrastConfig(BaseModel):
    """Pixel contrast; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["info_nce", "binary"] = Field(
        "info_nce", description="InfoNCE (004 Eq 4) or the binary alternative (003 Eq 1)"
    )
    anchors: int = Field(
        256,
        gt=0,
        description="M, anchors per class and step, fewer when fewer pixels qualify (004 Eq 4)",
    )
    negatives: int = Field(
        50,
        gt=0,
        description="N, negatives per anchor, drawn with replacement from the class's queue (004 Eq 4)",
    )
    tau: float = Field(0.5, gt=0, description="temperature (004 Eq 4)")
    queue: int = Field(30_000, gt=0, description="keys remembered for each class (003 B)")
    queue_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the keys; 16 bits halve the memory"
    )
    queue_device: Literal["auto", "cpu"] = Field(
        "auto", description="where the keys live: with the network, or in main memory"
    )

    def queue_lengths(self, num_classes: int) -> list[int]:
        """Keys remembered for each class."""
        return [self.queue] * num_classes

    def new_keys(self, num_classes: int) -> int:
        """Keys that a class takes from one step at most."""
        return max(self.queue_lengths(num_classes))

    def notes(self, num_classes: int) -> list[str]:
        """What a user should know about the contrast with this many classes."""
        return []


class RankedContrastConfig(ContrastConfig):
    """Contrast whose anchors and negatives follow from the teacher's probabilities and their ranks."""

    delta_p: float = Field(
        0.3, ge=0, lt=1, description="probability of its class that an anchor needs (004 Eqs 9, 10)"
    )
    r_l: int = Field(
        3, gt=0, description="low rank threshold (004 Eqs 14, 15); clamped to half the classes"
    )
    r_h: int = Field(
        20, gt=0, description="high rank threshold (004 Eq 15); clamped to the number of classes"
    )
    queue_background: int = Field(50_000, gt=0, description="keys remembered for class 0 (003 B)")

    def queue_lengths(self, num_classes: int) -> list[int]:
        return [self.queue_background] + [self.queue] * (num_classes - 1)

    def thresholds(self, num_classes: int) -> Thresholds:
        """Ranks and confidence, the ranks clamped to what few classes allow."""
        return Thresholds(*rank_limits(num_classes, self.r_l, self.r_h), self.delta_p)

    def notes(self, num_classes: int) -> list[str]:
        """How few classes change the ranks."""
        limits = self.thresholds(num_classes)
        if (limits.r_l, limits.r_h) == (self.r_l, self.r_h):
            return []
        return [
            f"with {num_classes} classes the contrast's ranks r_l {self.r_l}, r_h {self.r_h} become {limits.r_l}, {limits.r_h}"
        ]


class ContrastResult(NamedTuple):
    """The loss, and per class what went into it (detached)."""

    loss: Tensor
    scalars: dict[str, Tensor]


class Pixels(NamedTuple):
    """How the pixels of this process lie among those of all of them.

    Batches consist of equal groups of images (labelled, unlabelled); globally the groups follow each other too, so the order of pixels
    does not depend on the number of processes.
    """

    groups: int
    images: int  # of one group on this process
    area: int  # h x w

    @classmethod
    def of(cls, label_Bhw: Tensor, groups: int) -> Pixels:
        """The layout of a batch."""
        return cls(groups, label_Bhw.shape[0] // groups, label_Bhw[0].numel())

    def gather(self, value_XN: Tensor) -> Tensor:
        """Join [X, local pixels] over processes to [X, global pixels]."""
        if distributed.world_size() == 1:
            return value_XN
        parts = distributed.gather(value_XN.unsqueeze(0)).unflatten(
            2, (self.groups, -1)
        )  # [world, X, groups, pixels]
        return parts.permute(1, 2, 0, 3).flatten(1)

    def local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Local position of global pixels, and whether they lie on this process (elsewhere the position is 0)."""
        if distributed.world_size() == 1:
            return index, torch.ones_like(index, dtype=torch.bool)
        size = self.images * self.area
        group, rest = (
            index // (size * distributed.world_size()),
            index % (size * distributed.world_size()),
        )
        mine = rest // size == distributed.rank()
        return torch.where(mine, group * size + rest % size, 0), mine


class PixelContrast(nn.Module):
    """Owns the class queues and scores anchors against them.

    Args:
        config: numbers and switches.
        num_classes: C.
        width: D of the embeddings.
    """

    def __init__(self, config: ContrastConfig, num_classes: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        device = None if config.queue_device == "auto" else config.queue_device
        self.queue = ClassQueue(
            config.queue_lengths(num_classes), width, getattr(torch, config.queue_dtype), device
        )
        self.score = CONTRASTS[config.loss]

    def notes(self) -> list[str]:
        """What a user should know before a run starts."""
        return self.config.notes(self.num_classes)

    def forward(
        self,
        student_BDhw: Tensor,
        teacher_BDhw: Tensor,
        candidates: Candidates,
        positive_CD: Tensor,
        generator: torch.Generator,
        groups: int = 2,
    ) -> ContrastResult:
        """Push the step's negatives (Eq 16), sample anchors and keys, and score them (Eq 4).

        Args:
            student_BDhw: embeddings that carry the gradient: anchors.
            teacher_BDhw: embeddings that become keys.
            candidates: what each of these pixels may be.
            positive_CD: the positive key of each class; a class whose row is zero is left out.
            generator: the step's randomness, equal on all processes, on the embeddings' device.
            groups: equal parts of the batch, see `Pixels`.
        """
        config, pixels = self.config, Pixels.of(candidates.anchor_Bhw, groups)

        # 1. who may be what, over all processes, and one random order of all pixels
        anchor_CN = one_hot(candidates.anchor_Bhw, self.num_classes).transpose(0, 1).flatten(1)
        negative_CN = candidates.negative_BChw.transpose(0, 1).flatten(1)
        anchor_CN, negative_CN = pixels.gather(torch.cat([anchor_CN, negative_CN])).chunk(2)
        order = torch.randperm(anchor_CN.shape[1], generator=generator, device=anchor_CN.device)

        # 2. the step's negatives are remembered before any is drawn
        keys = take_first(negative_CN, config.new_keys(self.num_classes), order)
        self._push(teacher_BDhw, pixels, keys)

        # 3. anchors of each class, and for each anchor negatives from the class's queue
        anchors = take_first(anchor_CN, config.anchors, order)
        per_class = anchors.index_CK.shape[1]
        uniform = torch.rand(
            self.num_classes, per_class, config.negatives, generator=generator, device=order.device
        )
        index_AK = self.queue.draw(uniform).flatten(0, 1)
        local_A, mine_A = pixels.local(anchors.index_CK.flatten())
        anchor_AD = F.normalize(pixel_rows(student_BDhw, local_A).float(), dim=1)
        positive_A = (
            anchor_AD * F.normalize(positive_CD.float(), dim=1).repeat_interleave(per_class, dim=0)
        ).sum(dim=1)

        # 4. the mean over a class's anchors, then over the classes that have anchors, keys and a positive
        active_C = (anchors.count_C > 0) & (self.queue.filled > 0) & positive_CD.ne(0).any(dim=1)
        loss_A = self.score(
            positive_A, bank_similarity(anchor_AD, self.queue.rows, index_AK), config.tau
        )
        loss = (loss_A * mine_A * self._weights(anchors, active_C).flatten()).sum()
        scalars = {
            "anchors": anchors.count_C.float(),
            "negatives": torch.minimum(keys.count_C, self.queue.length).float(),
            "queue_fill": self.queue.filled / self.queue.length,
            "contrast_classes": active_C.sum().float(),
        }
        return ContrastResult(loss, scalars)

    def _weights(self, anchors: Taken, active_C: Tensor) -> Tensor:
        """Share of each anchor in the loss [C, M]; each process has its own anchors' alone, and the gradients are averaged over them."""
        chosen_CM = torch.arange(anchors.index_CK.shape[1], device=active_C.device) < (
            anchors.count_C * active_C
        ).unsqueeze(1)
        share_C1 = anchors.count_C.clamp(min=1).unsqueeze(1) * active_C.sum().clamp(min=1)
        return chosen_CM / share_C1 * distributed.world_size()

    @torch.no_grad()
    def _push(self, teacher_BDhw: Tensor, pixels: Pixels, keys: Taken) -> None:
        rows = unit_rows(teacher_BDhw)

        def rows_of(index: Tensor) -> Tensor:
            local, mine = pixels.local(index)
            return distributed.total(
                torch.where(mine.unsqueeze(1), rows.index_select(0, local), 0.0)
            )

        rows_here = (
            rows_of if distributed.world_size() > 1 else lambda index: rows.index_select(0, index)
        )
        self.queue.push(keys, rows_here)


def unit_rows(embed_BDhw: Tensor) -> Tensor:
    """Every pixel's embedding at unit length, float32 [B h w, D]."""
    rows = embed_BDhw.new_empty(
        len(embed_BDhw), embed_BDhw[0, 0].numel(), embed_BDhw.shape[1], dtype=torch.float32
    )
    for row_ND, embed_Dhw in zip(
        rows, embed_BDhw, strict=True
    ):  # a copy from two to two dimensions is tiled, others are not
        row_ND.copy_(embed_Dhw.flatten(1).t())
    rows = rows.flatten(0, 1)
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-12))


def pixel_rows(embed_BDhw: Tensor, index_P: Tensor) -> Tensor:
    """Embeddings [P, D] of the pixels numbered row-major over (image, row, column); reads only those, whatever the layout."""
    height, width = embed_BDhw.shape[-2:]
    return embed_BDhw[index_P // (height * width), :, index_P // width % height, index_P % width]
