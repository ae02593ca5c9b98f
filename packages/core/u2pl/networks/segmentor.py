"""The segmentation network: image -> encoder -> decoder -> logits and representation.

Shapes: T = classes of the image tags; deep_BDhw is the encoder's last map, with D, h, w of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.encoder import Encoder
from u2pl.notation import OUTPUT_STRIDE


class SegOutput(NamedTuple):
    """Output of a network; logits and representation at a quarter of the image's size."""

    logits: Tensor  # [B, C, h, w]
    embed: Tensor | None = None  # [B, D, h, w]
    deep: Tensor | None = None  # [B, D, h, w]: the encoder's last feature map, with padding
    auxiliary: Tensor | None = None  # [B, C, h, w]: the auxiliary classifier's, in training
    feature: Tensor | None = None  # [B, D, h, w]: what the classifier's last convolution reads

    def split(self, images: int) -> tuple[SegOutput, SegOutput]:
        """The output of the first images, and that of the others."""
        first = (None if part is None else part[:images] for part in self)
        others = (None if part is None else part[images:] for part in self)
        return SegOutput(*first), SegOutput(*others)  # type: ignore[arg-type]


class Segmentor(nn.Module):
    """Class logits and pixel representations of images of any size.

    Args:
        encoder: image [B, channels, H, W] -> four feature maps; it defines the channels, their
            normalisation and the divisor of the image's sides.
        decoder: feature maps -> one map at a quarter of the image's size.
        classifier: decoder's map -> logits [B, C, h, w].
        embedder: representation head, decoder's map -> [B, D, h, w]; None without contrast.
        auxiliary: second classifier of pixels, for training: the encoder's third map ->
            [B, C, h, w]; None without one.
        tagger: image-level classifier, a 1x1 convolution without bias: the encoder's last map ->
            [B, T, h, w]; None without image tags.
        min_images: minimum images per process in training, for BatchNorm.
        embed_dim: D of the representation; 0 without one.
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
        auxiliary: nn.Module | None = None,
        tagger: nn.Module | None = None,
        min_images: int = 1,
        embed_dim: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = classifier
        self.embedder = embedder
        self.auxiliary = auxiliary
        self.tagger = tagger
        self.divisor = encoder.divisor
        self.min_images = min_images
        self.embed_dim = embed_dim
        # not persistent: constants of the encoder, which no checkpoint may change
        for name, value in (("mean", encoder.mean), ("std", encoder.std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """Of the images: 3, red, green and blue, of photos."""
        return len(self.mean)

    @property
    def feature_dim(self) -> int:
        """Channels of `SegOutput.feature`."""
        *_, last = (m for m in self.classifier.modules() if isinstance(m, nn.Conv2d))
        return last.in_channels

    def forward(self, image_B3HW: Tensor, embed: bool = True) -> SegOutput:
        """Logits, representations and the encoder's last feature map.

        Args:
            image_B3HW: RGB, or as many channels as it has, uint8 or floating point in [0, 1].
            embed: whether to run the representation head; `SegOutput.embed` is None without it.

        Raises:
            UserError: There are fewer images than BatchNorm can train with.
        """
        size = (image_B3HW.shape[-2], image_B3HW.shape[-1])
        return self.decode(self.encode(image_B3HW), size, embed)

    def encode(self, image_B3HW: Tensor) -> list[Tensor]:
        """The encoder's four maps of the padded image."""
        self._check_batch(image_B3HW.shape[0])
        maps: list[Tensor] = self.encoder(self.prepare(image_B3HW))
        return maps

    def decode(
        self, features: list[Tensor], size: tuple[int, int], embed: bool = True
    ) -> SegOutput:
        """What `forward` returns, from the maps of `encode`.

        Args:
            features: the encoder's maps, of any number of images.
            size: (H, W) of the images.
            embed: as for `forward`.
        """
        height, width = ((side + OUTPUT_STRIDE - 1) // OUTPUT_STRIDE for side in size)
        fused = self.decoder(features)
        feature, logits = self._classify(fused)
        logits = logits[..., :height, :width]
        representation = (
            self.embedder(fused)[..., :height, :width]
            if embed and self.embedder is not None
            else None
        )
        auxiliary = None
        if self.auxiliary is not None and self.training:
            auxiliary = self.auxiliary(features[2])
            auxiliary = F.interpolate(
                auxiliary, fused.shape[-2:], mode="bilinear", align_corners=False
            )[..., :height, :width]
        return SegOutput(
            logits, representation, features[-1], auxiliary, feature[..., :height, :width]
        )

    def _classify(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """The map that the last convolution reads, before dropout, and the logits."""
        layers = list(self.classifier) if isinstance(self.classifier, nn.Sequential) else []
        for layer in layers[:-2]:
            fused = layer(fused)
        # every sequential classifier ends with dropout and a convolution
        logits = layers[-1](layers[-2](fused)) if layers else self.classifier(fused)
        return fused, logits

    def activation(self, deep_BDhw: Tensor) -> Tensor:
        """Class activation map [B, T, h, w] of `SegOutput.deep`, before ReLU."""
        assert self.tagger is not None
        activation: Tensor = self.tagger(deep_BDhw)
        return activation

    def tag_logits(self, deep_BDhw: Tensor) -> Tensor:
        """Logits of image tags [B, T]: global max pooling of `SegOutput.deep`, then the tagger."""
        return self.activation(F.adaptive_max_pool2d(deep_BDhw, 1)).flatten(1)

    def prepare(self, image_B3HW: Tensor) -> Tensor:
        """Normalise colours; pad bottom and right with mean colour to multiples of `divisor`."""
        image = image_B3HW.to(self.mean.dtype)
        if not image_B3HW.is_floating_point():
            image = image / 255
        # of numbers that are not negative: ONNX rounds a negative quotient the other way
        down, right = (self.divisor - 1 - (side - 1) % self.divisor for side in image.shape[-2:])
        return F.pad((image - self.mean) / self.std, (0, right, 0, down))

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that are not pretrained: those of the decoder and all heads."""
        parts = (self.decoder, self.classifier, self.embedder, self.auxiliary, self.tagger)
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def _check_batch(self, images: int) -> None:
        if not self.training or images >= self.min_images:
            return
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.decoder.modules()):
            return
        raise UserError(
            f"{images} image per process is too few for training: BatchNorm in the decoder's image "
            f"pooling needs {self.min_images} or more per process; raise train.batch"
        )
