"""The letters used in shapes and names throughout the project.

| letter | meaning |
|---|---|
| B | images in a batch |
| C | classes |
| D | channels of an embedding or feature map |
| H, W | height and width of an image in pixels |
| h, w | height and width of a feature map, `OUTPUT_STRIDE` times smaller unless said otherwise |
| N | pixels of a flattened batch; after B, those of each image |
| n | tokens of a feature map, h x w in row-major order |
| M | anchors per class |
| A | anchors of all classes, C x M |
| K | negatives per anchor, which the papers call N |

A suffix on a name is its shape: `label_BHW`, `embed_BDhw`, `prob_NC`; a digit is the length of an
axis: `image_B3HW`. A file that needs another letter defines it in its docstring.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Ignore label: the pixel contributes to no loss, anchor, key or score. Padding carries it too.
IGNORE = 255

#: Image pixels per pixel of a network's logits and embeddings, the same for every network.
OUTPUT_STRIDE = 4

#: Channels of a photo: red, green and blue.
COLOURS = 3

#: RGB, 0 to 255, that pads an image smaller than the crop: ImageNet's mean colour.
PADDING = (124, 116, 104)


def spread(rgb: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values of red, green and blue for any number of channels, as weights for them are made.

    timm repeats the weights of red, green and blue in this order, and for one channel adds them up.
    """
    if channels == 1:
        return (sum(rgb) / len(rgb),)
    return tuple(rgb[channel % len(rgb)] for channel in range(channels))


def padding(channels: int) -> tuple[int, ...]:
    """`PADDING` for images of any number of channels."""
    return tuple(round(value) for value in spread(PADDING, channels))
