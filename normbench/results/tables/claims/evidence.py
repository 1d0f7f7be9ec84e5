"""What the results of a suite say about a claim, by the kind of its evidence."""

from __future__ import annotations

from normbench.results.tables.claims.bounds import bounds
from normbench.results.tables.claims.comparisons import comparisons
from normbench.results.tables.claims.costs import SPEED, costs
from normbench.results.tables.claims.declared import (
    Bounds,
    Claim,
    Comparison,
    Cost,
    Filters,
    FourBounds,
    Isometry,
    NoFailures,
    Order,
)
from normbench.results.tables.claims.failures import failures
from normbench.results.tables.claims.filters import filters
from normbench.results.tables.claims.finding import Finding
from normbench.results.tables.claims.four_bounds import four_bounds
from normbench.results.tables.claims.isometry import isometry
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.claims.orders import orders


def findings(claim: Claim, measured: Measured) -> list[Finding]:
    """Returns the findings about a claim, in the order of the suite; none if nothing of it was measured."""
    match claim.evidence.kind:
        case Comparison() as evidence:
            return list(comparisons(evidence, claim.tasks, measured))
        case Order() as evidence:
            return orders(evidence, claim.tasks, measured)
        case Cost() as evidence:
            return list(costs(evidence, claim.tasks, measured))
        case NoFailures() as evidence:
            return list(failures(evidence, claim.tasks, measured))
        case Bounds() as evidence:
            return list(bounds(evidence, claim.tasks, measured))
        case FourBounds() as evidence:
            return list(four_bounds(evidence, claim.tasks, measured))
        case Isometry() as evidence:
            return list(isometry(evidence, claim.tasks, measured))
        case Filters() as evidence:
            return list(filters(evidence, claim.tasks, measured))
    return []


def is_timed(claim: Claim) -> bool:
    """Whether the evidence of a claim is a speed, which differs from run to run."""
    return isinstance(claim.evidence.kind, Cost) and claim.evidence.kind.column == SPEED
