"""Outcomes of two variants with known truth: right or wrong, by seed and by example, with effects of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Truth:
    """A prediction is right where a normal score is positive; its parts are independent and have these deviations.

    shared: what an example is to both variants. example, seed: what an example, and what a seed, is to one variant. The
    rest has a deviation of 1. accuracies: the expected accuracies of the variants.
    """

    accuracies: tuple[float, ...] = (0.9, 0.9)
    shared: float = 2.0
    example: float = 0.5
    seed: float = 0.2

    @property
    def difference(self) -> float:
        """The expected accuracy of the first variant minus that of the second."""
        return self.accuracies[0] - self.accuracies[1]

    def draw(self, seeds: int, examples: int, generator: np.random.Generator) -> list[np.ndarray]:
        """Returns the outcomes of each variant, (seeds, examples)."""
        scale = np.sqrt(self.shared**2 + self.example**2 + self.seed**2 + 1)
        shared = generator.normal(0, self.shared, (1, examples))
        found = []
        for accuracy in self.accuracies:
            score = stats.norm.ppf(accuracy) * scale + shared
            score = (
                score + generator.normal(0, self.example, (1, examples)) + generator.normal(0, self.seed, (seeds, 1))
            )
            found.append((score + generator.normal(0, 1, (seeds, examples)) > 0).astype(float))
        return found
