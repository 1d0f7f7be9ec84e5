"""normbench: a reproducible benchmark of normalization methods for convolutional networks."""

import os

__version__ = "0.1.0"

# Before torch is loaded: its OpenMP threads spin while they wait for each other; where another process holds a core,
# an epoch of seconds takes minutes (benchmarks/threads.py). A short spin costs next to nothing on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
