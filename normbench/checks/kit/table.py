"""The table of the checks, and the run of all of them on one method.

A check is a function of a `Case`. It returns what it saw if that is in order, and raises `Warn` or `Fail` otherwise.
Its docstring says what it looks at. To add one, write it into the file of its kind and add a row to `CHECKS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from normbench.checks.kit import cost, evaluation, layers, learning, numerics, state
from normbench.checks.kit.case import SIDES, WIDTHS, Case, Fail, Warn
from normbench.checks.network import other_generators_kept
from normbench.methods.base import Method
from normbench.system import blame
from normbench.system.errors import UserError

Outcome = Literal["pass", "warn", "fail"]
RESIDUAL = "resnet8"


@dataclass(frozen=True)
class Check:
    """A row of the table. everywhere: whether it is tried in all three networks, or in the residual one alone."""

    function: Callable[[Case], str]
    everywhere: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__.strip("_").replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """What a check found. check: its name. seen: what was seen. advice: what to do about it, empty if it passed."""

    check: str
    outcome: Outcome
    seen: str
    advice: str = ""

    def line(self) -> str:
        """The finding as it is printed."""
        return f"{self.outcome}  {self.check}: {self.seen}{f'; {self.advice}' if self.advice else ''}"

    def json_value(self) -> dict[str, Any]:
        return asdict(self)


# Without these, no other check can be made.
FIRST = (
    Check(layers.building, everywhere=True),
    Check(layers.shapes, everywhere=True),
)
CHECKS = (
    Check(layers.backward, everywhere=True),
    Check(layers.parameters, everywhere=True),
    Check(layers.in_place, everywhere=True),
    Check(layers.sharing),
    Check(layers.geometries),
    Check(layers.finite, everywhere=True),
    Check(layers.one_image),
    Check(layers.one_pixel),
    Check(layers.sizes),
    Check(evaluation.repeated, everywhere=True),
    Check(evaluation.other_images, everywhere=True),
    Check(evaluation.modes_agree),
    Check(state.stored_state, everywhere=True),
    Check(state.round_trip),
    Check(state.copying),
    Check(state.pickling),
    Check(state.determinism),
    Check(state.memory_growth),
    Check(numerics.float64),
    Check(numerics.bfloat16),
    Check(numerics.channels_last),
    Check(numerics.device),
    Check(numerics.finite_differences),
    Check(cost.compiling),
    Check(cost.speed),
    Check(cost.memory_use),
    Check(learning.learning),
)


Tried = Callable[[Check], Finding]


def examine(
    method: Method, quick: bool = False, each: Callable[[Tried, Sequence[Check]], Iterable[Finding]] = map
) -> Iterator[Finding]:
    """Yields what each check finds of a method, and leaves the global random generators as they were.

    quick: whether only the residual network is tried, for fewer steps. each: applies a function to the checks, which do
    not depend on each other; `map` does so one after the other. If the network cannot be built or run at all, the
    findings end with that.
    """
    cases, narrow = _cases(method, quick)
    if narrow:
        yield narrow
    for check in FIRST:
        found = _tried(check, cases)
        yield found
        if found.outcome == "fail":
            return
    yield from each(lambda check: _tried(check, cases), CHECKS)


def _cases(method: Method, quick: bool) -> tuple[list[Case], Finding | None]:
    """The networks, wide enough for the method, and a finding if it does not take 8 channels."""
    names = [RESIDUAL] if quick else [*SIDES]
    narrow, wide = ([Case(method, name, SIDES[name], width, quick) for name in names] for width in WIDTHS)
    problem = _problem(narrow[0])
    if problem is None or _problem(wide[0]) is not None:
        return narrow, None
    seen = f"it does not take {WIDTHS[0]} channels: {problem}"
    advice = f"examined with {WIDTHS[1]} and more; such networks alone can be trained with these options"
    return wide, Finding("channels", "warn", seen, advice)


def _problem(case: Case) -> str | None:
    """Why a network cannot be built or does not run, or None."""
    with torch.random.fork_rng([]), warnings.catch_warnings(action="ignore"):
        try:
            case.network()(case.images())
        except Exception as error:  # The layers may be anybody's.
            return blame.one_line(error)
    return None


def _tried(check: Check, cases: list[Case]) -> Finding:
    """What a check finds in the networks: the worst of it."""
    chosen = [case for case in cases if check.everywhere or case.model == RESIDUAL]
    found = [_tried_in(check, case) for case in chosen]
    return next((each for kind in ("fail", "warn") for each in found if each.outcome == kind), found[0])


def _tried_in(check: Check, case: Case) -> Finding:
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng([]),
            other_generators_kept(),
            blame.torch_settings_kept(),
        ):
            torch.manual_seed(0)
            return Finding(check.name, "pass", check.function(case))
    except Warn as found:
        return Finding(check.name, "warn", f"{found.seen} ({case.model})", found.advice)
    except Fail as found:
        return Finding(check.name, "fail", f"{found.seen} ({case.model})", found.advice)
    except UserError as error:  # a line of the suite's own check
        return Finding(check.name, "fail", str(error))
    except Exception as error:  # The layers may be anybody's.
        where = case.place(error)
        seen = f"{where}: {blame.one_line(error)}" if where else blame.one_line(error)
        return Finding(check.name, "fail", f"{seen} ({case.model})")
