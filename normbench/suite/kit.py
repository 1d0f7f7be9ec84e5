"""`normbench check TARGET`: what the target is, and the checks of the kit on it, side by side."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.checks.kit.table import CHECKS, Check, Finding, Tried, examine
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.methods.plain import taken_for
from normbench.suite.document import Document
from normbench.suite.file import ParamsFile, check_options, typed_options
from normbench.system import blame, files, layout
from normbench.system.errors import UserError, hint
from normbench.system.plugins import is_place
from normbench.system.side_by_side import side_by_side
from normbench.system.text import say

LATER = {check.name for check in CHECKS}


@dataclass(frozen=True)
class Target:
    """What is examined. name: as it was given. reference: of its method. options: those that are given."""

    name: str
    reference: str
    options: dict[str, Any]

    def method(self) -> Method:
        """The method with its options. Raises UserError, one line for each option that is wrong."""
        kind = methods.method_class(self.reference)
        wrong = check_options(kind, self.options)
        if wrong:
            given = self.options
            raise UserError(
                *(f"{self.name}: {key}{f' = {given[key]!r}' if key in given else ''}: {text}" for key, text in wrong)
            )
        with blame.in_one_line(self.name, lambda error: blame.place(error) or blame.definition(kind)):
            return kind(**typed_options(kind, self.options))


def target(name: str, settings: Sequence[str] = ()) -> Target:
    """The target of a name: a variant of params.yaml, a method, or a reference to a class.

    settings: options as `name=value`, with values as in params.yaml. Raises UserError if there is no such target.
    """
    options = dict(map(_setting, settings))
    if is_place(name):
        return Target(name, name, options)
    try:
        variants = ParamsFile(layout.PARAMS).params.variants
    except UserError:  # A method can be examined whatever params.yaml is like.
        variants = {}
    if name in variants:
        return Target(name, variants[name].method, variants[name].options | options)
    if name in methods.names():
        return Target(name, name, options)
    known = {*variants, *methods.names()}
    raise UserError(f"{name}: no variant of {layout.PARAMS}, method or place of a class; {hint(name, known)}")


def _setting(text: str) -> tuple[str, Any]:
    """The name and the value of an option. Raises UserError if a text is no `name=value` with a value of YAML."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier() and value.strip()):
        raise UserError(f"--option {text}: expected name=value")
    return name, Document(Path(f"--option {text}"), f"{name}: {value}\n").value[name]


def run(target: Target, quick: bool, shown: bool) -> list[Finding]:
    """Examines a target in as many processes as there are cores; returns the findings in the order of the table.

    shown: whether each is printed as soon as it is there.
    """

    def noted(finding: Finding) -> Finding:
        if shown:
            say(finding.line())
        return finding

    def each(tried: Tried, checks: Sequence[Check]) -> Iterator[Finding]:
        with tempfile.TemporaryDirectory() as folder:

            def task(number: int) -> None:
                finding = noted(tried(checks[number]))
                files.write_json(Path(folder) / f"{number}.json", finding.json_value())

            numbers = range(len(checks))
            side_by_side([functools.partial(task, number) for number in numbers], "cpu", 1)
            for number in numbers:
                yield Finding(**files.read_json(Path(folder) / f"{number}.json"))

    method, found = target.method(), list[Finding]()
    if shown:
        say(f"{target.name}: {taken_for(type(method)) or f'the method {type(method).__name__}'}")
    for finding in examine(method, quick, each):
        found.append(finding if finding.check in LATER else noted(finding))
    return found


def as_json(target: Target, found: Sequence[Finding]) -> dict[str, Any]:
    """Returns what was found, for programs."""
    return {
        "target": target.name,
        "method": target.reference,
        "options": target.options,
        "checks": [finding.json_value() for finding in found],
        "failed": [finding.check for finding in found if finding.outcome == "fail"],
    }
