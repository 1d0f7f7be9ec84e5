"""The check of params.yaml that comes before everything else, and what has changed since the last `dvc repro`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from normbench.methods import registry as methods
from normbench.methods.plain import taken_for
from normbench.suite import trial
from normbench.suite.resolve import resolve
from normbench.suite.resolved import Resolved, is_written
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.text import say


@dataclass(frozen=True)
class Checked:
    """A params.yaml that is in order. notes: what is doubtful. changed: the files of build/resolved that are older."""

    resolved: Resolved
    notes: list[str]
    changed: list[str]


def check(refresh: bool) -> Checked:
    """Resolves params.yaml and tries what is the user's own.

    refresh: whether to run the stage `resolve` if anything has changed, because DVC watches only normbench/ and the
    folders my_*. Raises UserError with one line for each mistake.
    """
    fresh = resolve()
    kinds = {name: methods.method_class(variant.method) for name, variant in fresh.variants.items()}
    notes = [f"variant {name}: {taken}" for name, kind in kinds.items() if (taken := taken_for(kind))]
    notes += trial.check(trial.of_params(fresh))
    changed = [
        name
        for name, value in fresh.files().items()
        if (layout.RESOLVED / f"{name}.json").exists() and not is_written(name, value)
    ]
    if changed and refresh:
        command = ["dvc", "--wait-for-lock", "repro", "--quiet", "--force", "resolve"]
        if subprocess.run([sys.executable, "-m", *command]).returncode != 0:
            raise UserError(f"`{' '.join(command)}` failed: see above")
    return Checked(fresh, notes, changed)


def tell(checked: Checked) -> None:
    """Prints what a check has found."""
    say(f"{layout.PARAMS}: in order; the suite has {len(checked.resolved.suite.names())} runs")
    for note in checked.notes:
        say(f"note: {note}")
    if checked.changed:
        say(f"changed since the last repro: {', '.join(checked.changed)}")


def as_json(checked: Checked) -> dict[str, Any]:
    """Returns what a check has found, for programs."""
    return {
        "params": str(layout.PARAMS),
        "runs": len(checked.resolved.suite.names()),
        "changed": checked.changed,
        "notes": checked.notes,
    }
