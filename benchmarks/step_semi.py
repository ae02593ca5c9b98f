"""The steps of the semi-supervised app's methods.

`METHOD weighted` is a method with weights of its pseudo-labels by rank statistics.

On the CPU network `light` at 8 + 8 images of 128 pixels; on CUDA `paper` (ResNet-101, output stride
8) at 513 pixels.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from step_rival import Rival, Stages, made_up

import u2pl_semi.methods
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.memory.prototypes import Prototypes
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, MethodConfig
from u2pl.methods.pixel_weight import PixelWeight
from u2pl.networks.config import NetworkConfig

#: What is measured if no methods are named.
METHODS = [
    *("mean_teacher", "cutmix", "fixmatch", "unimatch", "unimatch_v2", "augseg", "ael", "esl"),
    *("cps", "u2pl", "u2plplus", "fixmatch weighted", "unimatch weighted", "augseg weighted"),
    *("ael weighted", "u2pl weighted", "u2plplus weighted"),
]
#: What the teacher looks at in a step that mixes, if not once at the clean unlabelled images: u;
#: lu: labelled and unlabelled ones.
LOOKS = {
    **dict.fromkeys(("u2pl", "u2plplus", "esl"), ("u", "lu")),
    **dict.fromkeys(("fixmatch weighted", "augseg weighted", "ael weighted"), ("lu",)),
    "unimatch_v2 weighted": ("lu",),
    **dict.fromkeys(("u2pl weighted", "u2plplus weighted"), ("lu", "u")),
}


class SemiRival(Rival):
    """Labelled and unlabelled images pass through the networks together."""

    methods = u2pl_semi.methods
    networks = {  # noqa: RUF012
        "light": NetworkConfig(
            decoder="deeplabv3plus_light",
            encoder="tf_efficientnet_lite0",
            encoder_weights="none",
            output_stride=16,
            atrous_rates=(6, 12, 18),
        ),
        "paper": NetworkConfig(encoder_weights="none"),
        **{
            f"vit-{size[0]}{'-frozen' * frozen}": NetworkConfig(
                decoder="dpt",
                encoder=f"vit_{size}_patch14_dinov2",
                encoder_weights="none",
                freeze_encoder=frozen,
            )
            for size in ("small", "base")
            for frozen in (False, True)
        },
    }

    @staticmethod
    def defaults(cuda: bool) -> dict[str, Any]:
        shapes = (
            {"network": "paper", "size": 513, "classes": 21}
            if cuda
            else {"network": "light", "size": 128, "classes": 7}
        )
        return {"methods": METHODS, "batch": 8, "repeats": 7, **shapes}

    @staticmethod
    def config(kind: type[MethodConfig], classes: int) -> MethodConfig:
        """The paper's, but every step mixes: one that does not saves part of a pass."""
        options = kind().model_dump()
        if "mix" in options:
            options["mix"] |= {"probability": 1.0}
        return kind.model_validate(options)

    @staticmethod
    def make_batch(options: argparse.Namespace) -> PairBatch:
        images, labels, valid = made_up(options)
        (image_l, image_u), (label_l, truth_u) = images.chunk(2), labels.chunk(2)
        return PairBatch(image_l, label_l, image_u, valid, truth_u)

    def bare_loss(self) -> torch.Tensor:
        method, batch, size = self.method, self.batch, self.batch.label_l.shape[-2:]
        both, own = torch.cat([batch.image_l, batch.image_u]), method.uses_embedding
        teacher = getattr(method, "teacher", None)
        for looks in LOOKS.get(self.name, ("u",)) if teacher is not None else ():
            images = {"u": batch.image_u, "lu": both}[looks]
            teacher(images, embed=own and (looks == "lu" or self.has(Prototypes)))
        students = [part for part in (method.student, getattr(method, "second", None)) if part]
        if self.name.startswith("unimatch_v2"):
            return self.bare_unimatch_v2()
        if self.name.startswith("unimatch"):
            return self.bare_unimatch(both)
        loss = torch.zeros((), device=both.device)
        for student in students:
            output = student(both, embed=own)
            logits_l, logits_u = upsample(output.logits, size).chunk(2)
            loss = loss + cross_entropy(logits_l, batch.label_l)
            loss = loss + cross_entropy(logits_u, batch.truth_u)
            loss = loss + (output.embed.sum() * 0.0 if own else 0.0)
        return loss

    def bare_unimatch(self, both: torch.Tensor) -> torch.Tensor:
        """The student, whose features are decoded twice, and its pass over two strong views."""
        batch, student = self.batch, self.method.student
        size = (batch.label_l.shape[-2], batch.label_l.shape[-1])
        maps = [torch.cat([each, each[len(batch.image_l) :]]) for each in student.encode(both)]
        weak = upsample(student.decode(maps, size, embed=False).logits, size)
        strong = student(torch.cat([batch.image_u, batch.image_u]), embed=False)
        logits_l, *others = weak.chunk(3)
        others += upsample(strong.logits, size).chunk(2)
        losses = [cross_entropy(logits, batch.truth_u) for logits in others]
        return cross_entropy(logits_l, batch.label_l) + torch.stack(losses).sum()

    def bare_unimatch_v2(self) -> torch.Tensor:
        """The student's pass over labelled images, and that over two strong views."""
        batch, student, size = self.batch, self.method.student, self.batch.label_l.shape[-2:]
        strong = student(torch.cat([batch.image_u, batch.image_u]), embed=False)
        losses = [
            cross_entropy(logits, batch.truth_u)
            for logits in upsample(strong.logits, size).chunk(2)
        ]
        logits_l = upsample(student(batch.image_l, embed=False).logits, size)
        return cross_entropy(logits_l, batch.label_l) + torch.stack(losses).sum()

    def inside(self) -> Stages:
        """The stages that the step's file has; what they all have is watched first."""
        own: Stages = {"supervised loss": (LabeledMethod, "supervised_loss")}
        mix = getattr(self.method, "mix", None)
        if mix is not None:
            own["mixing"] = (type(mix), "__call__")
        functions = {
            "unsupervised loss": "unsupervised_loss",
            "partition": "partition",
            "partition scalars": "partition_scalars",
            "contrast: selection": "select_candidates",
            "positive keys": "class_means",
        }
        own |= {
            stage: (self.story, name)
            for stage, name in functions.items()
            if hasattr(self.story, name)
        }
        if self.has(PixelWeight) and self.method.pixel_weight.active:
            own["weights"] = (PixelWeight, "forward")
        return super().inside() | own
