"""The pipeline end to end, on a small suite of the real digits, as a user runs it: `dvc repro` in a clone.

The stages are forked from one process, as by `make results`; tests/project/test_everything.py compares that with stages
that run by themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from normbench.runs.record import Record
from normbench.runs.run import Status
from tests.support import forks
from tests.support.project import ROOT, Project, ran
from tests.support.suite_folder import outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which `dvc repro` has run."""
    project = Project.made(tmp_path_factory.mktemp("clone") / "normbench")
    stages = project.repro()
    assert stages[:4] == ["resolve", "download@digits", "corrupt@digits", "bind"]
    assert set(stages[4:]) == {
        "train@small-batch_norm",
        "train@small-group_norm",
        "evaluate@small-batch_norm",
        "evaluate@small-group_norm",
        "gan@small-gan-batch_norm",
        "real@small-gan",
        "fid@small-gan-batch_norm",
        "aggregate",
        "report",
    }
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished clone, for a test to change."""
    shutil.copytree(finished.path, tmp_path / "normbench", symlinks=True)
    return Project(tmp_path / "normbench")


def test_results(finished: Project):
    table = finished.leaderboard()
    assert list(table.index.sort_values()) == ["batch_norm", "group_norm"]
    assert (table.clean_accuracy > 0.2).all()  # chance is 0.1, and this is real training
    assert table.loc["batch_norm", "mce"] == pytest.approx(100)
    assert (table.finished == 2).all()
    gan = pd.read_csv(finished.path / "results/gan.csv")
    assert gan.collapsed.tolist() == [2]  # after four iterations all samples are alike
    assert "all 2 runs collapsed" in gan.missing[0]
    runs = pd.read_csv(finished.path / "results/runs.csv").set_index("kind")
    assert runs.loc["gan", "fid"].notna().all()
    assert "<svg" in (finished.path / "results/report.html").read_text(encoding="utf-8")


def test_record_is_complete(finished: Project):
    record = Record.read(finished.path / "build/scores/classification/small/group_norm/1.json")
    origin = record.provenance
    assert record.finished
    assert record.name == ("small", "group_norm", 1)
    assert origin.task.recipe.epochs == 2
    assert origin.variant.options == {"groups": 32, "channels_per_group": 2, "eps": 1e-5}
    assert len(origin.dataset.fingerprint) == len(origin.code) == 64
    assert {"python", "torch", "numpy"} <= set(origin.versions)
    assert origin.device.type == "cpu"
    assert origin.numerics.threads == 1
    assert origin.numerics.precision == "float32"
    assert origin.started <= origin.ended
    assert origin.dataset.note is None
    assert origin.corrupted is not None
    assert set(origin.corrupted.names) == {"gaussian_noise", "contrast"}
    assert record.cost.resumed is None
    assert record.described_run().id == record.run
    assert set(record.cost.seconds) == {
        *("setup", "compile", "train", "checkpoints", "evaluate", "memory"),
        *("corruptions", "batch_statistics", "filters"),
    }
    assert set(record.metrics["corruption_accuracy"]) == {"gaussian_noise", "contrast"}
    for run in (finished.path / "build/trained").glob("*/*/*"):
        assert {p.name for p in run.iterdir()} == {"record.json", "predictions.npz", "weights.pt"}


def test_nothing_to_do(finished: Project):
    assert finished.changed() == set()
    assert finished.repro() == []


def test_metrics_and_plots(finished: Project):
    shown = json.loads(finished.dvc("metrics", "show", "--json").stdout)
    metrics = shown[""]["data"]["results/metrics/small/batch_norm.json"]["data"]
    assert metrics["clean"] == pytest.approx(finished.leaderboard().loc["batch_norm", "clean_accuracy"], abs=1e-5)
    done = finished.dvc("plots", "show", "--out", "dvc_plots")
    assert done.returncode == 0, done.stderr
    page = (finished.path / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert "group_norm" in page
    assert 'src="http' not in page
    assert (finished.path / "dvc_plots/../build/vega.js").is_file()


def test_a_variant_is_an_edit_of_params(project: Project):
    before = project.records()
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm, group_norm, no_norm]")
    # A stage that has never run shows as changed, and `resolve` reads params.yaml; no other training does.
    assert {s for s in project.changed() if s.startswith(("train", "evaluate", "gan", "real", "fid"))} == {
        "train@small-no_norm",
        "evaluate@small-no_norm",
    }
    project.repro("resolve")
    assert {s for s in project.changed() if s.startswith("train")} == {"train@small-no_norm"}
    stages = project.repro()
    trained = [
        s for s in stages if s.split("@")[0] in ("train", "evaluate", "gan", "real", "fid", "download", "corrupt")
    ]
    assert trained == ["train@small-no_norm", "evaluate@small-no_norm"]
    assert len(project.leaderboard()) == 3
    after = project.records()
    assert {name: after[name] for name in before} == before
    assert project.changed() == set()


def test_a_method_of_ones_own_file(project: Project):
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm, group_norm, mine]")
    project.edit("\nvariants:", "\nvariants:\n  mine: {method: my_methods/rms_norm.py:RMSNorm}")
    stages = project.repro()
    assert [s for s in stages if s.startswith("train")] == ["train@small-mine"]
    assert project.leaderboard().loc["mine", "finished"] == 2
    # The file is watched: an edit trains this variant again, and no other.
    project.edit("keepdim=True)", "keepdim=True) * 1.5", "my_methods/rms_norm.py")
    assert project.changed() == {"resolve"}
    stages = project.repro()
    assert [s for s in stages if s.startswith("train")] == ["train@small-mine"]


def test_a_method_file_elsewhere(project: Project, tmp_path: Path):
    file = tmp_path / "elsewhere.py"
    shutil.copy(ROOT / "my_methods/rms_norm.py", file)
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm, group_norm, mine]")
    project.edit("\nvariants:", f"\nvariants:\n  mine: {{method: {file}:RMSNorm}}")
    assert "train@small-mine" in project.repro("train@small-mine")
    file.write_text(file.read_text().replace("keepdim=True)", "keepdim=True) * 1.5"))
    # DVC does not look there; `normbench check --refresh`, which `make results` calls first, does.
    assert project.normbench("check", "--refresh").returncode == 0
    assert project.repro("train@small-mine")[-1] == "train@small-mine"


def test_more_seeds_keep_the_finished_ones(project: Project):
    before = project.records()
    project.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    project.repro("train@small-batch_norm")
    after = project.records()
    assert after["small/batch_norm/2"].seed == 2
    for seed in (0, 1):
        assert after[f"small/batch_norm/{seed}"] == before[f"small/batch_norm/{seed}"]


def test_a_renamed_variant_keeps_its_runs(project: Project):
    before = project.records()
    project.edit("group_norm", "renamed")
    project.edit("{method: renamed", "{method: group_norm")
    project.repro("train@small-renamed")
    renamed, old = project.records()["small/renamed/0"], before["small/group_norm/0"]
    assert renamed.run == old.run
    assert renamed.provenance.started == old.provenance.started


def test_bit_for_bit(project: Project):
    before = project.records()
    shutil.rmtree(project.path / "runs")
    assert project.repro("--force", "--single-item", "train@small-group_norm") == ["train@small-group_norm"]
    after = project.records()
    for seed in (0, 1):
        old, new = before[f"small/group_norm/{seed}"], after[f"small/group_norm/{seed}"]
        assert outcome(new) == outcome(old)
    assert before["small/group_norm/0"].metrics != before["small/group_norm/1"].metrics


def test_bad_input_ends_in_resolve(project: Project):
    for old, new, line in (
        ("epochs: 2", "epochz: 2", r"tasks.small.recipe.epochz = 2: unknown key; did you mean 'epochs'?"),
        ("variants: [batch_norm, group_norm]", "variants: [batch_norm, grup_norm]", "did you mean 'group_norm'?"),
        ("variants: [batch_norm, group_norm]", "variants: []", "suite.variants = []: empty"),
    ):
        project.edit(old, new)
        done = project.try_repro()
        assert done.returncode != 0
        assert ran(done.stdout) == ["resolve"]
        assert line in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        assert "exited with 1" in done.stderr
        assert len(project.leaderboard()) == 2
        project.edit(new, old)
    assert [s for s in project.repro() if s != "resolve"] == []


def test_the_first_check_of_make_results(project: Project):
    """A key that dvc.yaml itself reads: `normbench check`, which `make results` calls first, says it in one line."""
    project.edit("  variants: [", "  varients: [")
    done = project.normbench("check")
    assert done.returncode == 1
    assert "suite.varients" in done.stderr
    assert "did you mean 'variants'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_divergence_is_a_record(project: Project):
    project.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm, no_norm]")
    project.edit("epochs: 2,", "epochs: 2, lr: 1.0e+9,")
    project.repro()
    record = project.records()["small/no_norm/0"]
    assert record.status is Status.DIVERGED
    assert record.diverged is not None
    assert record.diverged["step"] >= 0
    row = project.leaderboard().loc["no_norm"]
    assert row.diverged == 2
    assert pd.isna(row.clean_accuracy)


def test_a_kill_keeps_finished_seeds(project: Project):
    project.edit("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4, 5, 6, 7]")
    project.repro("bind")  # It takes the runs in the outputs of the stages into the store, so this comes first.
    shutil.rmtree(project.path / "runs")
    command = ["stages.train", "--task", "small", "--variant", "batch_norm"]
    process = forks.start("-m", *command, cwd=project.path, env=project.environment)
    deadline = time.monotonic() + 120
    while not list((project.path / "runs").glob("[0-9a-f]*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p: p.read_bytes() for p in (project.path / "runs").glob("[0-9a-f]*/record.json")}
    assert 1 <= len(kept) < 8
    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before") == len(kept)
    assert {p: p.read_bytes() for p in kept} == kept
    assert len(project.records()) >= 8
