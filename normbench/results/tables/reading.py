"""Reads the records of the suite from build/scores. A record that cannot be used is named and left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.means import Runs
from normbench.results.tables.portable import portable
from normbench.results.tables.reasons import MISSING
from normbench.results.tables.robustness import robustness_table
from normbench.results.tables.smoothness import feature_table, layer_table, smoothness_table
from normbench.runs.contents import PICTURES
from normbench.runs.record import Record
from normbench.runs.run import SCORED_IN, Kind, Run
from normbench.suite import resolved
from normbench.suite.suite import Suite
from normbench.system import layout
from normbench.system.errors import UserError
from normbench.system.text import clean, complain

# The stages that write the records of build/scores.
STAGES = {Kind.CLASSIFICATION: "evaluate", Kind.SEGMENTATION: "evaluate", Kind.GAN: "fid"}
FILES = (".json", ".npz", *PICTURES.values())  # what these stages write of a run: its record, predictions, pictures
# The metric that has a list for each corruption.
CORRUPTION_SCORES = {Kind.CLASSIFICATION: "corruption_accuracy", Kind.SEGMENTATION: "corruption_mean_iou"}
NAMED = 20  # records that cannot be used, and files that are not of the suite, which are named on stderr

LeftOut = dict[tuple[str, str], dict[int, str]]  # (task, variant) -> seed -> why its record is left out


@dataclass(frozen=True)
class Found:
    """The records of a kind. runs: has every task and variant; where records are left out, a list may be empty."""

    runs: Runs = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)


def read(suite: Suite, chosen: Corruptions) -> dict[Kind, Found]:
    """Returns the records of the suite's runs. What is left out is named on stderr.

    chosen: the corruptions of params.yaml; a record that was scored on others is left over from an earlier evaluation.
    Raises UserError if no record of the suite can be used.
    """
    found = {kind: read_kind(suite, kind, chosen) for kind in Kind}
    unusable = [
        f"{place(kind, *cell, seed)}: {why}; `{command(kind, *cell)}` writes it"
        for kind, each in found.items()
        for cell, seeds in each.left_out.items()
        for seed, why in seeds.items()
    ]
    count = len(suite.names())
    if unusable and len(unusable) == count:
        raise UserError(*unusable[:1], f"none of the suite's {count} records can be used")
    _tell(unusable)
    _tell([f"{path}: {why}; left out" for path, why in foreign(suite, found)])
    if unusable:
        complain(
            f"{len(unusable)} of {count} records left out: the tables are made without them, and their rows say so"
        )
    return found


def read_kind(suite: Suite, kind: Kind, chosen: Corruptions) -> Found:
    """Returns the records of the suite's runs of a kind."""
    found = Found()
    tasks, variants = suite.of_kind(kind)
    for cell in ((task, variant) for task in tasks for variant in variants):
        records, left_out = found.runs.setdefault(cell, []), dict[int, str]()
        for seed in suite.seeds:
            path = place(kind, *cell, seed)
            try:
                record = Record.read(path)
                why = misplaced(record, kind, *cell, seed) or scored_otherwise(record, chosen) or unreadable(record)
            except FileNotFoundError:
                why = "no such record, but the suite has that run"
            except UserError as error:
                why = str(error).removeprefix(f"{clean(path)}: ")
            if why:
                left_out[seed] = why
            else:
                records.append(record)
        if left_out:
            found.left_out[cell] = left_out
    return found


def misplaced(record: Record, kind: Kind, task: str, variant: str, seed: int) -> str:
    """Returns why a record is not that of the suite's run; an empty string if it is.

    Names do not count, since a record keeps those with which its run was trained. The settings and the code are
    compared where they are resolved; the dataset is taken from the record.
    """
    if record.kind is not kind or record.seed != seed:
        return f"is the record of a {record.kind} run of seed {record.seed}"
    try:
        own = resolved.variant(variant).on(resolved.task(kind, task))
        expected = Run(kind, *own, seed, record.provenance.dataset, resolved.training_digest(kind))
    except UserError:
        return ""
    return "" if expected.id == record.run else "is the record of a run with other settings or code than the suite has"


def scored_otherwise(record: Record, chosen: Corruptions) -> str:
    """Returns how a finished run was not scored as params.yaml says; an empty string if it was."""
    if not record.finished:
        return ""
    if record.kind is Kind.GAN:
        has = record.metrics.get("fid") is not None or any(record.metrics.get(key) for key in ("columns", MISSING))
        return "" if has else "has no FID"
    names = record.metrics.get(CORRUPTION_SCORES[record.kind]) or {}
    severities = record.provenance.corrupted.severities if record.provenance.corrupted else []
    if set(names) == set(chosen.names) and severities == chosen.severities:
        return ""
    return (
        f"evaluated on {len(names)} corruptions at severities {severities}, "
        f"but params.yaml has {len(chosen.names)} at {chosen.severities}"
    )


def unreadable(record: Record) -> str:
    """Returns why no table can be made of the scores of a record; an empty string if they can.

    What is in the entry of a score is described in the score's own file, which needs torch. So a damaged entry is seen
    by trying.
    """
    if record.kind is not Kind.CLASSIFICATION:
        return ""
    alone: Runs = {("", ""): [record]}
    try:
        robustness_table(alone, None, Corruptions(names=[], severities=[]))
        for table in (smoothness_table, layer_table, feature_table):
            table(alone).csv()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return f"metrics: a score is damaged ({type(error).__name__}: {error})"
    return ""


def foreign(suite: Suite, found: dict[Kind, Found]) -> Iterator[tuple[Path, str]]:
    """Yields what lies in build/scores and is not of the suite, with what is wrong: a whole folder as one, or a file.

    A suite that has lost a variant has left its folder there. found: the records of the suite.
    """
    for path in _others(layout.SCORES, [folder.name for folder in SCORED_IN.values()]):
        yield path, "not of a kind of runs"
    folders = {
        folder: [task for kind, own in SCORED_IN.items() if own == folder for task in suite.of_kind(kind)[0]]
        for folder in SCORED_IN.values()
    }
    for folder, tasks in folders.items():
        for path in _others(folder, tasks):
            yield path, "not of a task of the suite"
    known = {f"{seed}{ending}" for seed in suite.seeds for ending in FILES}
    for kind, (tasks, variants) in {kind: suite.of_kind(kind) for kind in Kind}.items():
        for task in tasks:
            for path in _others(SCORED_IN[kind] / task, variants):
                yield path, "not of a variant of the suite"
        for (task, variant), records in found[kind].runs.items():
            for path in _others(SCORED_IN[kind] / task / variant, ()):
                if path.name not in known:
                    yield path, _repeated(path, records) or "not of a run of the suite"


def _others(folder: Path, names: Iterable[str]) -> list[Path]:
    """Returns what a folder has besides these names and hidden files."""
    known, paths = set(names), sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.name not in known and not path.name.startswith(".")]


def _repeated(path: Path, records: list[Record]) -> str:
    """Returns which of the records a file holds once more; an empty string if it is none of them."""
    try:
        run = Record.read(path).run
    except (OSError, UserError):
        return ""
    return next((f"run {run} once more, beside {each.seed}.json" for each in records if each.run == run), "")


def _tell(lines: list[str]) -> None:
    for line in lines[:NAMED]:
        complain(line)
    if len(lines) > NAMED:
        complain(f"{layout.SCORES}: {len(lines) - NAMED} more such lines are not shown")


def method(records: list[Record], variant: str) -> str:
    """Returns the method of a variant; as it is resolved, where no record can be used."""
    return portable((records[0].provenance.variant if records else resolved.variant(variant)).method)


def place(kind: Kind, task: str, variant: str, seed: int) -> Path:
    """Returns the path of a run's record."""
    return SCORED_IN[kind] / task / variant / f"{seed}.json"


def command(kind: Kind, task: str, variant: str) -> str:
    """Returns the command that writes the records of a task and variant."""
    return f"python -m stages.{STAGES[kind]} --task {task} --variant {variant}"
