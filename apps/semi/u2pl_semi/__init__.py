"""Semi-supervised segmentation: a few labelled images, many without labels."""
