"""results/claims.csv and results/claims.md: what the results of a suite say about the claims of papers."""

from __future__ import annotations

import json
from enum import StrEnum

from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.claims.declared import (
    Bounds,
    Claim,
    Comparison,
    Deciding,
    Filters,
    FourBounds,
    Isometry,
    Order,
    Side,
    Unmeasured,
)
from normbench.results.tables.claims.evidence import findings, is_timed
from normbench.results.tables.claims.finding import Finding, Says
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.table import PLAIN, Row, Table
from normbench.runs.run import Kind

COLUMNS = dict.fromkeys(("claim", "paper", "statement", "outcome", "evidence"), PLAIN)


class Outcome(StrEnum):
    """What the results of a suite say about a claim.

    IN_THE_REPORT: in the files of results/, of a claim about times: those differ from run to run, and these files must
    not.
    """

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    IN_THE_REPORT = "see report"


def claim_table(claims: dict[str, Claim], measured: Measured, timed: bool) -> Table:
    """Returns a row for each claim, in the order of its file.

    A claim is about every task and variant that it selects. It is contradicted if one of them contradicts it, and
    supported if all of them support it and each of its networks has run. timed: whether claims about times are judged.
    """
    rows: list[Row] = []
    for name, claim in claims.items():
        found = findings(claim, measured)
        outcome, evidence = _outcome(claim, found, measured)
        if is_timed(claim) and found and not timed:
            outcome = Outcome.IN_THE_REPORT
            evidence = "times differ from run to run: see the report, or build/tables/claims.csv"
        rows.append(
            {
                "claim": name,
                "paper": claim.paper,
                "statement": claim.statement,
                "outcome": str(outcome),
                "evidence": evidence,
            }
        )
    return Table(COLUMNS, rows)


def _outcome(claim: Claim, found: list[Finding], measured: Measured) -> tuple[Outcome, str]:
    if not found:
        return Outcome.NOT_RUN, needed(claim)
    ran = {measured.network(claim.runs, each.task) for each in found}
    absent = [network for network in claim.tasks.networks if network not in ran]
    evidence = "; ".join(each.text for each in found)
    if absent:
        evidence += f"; not run: {', '.join(absent)}"
    said = {each.says for each in found}
    if Says.AGAINST in said:
        return Outcome.CONTRADICTED, evidence
    supported = said == {Says.FOR} and not absent
    return Outcome.SUPPORTED if supported else Outcome.UNDECIDED, evidence


def needed(claim: Claim) -> str:
    """Returns what would have to run before anything can be said about a claim."""
    evidence, tasks = claim.evidence.kind, claim.tasks
    if isinstance(evidence, Unmeasured):
        return f"needs {evidence.needs}"
    conditions = [f"{tasks.epochs} epoch{'' if tasks.epochs == 1 else 's'}"] if tasks.epochs else []
    conditions += ["label noise"] if tasks.label_noise else []
    conditions += ["fewer training images than there are"] if tasks.scarce_data else []
    conditions += ["adversarial training"] if tasks.adversarial_training else []
    conditions += [f"the dataset {' or '.join(tasks.datasets)}"] if tasks.datasets else []
    if tasks.networks:
        conditions.append(f"{'each of ' if len(tasks.networks) > 1 else ''}{', '.join(tasks.networks)}")
    noun = "GAN task" if claim.runs is Kind.GAN else "task"
    sides = [side for side in (evidence.of, getattr(evidence, "against", None)) if side is not None]
    parts = [
        f"a {noun}{' with ' if conditions else ''}{' and '.join(conditions)}",
        f"variants of {' and '.join(map(_named, sides))}",
        _score(evidence),
    ]
    return f"needs {'; '.join(filter(None, parts))}"


def _named(side: Side) -> str:
    options = ", ".join(f"{name}: {json.dumps(value)}" for name, value in side.options.items())
    return side.method + (f" ({options})" if options else "")


def _score(evidence: Deciding) -> str:
    """Returns the measure that evidence needs; empty if every run has it."""
    if isinstance(evidence, Comparison):
        return f"the measure {evidence.measure}"
    if isinstance(evidence, Filters):
        return "the score filters"
    if isinstance(evidence, FourBounds):
        return "the score certificates"
    return "the score smoothness" if isinstance(evidence, Order | Bounds | Isometry) else ""


def claims_markdown(table: Table) -> str:
    """Returns the text of results/claims.md."""
    head = ["claim", "paper", "statement", "outcome", "evidence"]
    lines = [head, ["---"] * len(head), *([markdown_cell(row[name]) for name in head] for row in table.rows)]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    caption = (
        "What the results of this suite say about the claims in `claims.yaml`; docs/claims.md explains the outcomes."
    )
    return f"# Claims\n\n{caption}\n\n{shown if table.rows else 'No claim is declared.'}\n"
