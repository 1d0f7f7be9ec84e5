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

import functools
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
    examples: how many; examples is 0 if there is one value a seed. squares: the mean squares behind the error; None if
    there is one value a seed.
    """

    mean: float
    error: float
    freedom: float
    low: float
    high: float
    p: float
    seeds: int
    examples: int
    squares: Squares | None = None

    @property
    def strict_p(self) -> float:
        """A p-value that also holds far below 5 %, where tests that are made together need it.

        Few seeds sometimes agree by chance, and then the p-value of Student's t is much too small: at 3 seeds it is
        right at 5 % and three times too small at 1 %. It is the generalized p-value where there are examples.
        """
        return self.p if self.squares is None else max(self.p, self.squares.generalized_p(self.mean))

    def smallest_effect(self, level: float = LEVEL, strict: bool = False) -> float:
        """Returns the smallest difference that a two-sided test of a level would have found with 80 % power.

        It is the difference that is just significant, and a quantile of Student's t times the standard error. strict:
        whether the test is that of `strict_p`. Where no two outcomes differ, the error is 0: then it is the smallest
        difference that one outcome can make.
        """
        if self.error == 0:
            return 1 / (self.seeds * max(self.examples, 1))
        significant = self.error * _quantile(1 - level / 2, self.freedom)
        if strict and self.squares is not None:
            significant = max(significant, self.squares.significant(level))
        return significant + self.error * _quantile(POWER, self.freedom)


@dataclass(frozen=True)
class Squares:
    """The mean squares of a crossed design of seeds and examples with one value a cell."""

    seeds: int
    examples: int
    of_seeds: float
    of_examples: float
    rest: float

    def error_and_freedom(self) -> tuple[float, float]:
        """Returns the standard error of the mean and its degrees of freedom.

        The variance is that of the examples, and what the seeds add beyond the rest; the seeds keep their share of the
        uncertainty where they seem to add nothing, as a variance that is estimated from a few seeds is often too small
        by chance.
        """
        variance = self.of_examples + max(self.of_seeds - self.rest, 0.0)
        if variance <= 0:  # no two outcomes differ
            return 0.0, self.seeds - 1.0
        spread = self.of_seeds**2 / (self.seeds - 1) + self.of_examples**2 / (self.examples - 1)
        return math.sqrt(variance / (self.seeds * self.examples)), max(variance**2 / spread, self.seeds - 1.0)

    def generalized_p(self, mean: float) -> float:
        """Returns the generalized p-value of a mean (Tsui and Weerahandi, JASA 84 (1989), 602-607).

        It is the mean of the normal p-values over all variances of the seeds that agree with their mean square: over
        the chi-squared distribution that the mean square has.
        """
        shares, quantiles = _chi_squared(self.seeds - 1)
        of_seeds = np.maximum(self.of_seeds * (self.seeds - 1) / quantiles - self.rest, 0)
        error = np.sqrt((self.of_examples + of_seeds) / (self.seeds * self.examples))
        if not error.min() > 0:
            return float(mean == 0)
        return float(shares @ (2 * special.ndtr(-abs(mean) / error)))

    def significant(self, level: float) -> float:
        """Returns the smallest mean whose generalized p-value is at most a level."""
        low, high = 0.0, 1.0
        while self.generalized_p(high) > level:
            low, high = high, 2 * high
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.generalized_p(middle) > level else (low, middle)
        return high


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
    squares = _squares(values) if values.ndim == 2 and values.shape[1] > 1 else None
    by_run = values.reshape(len(values), -1).mean(1)
    error, freedom = _of_runs(by_run) if squares is None else squares.error_and_freedom()
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
        squares=squares,
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


def _squares(values: np.ndarray) -> Squares:
    """Returns the mean squares of differences, (seeds, examples), at least two of each."""
    seeds, examples = values.shape
    of_seeds, of_examples = values.mean(1), values.mean(0)
    rest = values - of_seeds[:, None] - of_examples[None, :] + values.mean()
    return Squares(
        seeds=seeds,
        examples=examples,
        of_seeds=examples * float(of_seeds.var(ddof=1)),
        of_examples=seeds * float(of_examples.var(ddof=1)),
        rest=float((rest**2).sum()) / ((seeds - 1) * (examples - 1)),
    )


@functools.cache
def _chi_squared(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns shares of the chi-squared distribution, finer towards 0, and a value in the middle of each."""
    edges = np.concatenate([[0], np.logspace(-7, 0, 300)])
    return np.diff(edges), 2 * special.gammaincinv(freedom / 2, (edges[1:] + edges[:-1]) / 2)
