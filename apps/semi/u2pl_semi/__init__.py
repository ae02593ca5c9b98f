"""Semi-supervised segmentation: few labelled images, many unlabelled ones."""
