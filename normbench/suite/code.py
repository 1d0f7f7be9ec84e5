"""The digest of the code behind each part of the suite: what it means, from the entry points that shape a result.

A digest moves when something moves that can change a number, and never else (see `normbench.system.fingerprint`): the
storing of runs, their progress, names and versions are reached from none of the entry points below.
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
from normbench.runs.run import Kind
from normbench.system import files
from normbench.system.fingerprint import Root, closure

PACKAGE = Path(__file__).resolve().parents[1]

# What a run of a kind calls that shapes its outcome, as file and definition.
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
# What the stages that do not train call.
STAGES = {
    "corrupt": [("corruptions/files.py", "write_corrupted"), ("corruptions/files.py", "copy_published")],
    "bind": [("suite/bind.py", "bind")],
    "evaluate": [
        ("data/prepared.py", "held_out"),
        ("training/classifier.py", "network"),
        ("evaluation/subject.py", "Subject"),
        ("evaluation/subject.py", "scored_images"),
        ("evaluation/evaluate.py", "measure"),
    ],
    "fid": [("gan/fid.py", name) for name in ("Features", "reference", "fid", "sample_count", "RECIPE", "WIDTH")],
    "aggregate": [("results/tables/write.py", "aggregate")],
    "report": [("results/report.py", "report")],
}
DATA_FILES = {"report": ["results/report.html.j2", "results/style.css.j2"]}


def training(kind: Kind) -> str:
    """The digest of the code that trains a run of a kind, without its model and its method."""
    return digest(_roots(TRAINING[kind]))


def model(reference: str) -> str:
    """The digest of the code behind a model."""
    entry = models.get(reference)
    return digest([Root(*entry.source)])


def source(reference: str) -> str:
    """The digest of the code that prepares a dataset from a source."""
    kind = sources.source_class(reference)
    return digest([Root(PACKAGE / "data/prepare.py", "prepare"), Root(sources.source_file(reference), kind.__name__)])


def method(reference: str) -> str:
    """The digest of the code behind a method."""
    return digest([Root(methods.source_file(reference), methods.method_class(reference).__name__)])


def digest(roots: list[Root]) -> str:
    """The digest of what definitions mean, and of everything that they use."""
    return files.hash_of([[root.name for root in roots], closure(roots).digest])


def of_stages(corruption_references: Mapping[str, str], score_names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What `build/resolved/code` has: for each stage the digest of the code that it runs.

    The stages that train have the record's format too, as what they leave is read by later stages. `corrupt` has the
    digest of each corruption, `evaluate` that of each score: another one leaves those that there are as they are.
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
            found[stage]["scores"] = {name: digest([Root(*SCORES.get(name).source)]) for name in score_names}
        if stage == "fid":  # The features are those of a classifier, which is trained for them.
            found[stage]["features"] = [training(Kind.CLASSIFICATION), model(fid.CLASSIFIER), method(fid.METHOD)]
        if stage in DATA_FILES:
            found[stage]["files"] = {name: files.sha256(PACKAGE / name) for name in DATA_FILES[stage]}
    return found


def _roots(places: list[tuple[str, str]]) -> list[Root]:
    return [Root(PACKAGE / file, name) for file, name in places]
