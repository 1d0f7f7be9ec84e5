"""The predictions of many runs as one table, against the arrays from which it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.data.arrays import fingerprint
from normbench.results import load, predictions
from normbench.runs.record import Record
from normbench.system.errors import UserError
from tests.support.records import change, corrupted_images, record

NAMES, SEVERITIES, IMAGES = ["fog", "contrast"], [2, 5], 12
INDEX = np.array([7, 1, 4, 10])
COLUMNS = ["task", "variant", "seed", "corruption", "severity", "image", "label", "predicted"]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of the scores and of the datasets, with two tasks, and a run that diverged."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "data/digits"
    folder.mkdir(parents=True)
    arrays = {"train_images": np.zeros((3, 4, 4, 1), np.uint8), "train_labels": np.arange(3)}
    arrays |= {"test_images": np.zeros((IMAGES, 4, 4, 1), np.uint8), "test_labels": draw.integers(0, 3, IMAGES)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for task, variant, seed in (("t", "a", 0), ("t", "a", 10), ("t", "b", 9), ("u", "c", 0)):
        write(tmp_path / f"scores/classification/{task}/{variant}/{seed}", arrays["test_labels"], fingerprint(arrays))
    record("t", "b", 3, "diverged").write(tmp_path / "scores/classification/t/b/3.json")
    record("g", "a", 0, kind="gan").write(tmp_path / "scores/gan/g/a/0.json")
    return tmp_path / "scores", tmp_path / "data"


def write(place: Path, labels: np.ndarray, fingerprint: str) -> None:
    """Writes the record and the predictions of a run."""
    task, variant, seed = place.parts[-3], place.parts[-2], int(place.name)
    draw = np.random.default_rng([seed, *variant.encode()])
    clean = draw.integers(0, 3, IMAGES).astype(np.int16)
    corrupted = draw.integers(0, 3, (len(NAMES), len(SEVERITIES), len(INDEX))).astype(np.int16)
    right = (corrupted == labels[INDEX]).mean(-1)
    accuracy = dict(zip(NAMES, right.tolist(), strict=True))
    made = record(task, variant, seed, metrics={"clean_accuracy": 0.5, "corruption_accuracy": accuracy})
    origin = {"corrupted": corrupted_images(NAMES, SEVERITIES), "dataset": {"fingerprint": fingerprint}}
    change(made, provenance=origin).write(place.with_suffix(".json"))
    arrays = {"names": np.array(NAMES), "severities": np.array(SEVERITIES), "index": INDEX}
    np.savez_compressed(place.with_suffix(".npz"), clean=clean, corrupted=corrupted, more=np.zeros(2), **arrays)


def test_a_row_for_each_run_and_image(places: tuple[Path, Path]) -> None:
    table = predictions(*places)
    labels = np.load(places[1] / "digits/test_labels.npy")
    assert list(table) == COLUMNS
    expected = []
    for task, variant, seed in (("t", "a", 0), ("t", "a", 10), ("t", "b", 9), ("u", "c", 0)):
        arrays = np.load(places[0] / f"classification/{task}/{variant}/{seed}.npz")
        run = (task, variant, seed)
        expected += [(*run, "clean", 0, i, labels[i], arrays["clean"][i]) for i in range(IMAGES)]
        for n, name in enumerate(NAMES):
            for s, severity in enumerate(SEVERITIES):
                found = arrays["corrupted"][n, s]
                expected += [(*run, name, severity, i, labels[i], found[k]) for k, i in enumerate(INDEX)]
    assert [tuple(row) for row in table.itertuples(index=False)] == expected
    assert {str(table[name].dtype) for name in ("task", "variant", "corruption")} == {"category"}


def test_its_accuracies_are_those_of_the_runs(places: tuple[Path, Path]) -> None:
    table = predictions(*places)
    corrupted = table[table["corruption"] != "clean"]
    right = (corrupted["predicted"] == corrupted["label"]).groupby(
        [corrupted["task"], corrupted["variant"], corrupted["seed"]], observed=True
    )
    runs = load(places[0]).dropna(subset="corruption_accuracy").set_index(["task", "variant", "seed"])
    assert right.mean().to_dict() == pytest.approx(runs["corruption_accuracy"].to_dict())


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"names": np.array(["fog", "frost"])}, "is of other corruptions than the record beside it"),
        ({"severities": np.array([1, 5])}, "is of other corruptions than the record beside it"),
        ({"index": np.array([7, 1, 4, 12])}, "has no images of a test set of 12"),
        ({"index": np.array([7, 1, 4, -1])}, "has no images of a test set of 12"),
        ({"clean": np.zeros(12)}, "has no images of a test set of 12"),
        ({"clean": np.zeros(11, np.int16)}, "clean has the shape (11,), not (12,)"),
        ({"corrupted": np.zeros((2, 2, 5), np.int16)}, "corrupted has the shape (2, 2, 5), not (2, 2, 4)"),
        ({"corrupted": np.full((2, 2, 4), 9, np.int16)}, "is not of the run that the record beside it describes"),
        ({"corrupted": None}, "no array 'corrupted'"),
        (None, "no such file"),
    ],
)
def test_predictions_that_do_not_fit_are_named_and_left_out(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str], changed: dict[str, Any] | None, line: str
) -> None:
    whole, path = predictions(*places), places[0] / "classification/t/a/10.npz"
    arrays = dict(np.load(path))
    path.unlink()
    if changed is not None:
        np.savez(path, **{name: array for name, array in (arrays | changed).items() if array is not None})
    left = predictions(*places)
    assert len(left) == len(whole) * 3 / 4
    assert set(zip(left["variant"], left["seed"], strict=True)) == {("a", 0), ("b", 9), ("c", 0)}
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{path}: {line}")
    assert told.endswith("; left out")


def test_another_dataset_is_refused(places: tuple[Path, Path]) -> None:
    path = places[0] / "classification/t/a/0.json"
    changed = change(Record.read(path), provenance={"dataset": {"fingerprint": "9" * 64}})
    changed.write(path)
    with pytest.raises(UserError, match="digits"):
        predictions(*places)


def test_without_predictions_there_is_an_error(tmp_path: Path) -> None:
    record("t", "b", 3, "diverged").write(tmp_path / "classification/t/b/3.json")
    with pytest.raises(UserError, match=r"has no predictions <kind>/<task>/<variant>/<seed>\.npz of finished"):
        predictions(tmp_path)
