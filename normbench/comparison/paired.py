"""The difference between two variants in one task, from runs that share seeds and test examples.

The runs of two variants with the same seed see the same images in the same order, and all are scored on the same test
examples. So the difference is taken example by example, d[s, i] for seed s and example i, which removes what both have
in common. What remains varies with the seed (another seed trains another network), with the example (a variant may be
better on some images) and by chance:

    d[s, i] = difference + seed[s] + example[i] + rest[s, i].

All three are random: the question is what other seeds and other test examples of the same kind would give. The variance
of the mean difference is estimated from the mean squares of this crossed design, and its degrees of freedom follow from
Satterthwaite (Biometrics Bulletin 2 (1946), 110-114); the interval and the p-value are those of Student's t. A
hierarchical bootstrap over seeds and examples estimates the same variance from the same mean squares, but at 3 seeds
its percentiles cover far less than they say: `benchmarks/coverage.py` shows both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

LEVEL = 0.05  # of tests; intervals cover 1 - LEVEL
POWER = 0.8  # with which the smallest effect would have been found


@dataclass(frozen=True)
class Difference:
    """A mean difference and what is known of it.

    mean: first minus second. error: its standard error. freedom: the degrees of freedom of the error. low, high: the
    interval that covers with 95 %. p: two-sided, of no difference between seeds and examples like these. seeds,
    examples: how many; examples is 0 if there is one value a seed.
    """

    mean: float
    error: float
    freedom: float
    low: float
    high: float
    p: float
    seeds: int
    examples: int

    def smallest_effect(self, level: float = LEVEL) -> float:
        """Returns the smallest difference that a two-sided test of a level would have found with 80 % power.

        It is the sum of two quantiles of Student's t, times the standard error. Where no two outcomes differ, the error
        is 0: then it is the smallest difference that one outcome can make.
        """
        if self.error == 0:
            return 1 / (self.seeds * max(self.examples, 1))
        return float(self.error * (_quantile(1 - level / 2, self.freedom) + _quantile(POWER, self.freedom)))


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compares two variants by the same seeds and examples.

    first, second: (seeds, examples), such as 1 where a prediction is right and 0 where it is wrong, or (seeds,) for a
    score of a whole run. Values must be finite. Raises ValueError if the shapes differ, or with fewer than two seeds.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim not in (1, 2) or len(first) < 2:
        raise ValueError(f"shapes {first.shape} and {second.shape}: two equal ones of at least two seeds are needed")
    values = first - second
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    error, freedom = _of_runs(values) if values.ndim == 1 else _of_examples(values)
    mean = float(values.mean())
    if error > 0:
        half = _quantile(1 - LEVEL / 2, freedom) * error
        p = float(2 * special.stdtr(freedom, -abs(mean) / error))
    else:
        half, p = 0.0, float(mean == 0)
    return Difference(
        mean=mean,
        error=error,
        freedom=freedom,
        low=mean - half,
        high=mean + half,
        p=p,
        seeds=len(values),
        examples=0 if values.ndim == 1 else values.shape[1],
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of scores of runs, (seeds,), by Student's t; NaNs with fewer than two."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return math.nan, math.nan
    half = _quantile(1 - LEVEL / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _quantile(share: float, freedom: float) -> float:
    """Returns a quantile of Student's t."""
    return float(special.stdtrit(freedom, share))


def _of_runs(values: np.ndarray) -> tuple[float, float]:
    """Returns the standard error of the mean of differences, (seeds,), and its degrees of freedom."""
    return float(values.std(ddof=1) / math.sqrt(len(values))), len(values) - 1


def _of_examples(values: np.ndarray) -> tuple[float, float]:
    """Returns the standard error of the mean of differences, (seeds, examples), and its degrees of freedom.

    The mean squares are those of a crossed design with one value a cell. The variance is that of the examples, and what
    the seeds add beyond the rest; the seeds keep their share of the uncertainty where they seem to add nothing, as a
    variance that is estimated from a few seeds is often too small by chance.
    """
    seeds, examples = values.shape
    if examples < 2:
        return _of_runs(values.mean(1))
    mean, of_seeds, of_examples = values.mean(), values.mean(1), values.mean(0)
    rest = values - of_seeds[:, None] - of_examples[None, :] + mean
    between_seeds = examples * float(of_seeds.var(ddof=1))
    between_examples = seeds * float(of_examples.var(ddof=1))
    residual = float((rest**2).sum()) / ((seeds - 1) * (examples - 1))
    variance = between_examples + max(between_seeds - residual, 0.0)
    if variance <= 0:  # no two outcomes differ
        return 0.0, float(seeds - 1)
    spread = between_seeds**2 / (seeds - 1) + between_examples**2 / (examples - 1)
    return math.sqrt(variance / (seeds * examples)), max(variance**2 / spread, float(seeds - 1))
