"""normbench: a reproducible benchmark of normalization methods for convolutional networks."""

import os

__version__ = "0.1.0"

# Before torch is loaded: its OpenMP threads spin while they wait for each other, and beside several busy processes a
# small network was seen to slow down many times. The limit has a price where threads share one run on an idle machine,
# up to a factor of two for small layers (benchmarks/threads.py); set the variable yourself to take it back.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
