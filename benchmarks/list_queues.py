"""The contrast as one would first write it: a loop over classes, boolean masks, lists of queues.

A reference written from the formulas (U2PL Eqs 4, 9-16), whose queues grow by `torch.cat`. The
selection and all numbers are those of `u2pl.methods.pixel_contrast`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.methods.pixel_contrast import RankedContrastConfig
from u2pl.notation import IGNORE


class ListQueues:
    """One tensor of keys per class.

    Args:
        config: as for `PixelContrast`.
        queues: the keys to start with.
    """

    def __init__(self, config: RankedContrastConfig, queues: list[Tensor]) -> None:
        self.config = config
        self.limits = config.thresholds(len(queues))
        self.lengths = config.queue_lengths(len(queues))
        self.queues = queues

    def __call__(
        self,
        student_BDhw: Tensor,
        teacher_BDhw: Tensor,
        prob_BChw: Tensor,
        label_l: Tensor,
        label_u: Tensor,
        reliable_u: Tensor,
        unreliable_u: Tensor,
    ) -> Tensor:
        """The contrastive loss of a batch [labelled; unlabelled]; all maps at feature size.

        Args:
            student_BDhw: embeddings with gradient.
            teacher_BDhw: embeddings without.
            prob_BChw: the teacher's probabilities.
            label_l, label_u: ground truth, pseudo-label.
            reliable_u, unreliable_u: bool.
        """
        r_l, r_h, delta_p = self.limits
        with torch.no_grad():
            rank = prob_BChw.argsort(dim=1, descending=True).argsort(dim=1)
            rank_l, rank_u = rank.chunk(2)
            keys_of_pixels = F.normalize(teacher_BDhw, dim=1).permute(0, 2, 3, 1)
            rows_of_pixels = teacher_BDhw.permute(0, 2, 3, 1)
        student_rows = student_BDhw.permute(0, 2, 3, 1)
        losses = []
        for c in range(len(self.queues)):
            with torch.no_grad():
                anchor_l, anchor_u = label_l == c, reliable_u & (label_u == c)
                anchor = torch.cat([anchor_l, anchor_u]) & (prob_BChw[:, c] > delta_p)
                negative_l = (label_l != c) & (label_l != IGNORE) & (rank_l[:, c] < r_l)
                negative_u = unreliable_u & (rank_u[:, c] >= r_l) & (rank_u[:, c] < r_h)
                negative = torch.cat([negative_l, negative_u])
                self._append(c, keys_of_pixels[negative])
                if not anchor.any() or not len(self.queues[c]):
                    continue
                positive = F.normalize(rows_of_pixels[anchor].mean(dim=0), dim=0)
            candidates = student_rows[anchor]
            chosen = torch.randint(
                len(candidates),
                (min(self.config.anchors, len(candidates)),),
                device=candidates.device,
            )
            rows = F.normalize(candidates[chosen], dim=1)
            drawn = torch.randint(
                len(self.queues[c]), (len(rows), self.config.negatives), device=rows.device
            )
            keys = torch.cat([positive.expand(len(rows), 1, -1), self.queues[c][drawn]], dim=1)
            similarity = F.cosine_similarity(rows.unsqueeze(1), keys, dim=2) / self.config.tau
            losses.append(
                F.cross_entropy(similarity, similarity.new_zeros(len(rows), dtype=torch.long))
            )
        return torch.stack(losses).mean() if losses else student_BDhw.sum() * 0.0

    def _append(self, c: int, keys: Tensor) -> None:
        if len(keys) > self.lengths[c]:
            keys = keys[torch.randperm(len(keys), device=keys.device)[: self.lengths[c]]]
        self.queues[c] = torch.cat([self.queues[c], keys])[-self.lengths[c] :]
