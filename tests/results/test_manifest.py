"""What the manifest has of made-up runs, and what it leaves out."""

from __future__ import annotations

import json
from typing import Any

from normbench.results.tables.manifest import manifest
from normbench.results.tables.means import Runs
from normbench.runs.record import Record
from normbench.runs.run import Kind
from tests.support.records import change, corrupted_images, record

TABLES = {"gan.csv": [Kind.GAN], "runs.csv": [Kind.CLASSIFICATION, Kind.GAN]}
EVALUATION = {"corrupted_examples": None, "attacks": {"examples": 100}}


def a_suite(**changes: Any) -> dict[Kind, Runs]:
    """changes: of the provenance of each run."""

    def made(kind: str, task: str, variant: str, seed: int) -> Record:
        scored = {"corrupted": corrupted_images(["fog"], [1]), "evaluation": EVALUATION} if kind != "gan" else {}
        return record(task, variant, seed, kind=kind, provenance=scored | changes)

    classifiers: Runs = {("t", name): [made("classification", "t", name, seed) for seed in (0, 2)] for name in "ab"}
    return {Kind.CLASSIFICATION: classifiers, Kind.GAN: {("g", "a"): [made("gan", "g", "a", 2)], ("g", "left_out"): []}}


def made(runs: dict[Kind, Runs]) -> dict[str, Any]:
    """The value as it is read back from the file."""
    found: dict[str, Any] = json.loads(json.dumps(manifest(runs, TABLES, {"evaluate": "e" * 64})))
    return found


def test_the_ids_of_all_runs() -> None:
    runs = a_suite()
    found = made(runs)
    assert found["tables"] == {"gan.csv": ["gan"], "runs.csv": ["classification", "gan"]}
    assert found["runs"] == {
        "classification": {
            "t": {name: {str(r.seed): r.run for r in runs[Kind.CLASSIFICATION]["t", name]} for name in "ab"}
        },
        "gan": {"g": {"a": {"2": runs[Kind.GAN]["g", "a"][0].run}, "left_out": {}}},
    }


def test_fingerprints_of_all_that_shapes_the_tables() -> None:
    runs = a_suite()
    found, origin = made(runs), runs[Kind.CLASSIFICATION]["t", "a"][0].provenance
    assert found["datasets"] == {"digits": {"fingerprint": origin.dataset.fingerprint, "train": 1437, "test": 360}}
    assert found["tasks"]["gan"] == {"g": {"dataset": "digits", "model_code": "3" * 64, "training_code": "1" * 64}}
    assert found["variants"] == {name: {"method": name, "code": "0" * 64} for name in "ab"}
    assert found["corrupted"]["digits"]["sha256"] == {"fog": "4" * 64}
    assert found["evaluations"] == [EVALUATION]
    assert found["code"] == {"evaluate": "e" * 64}


def test_environments_with_the_number_of_their_runs() -> None:
    runs = a_suite()
    cell = runs[Kind.CLASSIFICATION]["t", "b"]
    cell[0] = change(cell[0], provenance={"versions": {"python": "3.13.0"}})
    first, second = made(runs)["environments"]
    assert (first["runs"], second["runs"]) == (4, 1)
    assert first["versions"]["torch"] == "2.9.0"
    assert first["device"]["name"] == "Some CPU"
    assert first["numerics"] == {"precision": "float32", "memory_format": "channels_last", "threads": 1}
    assert second["versions"] == {"python": "3.13.0"}


def test_nothing_that_differs_between_two_runs_from_scratch() -> None:
    once = made(a_suite())
    again = a_suite(
        started="2027-01-01T10:00:00+00:00",
        ended="2027-01-02T10:00:00+00:00",
        git={"revision": "f" * 40, "dirty": False},
        device={"side_by_side": 2},
    )
    assert made(again) == once


def test_no_folder_of_this_machine() -> None:
    runs = a_suite()
    for cell in runs[Kind.CLASSIFICATION].values():
        images = corrupted_images(["fog"], [1]).model_copy(
            update={"published": "/data/C", "own": {"mine": {"reference": "/home/me/mine.py:Mine", "code": "8" * 64}}}
        )
        method = {"method": "/home/me/norm.py:Norm"}
        cell[:] = [change(each, provenance={"corrupted": images, "variant": method}) for each in cell]
    text = json.dumps(made(runs))
    assert "/home" not in text
    assert "/data" not in text
    assert {"norm.py:Norm", "mine.py:Mine"} <= {part.strip('",') for part in text.split()}
