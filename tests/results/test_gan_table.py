"""results/gan.csv, and the samples that go with it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from normbench.results.tables import aggregate
from normbench.system.errors import UserError
from tests.results.made_up_suite import GAN_TASK, SEEDS, edit, place, rows


def test_fid_is_a_mean_over_finished_runs_and_the_lowest_comes_first(suite: None) -> None:
    aggregate()
    found = rows("results/gan.csv")
    assert [(r["variant"], r["method"], r["fid"], r["fid_std"], r["finished"], r["diverged"]) for r in found] == [
        ("spectral_norm_alone", "spectral_norm", "35.250", "1.000", "3", "0"),
        ("batch_norm", "batch_norm", "63.000", f"{statistics.stdev([62.5, 63.5]):.3f}", "2", "1"),
    ]


def test_a_variant_that_never_finished_comes_last_and_has_no_samples(suite: None) -> None:
    for seed in SEEDS:
        edit(place("spectral_norm_alone", seed, "gan"), status="diverged", diverged={"step": 3}, metrics={})
    aggregate()
    assert [(row["variant"], row["fid"], row["diverged"]) for row in rows("results/gan.csv")] == [
        ("batch_norm", "63.000", "1"),
        ("spectral_norm_alone", "", "3"),
    ]
    assert not Path(f"build/tables/samples/{GAN_TASK}/spectral_norm_alone").exists()


def test_samples_are_those_of_every_finished_run(suite: None) -> None:
    """The run of batch_norm with seed 0 diverged."""
    aggregate()
    samples = sorted(
        str(path.relative_to("build/tables/samples")) for path in Path("build/tables/samples").rglob("*.png")
    )
    of_runs = [("batch_norm", 1), ("batch_norm", 2), *(("spectral_norm_alone", seed) for seed in range(3))]
    assert samples == [f"{GAN_TASK}/{variant}/{seed}.png" for variant, seed in of_runs]


def test_missing_samples_are_named(suite: None) -> None:
    path = place("spectral_norm_alone", 0, "gan").with_suffix(".png")
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file; `python -m stages.fid --task {GAN_TASK}"):
        aggregate()
