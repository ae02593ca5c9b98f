"""What the methods with a teacher share: warm start and teacher, then mixing and strong view."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from u2pl.memory.teacher import Teacher, TeacherConfig
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.mixing.mixers import MixConfig, Mixer
from u2pl.mixing.photometric import StrongView, StrongViewConfig
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.schedules import Progress


class TeachingConfig(LabeledMethodConfig):
    """Options of every method with a teacher."""

    warm_start: float = Field(
        0.0125,
        ge=0,
        le=1,
        description="share of the steps with L_s only: 1 of 80 epochs on VOC, 20 of 200 on "
        "Cityscapes (U2PL supp. B)",
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(), description="how the teacher follows the student (U2PL+ Eq 2)"
    )


class SelfTrainingConfig(TeachingConfig):
    """Options of a method with a teacher that mixes the unlabelled images of a step."""

    mix: MixConfig = Field(MixConfig(), description="strong augmentation of the unlabelled images")
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(kind="none"),
        description="colour and blur augmentation of the mixed images that the student sees; the "
        "teacher sees them without (none in U2PL and U2PL+)",
    )


class Teaching(LabeledMethod[PairBatch]):
    """A student, and a teacher that is its moving average after the warm start.

    Args as for `Method`.
    """

    config: TeachingConfig

    def __init__(self, config: TeachingConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.teacher = Teacher(student, config.teacher)

    @property
    def remedy(self) -> str:
        others = (
            "more labels, a longer method.warm_start, or suponly, which learns from labels alone"
        )
        return " or ".join([*self.helping_options(), others])

    def helping_options(self) -> list[str]:
        """Options that help where labels are few, as typed, without those that are on already."""
        return []

    def follow(self, progress: Progress) -> None:
        self.teacher.update(self.student, progress.after(self.config.warm_start))

    def networks(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher.network, "student": self.student}


class SelfTraining(Teaching):
    """A student and a teacher, and the strong augmentation of what the student sees.

    Args as for `Method`.
    """

    config: SelfTrainingConfig

    def __init__(self, config: SelfTrainingConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.mix = Mixer(config.mix, num_classes)
        self.strong_view = StrongView(config.strong_view)

    def student_images(
        self, generator: torch.Generator, image_l: Tensor, image_u: Tensor
    ) -> Tensor:
        """The labelled images, then the strong view of the others: float32 in [0, 1].

        Args:
            generator: the step's.
            image_l: uint8 labelled images.
            image_u: uint8 unlabelled images, after mixing.
        """
        return torch.cat([image_l / 255, self.strong_view(generator, image_u)])

    def looks_once(self, generator: torch.Generator) -> bool:
        """Whether the step's clean images are all that the teacher sees of the unlabelled ones."""
        return not self.mix.mixes(generator) and not self.teacher.own_statistics

    def second_look(
        self, batch: PairBatch, image_u: Tensor, clean: SegOutput, labeled: SegOutput | None = None
    ) -> tuple[Tensor, Tensor]:
        """The teacher's logits and embeddings of the labelled and the mixed images.

        In a step that `looks_once` those of the clean images are known.

        Args:
            batch: the step's.
            image_u: unlabelled images after mixing.
            clean: the teacher's output for them before mixing.
            labeled: its output for the labelled images, if it has seen them.
        """
        mixed = image_u is not batch.image_u
        if self.teacher.own_statistics or (mixed and labeled is None):
            output = self.teacher(torch.cat([batch.image_l, image_u]))
            return output.logits, output.embed
        first = self.teacher(batch.image_l) if labeled is None else labeled
        second = self.teacher(image_u) if mixed else clean
        assert first.embed is not None and second.embed is not None
        return (
            torch.cat([first.logits, second.logits]),
            torch.cat([first.embed, second.embed]),
        )

    def helping_options(self) -> list[str]:
        strong = self.config.strong_view.kind != "none"
        return [] if strong else ["--set method.strong_view.kind=photometric"]
