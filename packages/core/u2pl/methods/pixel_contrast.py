"""Pixel contrast, Algorithm 1 of U2PL and U2PL+: enqueue, sample and score all classes at once.

Sampling, counts and queues are global: every process holds the same queue, draws the same anchors
and negatives, and scores the anchors that lie in its own images.

Shapes: N = pixels, of this process or of the global batch; M = anchors per class, A = C x M;
K = negatives per anchor (the papers' N); P = positions, X = rows of any meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.contrast import CONTRASTS, bank_similarity
from u2pl.maps import Pixel, one_hot
from u2pl.memory.class_queue import ClassQueue, Taken, take_first
from u2pl.pseudo.select import Candidates, Thresholds, rank_limits


class ContrastConfig(BaseModel):
    """Pixel contrast; the defaults are the papers'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["info_nce", "binary"] = Field(
        "info_nce",
        description="info_nce (U2PL+ Eq 10), or binary: binary cross entropy (U2PL supp. Eq 1)",
    )
    anchors: int = Field(
        256,
        gt=0,
        description="maximum anchors per class and step, M (U2PL+ Eq 10)",
    )
    negatives: int = Field(
        50,
        gt=0,
        description="negatives per anchor, the papers' N, drawn from its class's queue with "
        "replacement (U2PL+ Eq 10)",
    )
    tau: float = Field(0.5, gt=0, description="temperature (U2PL+ Eq 10)")
    queue: int = Field(
        30_000, gt=0, description="capacity of each class's queue, in keys (U2PL supp. B)"
    )
    queue_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of the keys; the 16-bit ones halve the memory"
    )
    queue_device: Literal["auto", "cpu"] = Field(
        "auto", description="where the keys are stored; auto: on the network's device"
    )

    def queue_lengths(self, num_classes: int) -> list[int]:
        """Capacity of each class's queue, in keys."""
        return [self.queue] * num_classes

    def new_keys(self, num_classes: int) -> int:
        """Maximum number of new keys per class and step."""
        return max(self.queue_lengths(num_classes))

    def notes(self, num_classes: int) -> list[str]:
        """Notes for the user on the contrast with this number of classes."""
        return []


class RankedContrastConfig(ContrastConfig):
    """Contrast with anchors and negatives selected by probability and rank (U2PL sec. 3.3)."""

    delta_p: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="probability that an anchor's class must exceed (U2PL Eqs 9, 10)",
    )
    r_l: int = Field(
        3, gt=0, description="low rank threshold (U2PL Eqs 14, 15); clamped to half the classes"
    )
    r_h: int = Field(
        20, gt=0, description="high rank threshold (U2PL Eq 15); clamped to the number of classes"
    )
    queue_background: int = Field(
        50_000, gt=0, description="capacity of class 0's queue, in keys (U2PL supp. B)"
    )

    pixel: Pixel = Field(
        "centre",
        description="pixel whose label and partition speak for a feature of 4 x 4 pixels: "
        "4i + 2, next to its centre, or floor(i H / h) (released)",
    )

    def queue_lengths(self, num_classes: int) -> list[int]:
        return [self.queue_background] + [self.queue] * (num_classes - 1)

    def thresholds(self, num_classes: int) -> Thresholds:
        """Rank thresholds, clamped for few classes, and probability threshold."""
        return Thresholds(*rank_limits(num_classes, self.r_l, self.r_h), self.delta_p)

    def notes(self, num_classes: int) -> list[str]:
        """A note if the ranks had to be clamped."""
        limits = self.thresholds(num_classes)
        if (limits.r_l, limits.r_h) == (self.r_l, self.r_h):
            return []
        return [
            f"with {num_classes} classes the contrast's ranks r_l {self.r_l}, r_h {self.r_h} "
            f"become {limits.r_l}, {limits.r_h}"
        ]


class ContrastResult(NamedTuple):
    """The loss, and what to log: detached numbers, scalar or per class."""

    loss: Tensor
    scalars: dict[str, Tensor]


class Pixels(NamedTuple):
    """Layout of the pixels of this process among those of the global batch.

    A batch consists of equal groups of images (labelled, unlabelled). The global batch is ordered
    by group first, so the order of its pixels does not depend on the number of processes.
    """

    groups: int
    images: int  # per group and process
    area: int  # h x w

    @classmethod
    def of(cls, label_Bhw: Tensor, groups: int) -> Pixels:
        """Layout of a batch of this many groups."""
        return cls(groups, label_Bhw.shape[0] // groups, label_Bhw[0].numel())

    def gather(self, value_XN: Tensor) -> Tensor:
        """[X, pixels of this process] -> [X, pixels of the global batch]."""
        if distributed.world_size() == 1:
            return value_XN
        parts = distributed.gather(value_XN.unsqueeze(0))
        parts = parts.unflatten(2, (self.groups, -1))  # [processes, X, groups, pixels]
        return parts.permute(1, 2, 0, 3).flatten(1)

    def local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Local index of global pixels (0 if on another process), and whether they are local."""
        if distributed.world_size() == 1:
            return index, torch.ones_like(index, dtype=torch.bool)
        size = self.images * self.area
        group_size = size * distributed.world_size()
        group, rest = index // group_size, index % group_size
        mine = rest // size == distributed.rank()
        return torch.where(mine, group * size + rest % size, 0), mine

    def rows(self, rows_ND: Tensor) -> Tensor | Callable[[Tensor], Tensor]:
        """Rows of the global batch's pixels, from those of this process's, for a queue's `push`."""
        if distributed.world_size() == 1:
            return rows_ND

        def rows_of(index: Tensor) -> Tensor:
            local, mine = self.local(index)
            found = rows_ND.index_select(0, local)
            return distributed.total(torch.where(mine.unsqueeze(1), found, 0.0))

        return rows_of


class PixelContrast(nn.Module):
    """Contrastive loss of sampled anchors; owns the class queues.

    Args:
        config: sizes, thresholds and loss.
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
        """Notes for the user before a run starts."""
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
        """Enqueue the step's negatives, sample anchors and negatives, and score the anchors.

        Args:
            student_BDhw: embeddings of the anchors, with gradient.
            teacher_BDhw: embeddings of the new keys.
            candidates: roles that each of these pixels qualifies for.
            positive_CD: positive key of each class; a class whose row is zero is skipped.
            generator: the step's generator, equal on all processes, on the embeddings' device.
            groups: number of equal groups in the batch, see `Pixels`.
        """
        config, pixels = self.config, Pixels.of(candidates.anchor_Bhw, groups)

        # 1. candidates of the global batch, and one random permutation of its pixels
        anchor_CN = one_hot(candidates.anchor_Bhw, self.num_classes).transpose(0, 1).flatten(1)
        negative_CN = candidates.negative_BChw.transpose(0, 1).flatten(1)
        anchor_CN, negative_CN = pixels.gather(torch.cat([anchor_CN, negative_CN])).chunk(2)
        order = torch.randperm(anchor_CN.shape[1], generator=generator, device=anchor_CN.device)

        # 2. negative keys N_c are enqueued before any are drawn (U2PL Eq 16, U2PL+ Eq 28)
        keys = take_first(negative_CN, config.new_keys(self.num_classes), order)
        self._push(teacher_BDhw, pixels, keys)

        # 3. M anchors per class; each has the positive key of its class (U2PL Eq 12, U2PL+ Eq 24)
        #    and K negatives from its queue
        anchors = take_first(anchor_CN, config.anchors, order)
        per_class = anchors.index_CM.shape[1]
        uniform = torch.rand(
            self.num_classes, per_class, config.negatives, generator=generator, device=order.device
        )
        index_AK = self.queue.draw(uniform).flatten(0, 1)
        local_A, mine_A = pixels.local(anchors.index_CM.flatten())
        anchor_AD = F.normalize(pixel_rows(student_BDhw, local_A).float(), dim=1)
        positive_AD = F.normalize(positive_CD.float(), dim=1).repeat_interleave(per_class, dim=0)
        positive_A = (anchor_AD * positive_AD).sum(dim=1)

        # 4. mean over a class's anchors, then over classes with anchors, keys and a positive
        active_C = (anchors.count_C > 0) & (self.queue.filled > 0) & positive_CD.ne(0).any(dim=1)
        negative_AK = bank_similarity(anchor_AD, self.queue.rows, index_AK)
        loss_A = self.score(positive_A, negative_AK, config.tau)
        loss = (loss_A * mine_A * self._weights(anchors, active_C).flatten()).sum()
        scalars = {
            "anchors": anchors.count_C.float(),
            "negatives": torch.minimum(keys.count_C, self.queue.length).float(),
            "queue_fill": self.queue.filled / self.queue.length,
            "contrast_classes": active_C.sum().float(),
        }
        return ContrastResult(loss, scalars)

    def _weights(self, anchors: Taken, active_C: Tensor) -> Tensor:
        """Weight of each anchor [C, M]; the factor world_size undoes the averaging of gradients."""
        place = torch.arange(anchors.index_CM.shape[1], device=active_C.device)
        chosen_CM = place < (anchors.count_C * active_C).unsqueeze(1)
        share_C1 = anchors.count_C.clamp(min=1).unsqueeze(1) * active_C.sum().clamp(min=1)
        return chosen_CM / share_C1 * distributed.world_size()

    @torch.no_grad()
    def _push(self, teacher_BDhw: Tensor, pixels: Pixels, keys: Taken) -> None:
        self.queue.push(keys, pixels.rows(unit_rows(teacher_BDhw)))


def unit_rows(embed_BDhw: Tensor) -> Tensor:
    """L2-normalised embedding of every pixel, float32 [B h w, D], row-major."""
    rows = all_rows(embed_BDhw)
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-12))


def all_rows(embed_BDhw: Tensor) -> Tensor:
    """Embedding of every pixel, float32 [B h w, D], row-major."""
    rows = embed_BDhw.new_empty(
        len(embed_BDhw), embed_BDhw[0, 0].numel(), embed_BDhw.shape[1], dtype=torch.float32
    )
    # one image at a time, since torch tiles a transposing copy in two dimensions only
    for row_ND, embed_Dhw in zip(rows, embed_BDhw, strict=True):
        row_ND.copy_(embed_Dhw.flatten(1).t())
    return rows.flatten(0, 1)


def pixel_rows(embed_BDhw: Tensor, index_P: Tensor) -> Tensor:
    """Embeddings [P, D] of pixels numbered row-major over (image, row, column).

    Reads only these pixels, in any memory format.
    """
    height, width = embed_BDhw.shape[-2:]
    return embed_BDhw[index_P // (height * width), :, index_P // width % height, index_P % width]
