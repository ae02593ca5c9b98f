"""Tags alone: the encoder and the classifier of tags are trained, the decoder is not."""

from __future__ import annotations

import torch.nn.functional as F

from u2pl.losses.supervised import connected_zero
from u2pl.methods.method import Method
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.schedules import Progress
from u2pl_ws.batches import TagBatch


class TagsAlone(Method[TagBatch]):
    """L = L_tags."""

    uses_unlabeled = False

    def forward(self, batch: TagBatch, progress: Progress) -> StepResult:
        deep = self.student.encoder(self.student.prepare(batch.image))[-1]
        tags = F.multilabel_soft_margin_loss(self.student.tag_logits(deep), batch.tags.float())
        return weighted_sum({}, tags=tags + connected_zero(*self.student.head_parameters()))
