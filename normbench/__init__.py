"""normbench: a reproducible benchmark of normalization methods for convolutional networks."""

__version__ = "0.1.0"
