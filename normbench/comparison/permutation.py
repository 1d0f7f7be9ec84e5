"""Permutation tests of paired outcomes: two variants exchange their outcomes, which changes the sign of a difference.

Each test fixes one half of what is random, so neither decides a verdict. Exchanging whole examples asks about these
very networks on other examples of the same kind. Exchanging whole seeds asks about other seeds on these very examples,
and with S seeds its p-value cannot be below 2 / 2^S: 0.25 with 3 seeds, 0.002 with 10.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

RESAMPLES = 1_999  # the smallest p-value of a test that cannot try all is one in 2,000
ALL = 12  # with at most this many seeds, all signs are tried
RELATIVE = 1e-9  # two sums that differ by less are equal, however they were rounded


def of_examples(values: np.ndarray) -> float:
    """Returns the two-sided p-value when whole examples, with all seeds, are exchanged. values: (seeds, examples).

    The sum over the examples with one absolute difference follows from how many of them keep their sign, a binomial
    number. So a draw needs one number for each distinct difference and not one for each example.
    """
    sizes, counts = np.unique(np.abs(values.sum(0).round(9)), return_counts=True)
    observed = abs(float(values.sum()))
    generator = np.random.default_rng(0)  # the same outcomes always give the same p-value
    kept = generator.binomial(counts, 0.5, (RESAMPLES, len(counts)))
    sums = np.abs((2 * kept - counts) @ sizes)
    return float((1 + (sums >= observed - RELATIVE * sizes.sum()).sum()) / (RESAMPLES + 1))


def of_seeds(values: np.ndarray) -> float:
    """Returns the two-sided p-value when whole seeds are exchanged. values: (seeds,), at least two."""
    if len(values) > ALL:
        found = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
        )
        return float(found.pvalue)
    signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    sums = np.abs(signs @ values)
    return float((sums >= sums[0] - RELATIVE * np.abs(values).sum()).mean())
