"""The letters used in shapes and names throughout the project.

| letter | meaning |
|---|---|
| B | images in a batch |
| C | classes |
| D | channels of an embedding |
| H, W | size of an image in pixels |
| h, w | size of a feature map, `OUTPUT_STRIDE` times smaller |
| N | pixels of a flattened batch |
| M | anchors per class; K negatives per anchor |

A suffix on a name is its shape: `label_BHW`, `embed_BDhw`, `prob_NC`.
"""

#: Label of a pixel that takes part in nothing: no loss, no anchor, no key, no score. Padding carries it too.
IGNORE = 255

#: Every network of this project predicts at a quarter of the image's size.
OUTPUT_STRIDE = 4

#: RGB of 255 around an image that is smaller than what is cut from it: ImageNet's mean colour.
PADDING = (124, 116, 104)
