"""A detector that is trained on the labelled images, for boxes in the unlabelled ones."""
