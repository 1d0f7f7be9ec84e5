"""The predictions of many runs as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from normbench.data import intact
from normbench.results.records import Found, found_in, leave_out
from normbench.runs.run import Kind
from normbench.system import layout
from normbench.system.arrays import read_npz
from normbench.system.errors import UserError

CLEAN = "clean"  # stands for no corruption, with severity 0
COLUMNS = ["variant", "seed", "corruption", "severity", "image", "label", "predicted"]
NAMES = ["task", "variant", "corruption"]  # the columns of names

Arrays = Mapping[str, np.ndarray]  # of a run, as `normbench.evaluation.corrupted.measure` keeps them
KEPT = ("names", "severities", "index", "clean", "corrupted")


def predictions(folder: str | Path = layout.SCORES, data: str | Path = layout.DATA) -> pd.DataFrame:
    """Returns a data frame with a row for each finished run and test image, clean and under each corruption.

    Columns: `task`, `variant`, `seed`, `corruption` (`clean` for none), `severity` (0 for none), `image` (its number in
    the test set, from 0), `label` and `predicted` (the class). Rows are in the order of tasks, variants and seeds.

    folder: has the records as for `normbench.results.load`, and beside each the file `<seed>.npz` with its predictions.
    data: the folder of the prepared datasets. A record or predictions that are not valid are named on stderr and left
    out. Raises UserError if there are none, or if a dataset is not the one that its runs were scored on.

    >>> table = predictions("build/scores")
    >>> right = table["predicted"] == table["label"]
    >>> right.groupby([table["task"], table["variant"], table["corruption"]], observed=True).mean()
    """
    folder = Path(folder)
    tables: list[pd.DataFrame] = []
    bad: list[str] = []
    for each in found_in(folder):
        if each.record.kind is not Kind.CLASSIFICATION or not each.record.finished:
            continue
        labels = _labels(each, Path(data))
        try:
            arrays = _read(each, labels)
        except UserError as error:
            bad.append(str(error))
            continue
        table = prediction_table({(each.variant, each.record.seed): arrays}, labels)
        table.insert(0, NAMES[0], pd.Categorical.from_codes(np.zeros(len(table), np.int8), [each.task]))
        tables.append(table)
    leave_out(folder, bad)
    if not tables:
        raise UserError(f"{folder}: has no predictions <kind>/<task>/<variant>/<seed>.npz of finished classifiers")
    for name in NAMES:  # Only columns of one list of names stay short when tables are put together.
        every = list(dict.fromkeys(each for table in tables for each in table[name].cat.categories))
        for table in tables:
            table[name] = table[name].cat.set_categories(every)
    return pd.concat(tables, ignore_index=True)


def prediction_table(runs: Mapping[tuple[str, int], Arrays], labels: np.ndarray) -> pd.DataFrame:
    """The table that `normbench.notebook.comparison.Comparison` describes.

    runs: by variant and seed. labels: of the test images, (N,).
    """
    variants = list(dict.fromkeys(variant for variant, _ in runs))
    tables = [_table(variant, variants, seed, arrays, labels) for (variant, seed), arrays in runs.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _table(variant: str, variants: Sequence[str], seed: int, arrays: Arrays, labels: np.ndarray) -> pd.DataFrame:
    corrupted, every = arrays["corrupted"], np.arange(len(labels))
    names, levels, images = corrupted.shape
    image = np.concatenate([every, np.tile(arrays["index"], names * levels)])
    corruption = np.concatenate([np.zeros_like(every), np.repeat(1 + np.arange(names), levels * images)])
    severity = np.concatenate([np.zeros_like(every), np.tile(np.repeat(arrays["severities"], images), names)])
    columns = (
        pd.Categorical.from_codes(np.full(len(image), variants.index(variant)), variants),
        np.full(len(image), seed),
        pd.Categorical.from_codes(corruption, [CLEAN, *arrays["names"].tolist()]),
        severity.astype(np.int8),
        image.astype(np.int32),
        labels[image].astype(np.int16),
        np.concatenate([arrays["clean"], corrupted.ravel()]),
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def _labels(run: Found, data: Path) -> np.ndarray:
    """Returns the labels of a run's test images. Raises UserError if the dataset is not the one it was scored on."""
    dataset = run.record.provenance.dataset
    intact.check(data / dataset.name, dataset.fingerprint)  # reads a dataset once in a process
    return np.load(data / dataset.name / "test_labels.npy")


def _read(run: Found, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of a run. Raises UserError if they do not fit its record and the labels."""
    path = run.path.with_suffix(".npz")
    arrays = read_npz(path, KEPT)
    on, index = run.record.provenance.corrupted, arrays["index"]
    names, severities = (on.names, on.severities) if on else ([], [])
    if arrays["names"].tolist() != names or arrays["severities"].tolist() != severities:
        raise UserError(f"{path}: is of other corruptions than the record beside it")
    whole = all(arrays[name].dtype.kind in "iu" for name in ("index", "clean", "corrupted"))
    if not whole or index.ndim != 1 or not np.isin(index, np.arange(len(labels))).all():
        raise UserError(f"{path}: has no images of a test set of {len(labels)}")
    for name, shape in {"clean": labels.shape, "corrupted": (len(names), len(severities), len(index))}.items():
        if arrays[name].shape != shape:
            raise UserError(f"{path}: {name} has the shape {arrays[name].shape}, not {shape}")
    right = (arrays["corrupted"] == labels[index]).mean(-1)
    scored = [run.record.metrics["corruption_accuracy"][name] for name in names]
    if not np.allclose(right, np.reshape(scored, right.shape), rtol=0, atol=0.5 / max(1, len(index))):
        raise UserError(f"{path}: is not of the run that the record beside it describes")
    return arrays
