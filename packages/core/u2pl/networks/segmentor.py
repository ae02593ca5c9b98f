"""A network from its parts: image -> encoder -> decoder -> logits and representation at a quarter of the image's size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.encoder import Encoder
from u2pl.notation import OUTPUT_STRIDE


class SegOutput(NamedTuple):
    """A network's output at a quarter of the image's size."""

    logits: Tensor  # [B, C, h, w]
    embed: Tensor | None = None  # [B, D, h, w]
    deep: Tensor | None = None  # the encoder's last feature map, padding included


class Segmentor(nn.Module):
    """Class logits and pixel representations of images of any size.

    Args:
        encoder: image [B, 3, H, W] -> four feature maps; carries colours and divisor of the images.
        decoder: feature maps -> one map at a quarter of the image's size.
        classifier: that map -> logits [B, C, h, w].
        embedder: that map -> representation [B, D, h, w]; None for methods without contrast.
        tagger: 1x1 convolution without bias, the encoder's last map -> activations [B, K, h, w] of
            the K classes of image tags; None for methods that do not use tags.
        min_images: Fewest images per process that a training forward can normalise.
        embed_dim: Channels D of the representation, 0 without one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        classifier: nn.Module,
        embedder: nn.Module | None,
        *,
        tagger: nn.Module | None = None,
        min_images: int = 1,
        embed_dim: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = classifier
        self.embedder = embedder
        self.tagger = tagger
        self.divisor = encoder.divisor
        self.min_images = min_images
        self.embed_dim = embed_dim
        # Not in the state: an average of teachers, or of processes, must never move them.
        for name, value in (("mean", encoder.mean), ("std", encoder.std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(self, image_B3HW: Tensor, embed: bool = True) -> SegOutput:
        """Logits, the encoder's last feature map and, if asked for, representations.

        Args:
            image_B3HW: RGB, uint8 or floating point in [0, 1].
            embed: Whether to run the representation head, if there is one; else `SegOutput.embed` is None.

        Raises:
            UserError: Fewer images than batch normalisation can train with.
        """
        height, width = (-(-side // OUTPUT_STRIDE) for side in image_B3HW.shape[-2:])
        self._check_batch(len(image_B3HW))
        features = self.encoder(self.prepare(image_B3HW))
        fused = self.decoder(features)
        logits = self.classifier(fused)[..., :height, :width]
        representation = (
            self.embedder(fused)[..., :height, :width]
            if embed and self.embedder is not None
            else None
        )
        return SegOutput(logits, representation, features[-1])

    def activation(self, deep_BDhw: Tensor) -> Tensor:
        """Class activation map [B, K, h, w] of `SegOutput.deep`, before ReLU."""
        assert self.tagger is not None
        activation: Tensor = self.tagger(deep_BDhw)
        return activation

    def tag_logits(self, deep_BDhw: Tensor) -> Tensor:
        """Logits [B, K] of the image's tags: global max pooling of `SegOutput.deep`, then the classifier."""
        return self.activation(F.adaptive_max_pool2d(deep_BDhw, 1)).flatten(1)

    def prepare(self, image_B3HW: Tensor) -> Tensor:
        """Normalise colours, then pad bottom and right with the mean colour to multiples of `divisor`."""
        image = image_B3HW.to(self.mean.dtype)
        if not image_B3HW.is_floating_point():
            image = image / 255
        height, width = image.shape[-2:]
        return F.pad(
            (image - self.mean) / self.std, (0, -width % self.divisor, 0, -height % self.divisor)
        )

    def head_parameters(self) -> list[nn.Parameter]:
        """Everything that starts from random numbers: decoder, classifier, representation head and image-level classifier."""
        parts = (self.decoder, self.classifier, self.embedder, self.tagger)
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def _check_batch(self, images: int) -> None:
        if not self.training or images >= self.min_images:
            return
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.decoder.modules()):
            return
        raise UserError(
            f"{images} image per process is too few to train with: the decoder's pooled branch normalises over images; "
            f"give each process {self.min_images} or more"
        )
