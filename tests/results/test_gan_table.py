"""results/gan.csv, and the samples that go with it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from normbench.results.tables import aggregate
from normbench.system import files
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


def columns(record: Path, fid: float | None, missing: dict[str, str], **columns: float) -> None:
    """Gives a record the scores of a GAN beside its FID."""
    metrics = files.read_json(record)["metrics"]
    edit(record, metrics=metrics | {"fid": fid, "columns": columns, "missing": missing})


def test_every_score_has_columns_with_both_spreads_in_a_fixed_order(suite: None) -> None:
    few = {"inception_fid": "too few", "inception_fid_sampling": "too few"}
    for seed, kid in zip(SEEDS, (0.001, 0.002, 0.006), strict=True):
        one = {"fid_sampling": 0.3 + 0.1 * seed, "classifier_kid": kid, "classifier_kid_sampling": 0.001}
        columns(place("spectral_norm_alone", seed, "gan"), 35.0 + seed, few, inception_recall=0.5, **one)
    aggregate()
    found, other = rows("results/gan.csv")
    names = ["fid", "fid_std", "fid_verdict", "fid_sampling"]
    names += ["classifier_kid", "classifier_kid_std", "classifier_kid_sampling", "inception_fid", "inception_fid_std"]
    names += ["inception_fid_verdict", "inception_recall", "inception_recall_std", "peak_memory_mib"]
    assert list(found)[3 : 3 + len(names)] == names
    assert float(found["classifier_kid"]) == pytest.approx(0.003)
    assert float(found["classifier_kid_std"]) == pytest.approx(statistics.stdev([0.001, 0.002, 0.006]), rel=1e-5)
    assert float(found["fid_sampling"]) == pytest.approx(((0.3**2 + 0.4**2 + 0.5**2) / 3) ** 0.5, rel=1e-5)
    assert (found["inception_fid"], found["inception_recall"]) == ("", "0.5")
    assert "inception_fid, inception_fid_std: too few" in found["missing"]
    assert other["classifier_kid"] == ""
    assert "no finished run was scored with it" in other["missing"]


def test_the_fids_of_two_networks_are_compared_each_for_itself(suite: None) -> None:
    for variant in ("spectral_norm_alone", "batch_norm"):
        for seed in SEEDS[1:]:
            columns(place(variant, seed, "gan"), None, {"fid": "too few"}, inception_fid=20.0 + seed + len(variant))
    edit(place("spectral_norm_alone", SEEDS[0], "gan"), status="diverged", diverged={"step": 3}, metrics={})
    aggregate()
    assert [(row["variant"], row["fid"], row["inception_fid"]) for row in rows("results/gan.csv")] == [
        ("batch_norm", "", "31.5"),
        ("spectral_norm_alone", "", "40.5"),
    ]
    compared = [row for row in rows("results/comparisons.csv") if row["kind"] == "gan"]
    assert {row["measure"] for row in compared} == {"inception_fid"}
    assert [abs(float(row["difference"])) for row in compared] == [9.0]
    assert "FID (Inception)" in Path("results/gan.tex").read_text(encoding="utf-8")
