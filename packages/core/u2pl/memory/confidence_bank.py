"""How sure a network is of each class: the confidence bank of AEL (Hu et al., NeurIPS 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from u2pl import distributed
from u2pl.notation import IGNORE


def class_confidence(prob_BCHW: Tensor, label_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean probability of its class over each class's pixels, of the global batch.

        [mean(prob[i, c] for i in pixels if label[i] == c) for c in classes]

    Args:
        prob_BCHW: probabilities.
        label_BHW: integer class ids, 255 = ignore.

    Returns:
        float32 [C], 0 for a class without pixels, and numbers of pixels, float32 [C].
    """
    classes = prob_BCHW.shape[1]
    slot = torch.where(label_BHW == IGNORE, classes, label_BHW.long())
    own = prob_BCHW.gather(1, slot.clamp(max=classes - 1).unsqueeze(1)).squeeze(1)
    own = own.double()  # a class has millions of pixels, which are added one by one
    sums = own.new_zeros(2, classes + 1)
    sums[0].scatter_add_(0, slot.flatten(), own.flatten())
    sums[1].scatter_add_(0, slot.flatten(), torch.ones_like(own).flatten())
    total, count = distributed.total(sums[:, :classes]).unbind()
    return (total / count.clamp(min=1)).float(), count.float()


class ConfidenceBank(nn.Module):
    """Moving average of `class_confidence`; a class that is absent from a step keeps its value.

    Ours: the momentum is min(1 - 1/n_c, m), with n_c the steps in which the class occurred, so that
    the average starts as a mean. (Released: absent classes decay to 0.)

    Args:
        num_classes: C.
        momentum: m.
    """

    def __init__(self, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))

    value: Tensor
    seen: Tensor

    @torch.no_grad()
    def update(self, prob_BCHW: Tensor, label_BHW: Tensor) -> None:
        """Move the average of the classes that occur; arguments as for `class_confidence`."""
        mean, count = class_confidence(prob_BCHW, label_BHW)
        present = count > 0
        self.seen += present
        keep = (1 - 1 / self.seen.clamp(min=1)).clamp(max=self.momentum)
        self.value.lerp_(mean, (1 - keep) * present)

    @property
    def weakness(self) -> Tensor:
        """1 - confidence of each class, float32 [C]; 1 for a class that was not seen yet."""
        return 1 - self.value

    def chances(self) -> Tensor:
        """Probability to draw each class, the weaker the likelier: softmax of 1 - confidence."""
        return self.weakness.softmax(dim=0)

    def sampling_rates(self, balance: float) -> Tensor:
        """Share of each class's pixels that is learned from: ((1 - conf) / max (1 - conf))^beta.

        Args:
            balance: beta; 0 keeps all pixels.
        """
        return (self.weakness / self.weakness.max().clamp(min=1e-6)) ** balance
