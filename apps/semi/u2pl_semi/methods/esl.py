"""ESL: dynamic soft labels, and a contrast of pixels with the parts of classes (Ma et al. 2023).

"Enhanced Soft Label for Semi-Supervised Semantic Segmentation" (ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from u2pl import distributed
from u2pl.evaluate.inference import evaluating
from u2pl.losses.soft_label import soft_cross_entropy
from u2pl.losses.supervised import connected_zero
from u2pl.maps import downsample, top_class, upsample
from u2pl.memory.kmeans import kmeans
from u2pl.memory.parts import PartPrototypes
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import label_accuracy
from u2pl.methods.part_contrast import PartContrast, PartContrastConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.pseudo.soft_label import SoftLabelConfig, soft_label
from u2pl.schedules import Progress
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig

#: Pixels of a class that K-means clusters at most.
MOST = 20_000


class ESLConfig(SelfTrainingConfig):
    """Options of esl; the defaults are the paper's, and U2PL's where it is silent."""

    soft_label: SoftLabelConfig = Field(
        SoftLabelConfig(), description="soft labels of the unlabelled pixels (ESL Eqs 3-5)"
    )
    parts: NonNegativeInt = Field(
        5, description="parts of a class, K (ESL Tab. 4); 0 = no contrast"
    )
    momentum: float = Field(
        0.99, ge=0, lt=1, description="momentum of the parts' prototypes, theta (ESL Eq 12)"
    )
    part_contrast: PartContrastConfig = Field(
        PartContrastConfig(), description="contrast of pixels with parts (ESL Eqs 8-10)"
    )
    lambda_u: float = Field(0.2, ge=0, description="weight of L_SCE (ESL Eq 11)")
    lambda_c: float = Field(0.1, ge=0, description="weight of L_CTR (ESL Eq 11)")


class ESL(SelfTraining):
    """L = L_CE + lambda_u L_SCE + lambda_c L_CTR (ESL Eq 11)."""

    Config = ESLConfig
    config: ESLConfig
    uses_embedding = True
    prepares = True

    def __init__(self, config: ESLConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        # with K = 0 a single, unused part keeps the state's shape simple
        parts, width = max(config.parts, 1), student.encoder.channels[-1]
        self.part_prototypes = PartPrototypes(num_classes, parts, width, config.momentum)
        slots = self.part_prototypes.slots
        self.part_contrast = PartContrast(
            config.part_contrast, num_classes, slots, student.embed_dim
        )

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        config, size = self.config, batch.label_l.shape[-2:]
        generator = progress.generator(batch.image_l.device)

        # 1. soft labels of clean images; CutMix mixes images and probabilities
        clean = self.teacher(batch.image_u, embed=False, running=True)
        prob_u = upsample(clean.logits, size).float().softmax(dim=1)
        image_u, valid_u, (prob_u, truth_u) = self.mix(
            generator, batch.image_u, batch.valid_u, prob_u, batch.truth_u
        )
        target_u = soft_label(prob_u, config.soft_label)

        # 2. student and teacher see the same labelled and mixed images
        student = self.student(self.student_images(generator, batch.image_l, image_u))
        teacher = self.teacher(torch.cat([batch.image_l, image_u]))
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 3. L = L_CE + lambda_u L_SCE + lambda_c L_CTR
        sup = self.supervised_loss(student, batch.label_l)
        seen = distributed.average(valid_u.sum())
        unsup = soft_cross_entropy(logits_u, target_u, valid_u, seen)
        losses = {"sup": sup, "unsup": unsup}
        scalars: dict[str, Tensor] = {}
        label_u = torch.where(valid_u, top_class(prob_u), IGNORE)
        if config.parts:
            # 4. pixels of known class belong to parts, whose prototypes follow the teacher
            label = torch.cat([batch.label_l.long(), label_u])
            part = self.parts_of(teacher, label)
            anchor = self.anchors(downsample(label), teacher)
            contrast = self.part_contrast(student.embed, teacher.embed, anchor, part, generator)
            losses["contrast"], scalars = contrast.loss, contrast.scalars
        else:  # other processes wait for a gradient of the representation head
            losses["sup"] = sup + connected_zero(student.embed)
        weights = {"unsup": config.lambda_u, "contrast": config.lambda_c}
        several = ((target_u > 0).sum(dim=1) > 1) & valid_u
        return weighted_sum(weights, **losses).log(
            soft_share=distributed.share(several.sum(), valid_u.sum()),
            **{"accuracy/unlabelled": label_accuracy(label_u, truth_u, valid_u)},
            **scalars,
        )

    def parts_of(self, teacher: SegOutput, label_BHW: Tensor) -> Tensor:
        """Parts at feature size (ESL Eq 7); the prototypes then move (ESL Eq 12)."""
        assert teacher.deep is not None
        stride = self.student.encoder.strides[-1]
        small = downsample(label_BHW, stride=stride)
        deep = teacher.deep[..., : small.shape[-2], : small.shape[-1]]
        part = self.part_prototypes.assign(deep, downsample(label_BHW))
        self.part_prototypes.update(deep, self.part_prototypes.assign(deep, small))
        return part

    def anchors(self, label_Bhw: Tensor, teacher: SegOutput) -> Tensor:
        """Labelled pixels, and unlabelled ones of whose label the teacher is sure (ESL Eq 9).

        Label and probability come from different looks; an anchor's class is that of its part.
        """
        label_l, label_u = label_Bhw.chunk(2)
        prob = teacher.logits.chunk(2)[1].float().softmax(dim=1)
        safe = torch.where(label_u == IGNORE, 0, label_u).unsqueeze(1)
        sure = prob.gather(1, safe).squeeze(1) > self.config.part_contrast.confidence
        return torch.cat([label_l, torch.where(sure, label_u, IGNORE)])

    def prepare(self, labeled: Iterable[tuple[Tensor, Tensor]], seed: int) -> None:
        """Find the parts of each class by K-means on the pretrained encoder's features."""
        if not self.config.parts:
            return
        draw = torch.Generator().manual_seed(seed)
        found: list[list[Tensor]] = [[] for _ in range(self.num_classes)]
        stride = self.student.encoder.strides[-1]
        with evaluating([self.student]):
            for image_3HW, label_HW in labeled:
                label_hw = downsample(label_HW, stride=stride)
                deep = self.student.encode(image_3HW[None].to(self.device))[-1][0].cpu()
                deep_Lhw = deep[:, : label_hw.shape[0], : label_hw.shape[1]]
                for c in label_hw.unique().tolist():
                    if c != IGNORE:
                        found[c] = _kept([*found[c], deep_Lhw[:, label_hw == c].t()], draw)
        centers, known = [], []
        for pixels in found:
            if pixels:
                points = torch.cat(_kept(pixels, draw, MOST))
                center, used = kmeans(points, self.config.parts, draw)
            else:
                center = torch.zeros(self.config.parts, deep.shape[0])
                used = torch.zeros(self.config.parts, dtype=torch.bool)
            centers.append(center)
            known.append(used)
        # every process has looked at all images; rounding must not tell them apart
        center_SL, known_S = torch.cat(centers), torch.cat(known)
        self.part_prototypes.fill(
            distributed.gather(center_SL.to(self.device))[: len(center_SL)],
            distributed.gather(known_S.to(self.device))[: len(known_S)],
        )


def _kept(pixels: list[Tensor], draw: torch.Generator, most: int = 2 * MOST) -> list[Tensor]:
    """The pixels, or a random `MOST` of them once there are more than `most`."""
    if sum(len(part) for part in pixels) <= most:
        return pixels
    whole = torch.cat(pixels)
    return [whole[torch.randperm(len(whole), generator=draw)[:MOST]]]

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        classes = (soft_label(prob_BCHW, self.config.soft_label) > 0).sum(dim=1)
        return {"one class": valid_BHW & (classes == 1)}
