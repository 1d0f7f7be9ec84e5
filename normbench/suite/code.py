"""The digests of the code behind each part of the suite; those of its runs are in `normbench.runs.code`.

A digest covers the entry points listed below and everything that they use, and changes only if a change of the code can
change a number (see `normbench.system.fingerprint`). Storage, progress, names and versions are not reached from these
entry points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from normbench.corruptions import registry as corruptions
from normbench.data.sources import registry as sources
from normbench.evaluation.registry import SCORES
from normbench.gan import features
from normbench.runs.code import CERTIFIED, PACKAGE, TRAINING, digest, loss, method, model, problem, training
from normbench.runs.record import FORMAT as RECORD_FORMAT
from normbench.runs.run import Kind
from normbench.system import files
from normbench.system.fingerprint import Root

__all__ = [
    "CERTIFIED",
    "PACKAGE",
    "TRAINING",
    "digest",
    "loss",
    "method",
    "model",
    "of_stages",
    "problem",
    "source",
    "training",
]

# The entry points of the stages that do not train.
STAGES = {
    "corrupt": [("suite/corrupt.py", "corrupt")],
    # It notes the digest of the code that reads streamed images.
    "bind": [("suite/bind.py", "write"), ("suite/runs.py", "bound_dataset"), ("data/streamed.py", "load")],
    "evaluate": [
        ("suite/evaluate.py", "subject_of"),
        ("data/streamed.py", "held_out"),
        ("evaluation/subject.py", "Subject"),
        ("evaluation/evaluate.py", "measure"),
        ("evaluation/evaluate.py", "merged"),
    ],
    "real": [
        ("data/prepared.py", "load"),
        ("suite/real.py", "feature_run"),
        ("runs/networks.py", "trained_classifier"),
        ("system/device.py", "prepare"),
        ("system/device.py", "use_threads"),
        ("gan/features.py", "Features"),
        ("gan/inception.py", "Inception"),
        ("gan/score.py", "of_real"),
    ],
    "fid": [
        ("data/prepared.py", "load"),
        ("runs/networks.py", "trained_classifier"),
        *(("runs/networks.py", name) for name in ("trained_discriminator", "trained_generator")),
        ("system/device.py", "prepare"),
        ("system/device.py", "use_threads"),
        ("gan/features.py", "Features"),
        ("gan/inception.py", "Inception"),
        ("gan/evaluation.py", "column"),
        ("gan/scores/frechet.py", "Reference"),
        *(("gan/score.py", name) for name in ("generated", "measure", "sample_count")),
        *(("gan/over_time.py", "kids"), ("gan/lipschitz.py", "lipschitz_bound")),
        *(("suite/fid.py", name) for name in ("bound_of", "history", "pass_on")),
    ],
    "aggregate": [("results/tables/write.py", "aggregate")],
    "report": [("results/report.py", "report")],
}
# Those of the stage `evaluate` for a task of segmentation.
SEGMENTATION = [
    ("suite/evaluate_masks.py", "subject_of"),
    ("data/scenes.py", "held_out"),
    ("segmentation/score.py", "measure"),
]
# The files that a stage reads beside code.
DATA_FILES = {
    "aggregate": ["results/published.csv"],
    "report": [
        "results/charts/fit.js",
        "results/page/grid.html.j2",
        "results/page/report.html.j2",
        "results/page/script.js.j2",
        "results/page/style.css.j2",
        "results/page/task.html.j2",
    ],
}


def source(reference: str) -> str:
    """Returns the digest of the code that prepares a dataset from a source."""
    kind = sources.source_class(reference)
    return digest([Root(PACKAGE / "data/prepare.py", "prepare"), Root(sources.source_file(reference), kind.__name__)])


def of_stages(
    corruption_references: Mapping[str, str], score_names: Iterable[str], segmentation: bool = False
) -> dict[str, dict[str, Any]]:
    """Returns the content of `build/resolved/code`: for each stage the digest of the code that it runs.

    The training stages also have the version of the record's format, because later stages read the records. `corrupt`
    also has a digest for each corruption and `evaluate` one for each score. segmentation: whether the suite has tasks
    of that kind, for which `train` and `evaluate` have a digest of their own.
    """
    found: dict[str, dict[str, Any]] = {
        stage: {"digest": training(kind), "record_format": RECORD_FORMAT}
        for stage, kind in (("train", Kind.CLASSIFICATION), ("gan", Kind.GAN))
    }
    if segmentation:
        found["train"]["segmentation"] = training(Kind.SEGMENTATION)
    for stage, places in STAGES.items():
        found[stage] = {"digest": digest(_roots(places))}
        if stage == "corrupt":
            found[stage]["corruptions"] = {
                name: digest([Root(*corruptions.get(reference).source)])
                for name, reference in corruption_references.items()
            }
        if stage == "evaluate" and segmentation:
            found[stage]["segmentation"] = digest(_roots(SEGMENTATION))
        if stage == "evaluate":
            found[stage]["scores"] = {
                score.name: digest([Root(*score.source), Root(*score.settings_source)])
                for score in map(SCORES.get, score_names)
            }
        if stage == "real":  # A classifier is trained for its features.
            found[stage]["features"] = [
                training(Kind.CLASSIFICATION),
                model(features.CLASSIFIER),
                method(features.METHOD),
            ]
        if stage in DATA_FILES:
            found[stage]["files"] = {name: files.sha256(PACKAGE / name) for name in DATA_FILES[stage]}
    return found


def _roots(places: list[tuple[str, str]]) -> list[Root]:
    return [Root(PACKAGE / file, name) for file, name in places]
