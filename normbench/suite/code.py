"""The digests of the code behind each part of the suite.

A digest covers the entry points listed below and everything that they use, and changes only if a change of the code can
change a number (see `normbench.system.fingerprint`). Storage, progress, names and versions are not reached from these
entry points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from normbench.corruptions import registry as corruptions
from normbench.data.sources import registry as sources
from normbench.evaluation.registry import SCORES
from normbench.gan import fid
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.record import FORMAT as RECORD_FORMAT
from normbench.runs.run import Kind, Run
from normbench.system import files
from normbench.system.fingerprint import Root, closure

PACKAGE = Path(__file__).resolve().parents[1]

# The functions that shape the outcome of a run of each kind, as file and name.
TRAINING = {
    Kind.CLASSIFICATION: [
        ("data/prepared.py", "load"),
        ("training/classifier.py", "prepare"),
        ("training/classifier.py", "fit"),
        ("training/classifier.py", "measure"),
    ],
    Kind.GAN: [
        ("data/prepared.py", "load"),
        ("gan/trainer.py", "prepare"),
        ("gan/trainer.py", "fit"),
        ("gan/trainer.py", "samples"),
    ],
}
# The entry points of the stages that do not train.
STAGES = {
    "corrupt": [("suite/corrupt.py", "corrupt")],
    "bind": [("suite/bind.py", "write"), ("suite/runs.py", "bound_dataset")],
    "evaluate": [
        ("suite/evaluate.py", "subject_of"),
        ("evaluation/subject.py", "Subject"),
        ("evaluation/evaluate.py", "measure"),
    ],
    "fid": [
        ("data/prepared.py", "load"),
        ("suite/fid.py", "feature_run"),
        ("runs/networks.py", "trained_classifier"),
        ("runs/networks.py", "trained_generator"),
        ("system/device.py", "prepare"),
        ("system/device.py", "use_threads"),
        *(("gan/fid.py", name) for name in ("Features", "reference", "fid", "sample_count")),
    ],
    "aggregate": [("results/tables/write.py", "aggregate")],
    "report": [("results/report.py", "report")],
}
DATA_FILES = {"report": ["results/report.html.j2", "results/style.css.j2"]}


def training(kind: Kind) -> str:
    """Returns the digest of the code that trains a run of a kind, without its model and its method."""
    return digest(_roots(TRAINING[kind]))


def model(reference: str) -> str:
    """Returns the digest of the code of a model."""
    entry = models.get(reference)
    return digest([Root(*entry.source)])


def source(reference: str) -> str:
    """Returns the digest of the code that prepares a dataset from a source."""
    kind = sources.source_class(reference)
    return digest([Root(PACKAGE / "data/prepare.py", "prepare"), Root(sources.source_file(reference), kind.__name__)])


def method(reference: str) -> str:
    """Returns the digest of the code of a method."""
    return digest([Root(methods.source_file(reference), methods.method_class(reference).__name__)])


def digest(roots: list[Root]) -> str:
    """Returns the digest of what the root definitions mean, with everything that they use."""
    return files.hash_of([[root.name for root in roots], closure(roots).digest])


_compared: dict[tuple[str, ...], str | None] = {}


def problem(run: Run) -> str | None:
    """Returns how the code that would train a run differs from that in its id; None if it does not.

    It differs after an edit since params.yaml was resolved, or on another machine. It is compared once in a process.
    """
    key = run.kind, run.code, run.task.model_code, run.variant.method_code
    if key not in _compared:
        compared = (
            ("training code", training(run.kind), run.code),
            (f"model {run.task.model}", model(run.task.model), run.task.model_code),
            (f"method {run.variant.method}", method(run.variant.method), run.variant.method_code),
        )
        changed = [what for what, here, was in compared if here != was]
        _compared[key] = f"the {changed[0]} here is not that of the run: bring the code up to date" if changed else None
    return _compared[key]


def of_stages(corruption_references: Mapping[str, str], score_names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the content of `build/resolved/code`: for each stage the digest of the code that it runs.

    The training stages also have the version of the record's format, because later stages read the records. `corrupt`
    also has a digest for each corruption and `evaluate` one for each score.
    """
    found: dict[str, dict[str, Any]] = {
        stage: {"digest": training(kind), "record_format": RECORD_FORMAT}
        for stage, kind in (("train", Kind.CLASSIFICATION), ("gan", Kind.GAN))
    }
    for stage, places in STAGES.items():
        found[stage] = {"digest": digest(_roots(places))}
        if stage == "corrupt":
            found[stage]["corruptions"] = {
                name: digest([Root(*corruptions.get(reference).source)])
                for name, reference in corruption_references.items()
            }
        if stage == "evaluate":
            found[stage]["scores"] = {
                score.name: digest([Root(*score.source), Root(*score.settings_source)])
                for score in map(SCORES.get, score_names)
            }
        if stage == "fid":  # The FID uses the features of a classifier that is trained for it.
            found[stage]["features"] = [training(Kind.CLASSIFICATION), model(fid.CLASSIFIER), method(fid.METHOD)]
        if stage in DATA_FILES:
            found[stage]["files"] = {name: files.sha256(PACKAGE / name) for name in DATA_FILES[stage]}
    return found


def _roots(places: list[tuple[str, str]]) -> list[Root]:
    return [Root(PACKAGE / file, name) for file, name in places]
