"""Label-efficient semantic segmentation with unreliable pseudo-labels: the core shared by the three apps."""

__version__ = "0.1.0"
