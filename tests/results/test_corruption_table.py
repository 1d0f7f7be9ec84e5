"""results/corruptions.csv and results/curves.csv against sums in plain Python."""

from __future__ import annotations

import statistics

import pytest

from normbench.results.tables import aggregate
from normbench.results.tables.curves import CURVES
from tests.results.made_up_suite import (
    DIVERGED,
    EPOCHS,
    NAMES,
    SEVERITIES,
    VARIANTS,
    classification_record,
    error_sums,
    finished,
    rows,
)


def test_accuracy_by_corruption_and_severity(suite: None) -> None:
    aggregate()
    grid = {(row["variant"], row["corruption"]): row for row in rows("results/corruptions.csv")}
    assert len(grid) == len(VARIANTS) * len(NAMES)
    row, runs = grid["no_norm", "fog"], finished("no_norm")
    for i, severity in enumerate(SEVERITIES):
        expected = statistics.mean(run.metrics["corruption_accuracy"]["fog"][i] for run in runs)
        assert float(row[f"severity_{severity}"]) == pytest.approx(expected, abs=6e-6)
    assert float(row["mean"]) == pytest.approx(1 - error_sums("no_norm")["fog"] / 5, abs=6e-6)
    *empty, why = list(grid["spectral_norm", "fog"].values())[3:]
    assert set(empty) == {""}
    assert why == "severity_1, severity_2, severity_3, severity_4, severity_5, mean: all 3 runs diverged"


def test_curves_have_a_row_for_each_run_and_whole_epoch(suite: None) -> None:
    aggregate()
    curves = rows("results/curves.csv")
    assert list(curves[0]) == list(CURVES)
    assert len(curves) == (8 * 3 - len(DIVERGED)) * EPOCHS + 3 * len(DIVERGED)
    history = classification_record("no_norm", 1).metrics["history"]
    own = [row for row in curves if (row["variant"], row["seed"]) == ("no_norm", "1")]
    assert [float(row["loss"]) for row in own] == pytest.approx([epoch["loss"] for epoch in history], rel=1e-5)
