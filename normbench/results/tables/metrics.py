"""The main numbers as JSON files, one for each task and variant, for `dvc metrics`, whose rows are files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from normbench.results.tables.table import Row
from normbench.system import files

# The columns of the tables by their names here, which are short, so that a row fits on a line of a terminal.
CLASSIFIERS = {"clean": "clean_accuracy", "corrupted": "corruption_accuracy", "mce": "mce"}
SEGMENTATION = {"mean_iou": "mean_iou", "corrupted_iou": "corruption_mean_iou", "pixels": "pixel_accuracy"}
GANS = {"fid": "fid"}

Metrics = dict[tuple[str, str], dict[str, float]]  # by task and variant


def metrics(leaderboard: list[Row], gan: list[Row], segmentation: list[Row]) -> Metrics:
    """Returns the metrics of these tables, rounded to six significant digits; metrics without a value are left out.

    A task and a GAN task of the same name share an entry, with the failed runs of both.
    """
    found: Metrics = {}
    for rows, columns in ((leaderboard, CLASSIFIERS), (segmentation, SEGMENTATION), (gan, GANS)):
        for row in rows:
            cell = found.setdefault((row["task"], row["variant"]), {"failed": 0})
            for name, column in columns.items():
                if not math.isnan(row[column]):
                    cell[name] = float(f"{row[column]:.6g}")
            cell["failed"] += row["failed"]
    return found


def write_metrics(found: Mapping[tuple[str, str], Mapping[str, float]], to: Path) -> None:
    """Writes the metrics as `<task>/<variant>.json` into a folder, which is replaced atomically."""
    with files.atomic_folder(to) as folder:
        for (task, variant), values in found.items():
            files.write_json(folder / task / f"{variant}.json", values)
