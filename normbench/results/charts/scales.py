"""Axes of numbers of any size: whether they are logarithmic, from where to where they reach, and their ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable

# The label of a tick as an expression of Vega: `0.5`, `27,660` or `1e+16`.
LABEL = "format(datum.value, abs(datum.value) >= 1e6 || (datum.value && abs(datum.value) < 1e-3) ? '.2~e' : ',.4~r')"
MARGIN = 0.08  # of the range of the numbers, on either side


def logarithmic(values: Iterable[float], ratio: float = 5) -> bool:
    """Whether all numbers are positive and the largest is at least `ratio` times the smallest."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) >= ratio * min(known)


def reach(values: Iterable[float], margin: float = MARGIN) -> tuple[float, float]:
    """Returns the ends of an axis that shows all numbers and a margin; (0, 1) if there is none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = margin * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Returns round numbers from `low` to `high`: about five, or 1, 2 and 5 times powers of 10 on a log axis."""
    if not log:
        step = _step((high - low) / 5)
        return [round(step * i, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    factors = (1, 2, 5) if high < 1e3 * low else (1,)
    every = max(1, len(powers) // 8)
    all_of_them = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    return [tick for tick in all_of_them if low <= tick <= high]


def _step(least: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of 10 that is at least a number."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def number(value: float) -> str:
    """Returns a number with at most four significant digits, `0.5`, `1,450` or `1.2M`."""
    for size, sign in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
