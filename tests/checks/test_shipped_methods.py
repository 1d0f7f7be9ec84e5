"""No check of the kit fails for a method of the package, and docs/checking.md gives the reason of each warning."""

from __future__ import annotations

import pytest

from normbench.checks.kit.table import CHECKS, FIRST, examine
from normbench.methods import registry
from tests.support.project import ROOT


def tables() -> list[list[list[str]]]:
    """The rows of the two tables of docs/checking.md, without their heads."""
    lines = (ROOT / "docs" / "checking.md").read_text().split("\n## ")
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")][
            2:
        ]
        for part in lines
        if "\n|---" in part
    ]


def allowed(method: str) -> set[str]:
    """The checks that may warn for a method."""
    return {check for check, methods, _ in tables()[1] if method in methods.replace("`", "").split(", ")}


def test_the_page_lists_all_checks() -> None:
    listed = [name for row in tables()[0] for name in row[0].split(", ")]
    assert sorted(listed) == sorted(["channels", *(check.name for check in (*FIRST, *CHECKS))])
    assert {row[0] for row in tables()[1]} <= {*listed}


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_no_check_fails(name: str) -> None:
    found = [finding for finding in examine(registry.build(name, {}), quick=True) if finding.outcome != "pass"]
    assert [finding.line() for finding in found if finding.outcome == "fail"] == []
    unexplained = [finding.line() for finding in found if finding.check not in allowed(name)]
    assert unexplained == [], "give the reason in docs/checking.md"
