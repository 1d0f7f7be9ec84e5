"""normbench in a notebook: `normbench.compare` and `normbench.score`, which need no params.yaml and no DVC."""

from normbench.notebook.comparison import Comparison, compare
from normbench.notebook.scoring import score

__all__ = ["Comparison", "compare", "score"]
