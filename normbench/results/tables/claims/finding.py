"""A finding: what one task and its variants say about a claim."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from normbench.comparison.verdicts import Verdict


class Says(Enum):
    """What a finding says about a claim."""

    FOR = "for"
    AGAINST = "against"
    NEITHER = "neither"

    @classmethod
    def of(cls, verdict: str) -> Says:
        """Returns what a verdict says about the claim that the variant is better; an empty one says nothing."""
        return {Verdict.BETTER.value: cls.FOR, Verdict.WORSE.value: cls.AGAINST}.get(verdict, cls.NEITHER)


@dataclass(frozen=True)
class Finding:
    """text: the numbers, in words, beginning with the task."""

    task: str
    says: Says
    text: str


def would_have_shown(smallest: float, unit: str, form: str) -> str:
    """Returns, for a difference that was not found, what could have been."""
    return f"indistinguishable (an effect of {smallest:{form}}{unit} would have shown)"


def counted(number: int, noun: str = "seed") -> str:
    """Returns `1 seed`, or `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
