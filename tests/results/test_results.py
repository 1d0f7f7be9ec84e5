"""Tables and report from made-up records, against sums in plain Python."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from normbench.corruptions.constants import EXTRA, MAIN
from normbench.results import drawing, report, smoothness_plots, tables
from normbench.system import files
from normbench.system.errors import UserError

TASK, GAN_TASK = "digits-resnet8", "digits-sngan"
SEEDS = [0, 1, 2]
SEVERITIES = [1, 2, 3, 4, 5]
NAMES = [*MAIN, *EXTRA]
EPOCHS = 12
# Clean accuracy, images a second, MiB, parameters; of the last, no run finishes.
VARIANTS: dict[str, tuple[float, float, float, int]] = {
    "batch_norm": (0.982, 5200, 61.5, 77_530),
    "group_norm": (0.975, 4800, 62.1, 77_530),
    "no_norm": (0.931, 6900, 48.0, 77_242),
    "network_deconvolution": (0.9935, 1450, 118.4, 77_242),
    "conv_norm": (0.980, 1900, 141.9, 80_410),
    "spectral_batch_norm": (0.978, 5000, 63.3, 77_530),
    "fantastic_four": (0.984, 3900, 66.0, 77_530),
    "spectral_norm": (0.1, 4100, 62.8, 77_530),
}
GAN_VARIANTS = ["batch_norm", "spectral_norm_alone"]
UNMEASURED, UNBOUNDED = "conv_norm", "group_norm"  # neither smoothness nor features; no bound on the network
LAYERS = ["conv", "stages.0.0.conv1", "stages.0.0.conv2", "head"]
DIVERGED = {("no_norm", 1), *(("spectral_norm", seed) for seed in SEEDS)}


def origin(task: dict[str, Any], variant: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "variant": {"name": variant, "method": method, "options": options, "method_code": "0" * 64},
        "dataset": {
            "name": "digits",
            "path": "build/data/digits",
            "fingerprint": "5a" * 32,
            "classes": 10,
            "channels": 1,
            "image_size": 16,
            "train": 1437,
            "test": 360,
            "origin": "/home/somebody/digits.npz",
        },
        "code_fingerprint": "1" * 64,
        "git": {"revision": "0123456789abcdef" * 2 + "01234567", "dirty": True},
        "versions": {"python": "3.12.4", "torch": "2.9.0", "numpy": "2.3.1"},
        "numerics": {"precision": "float32", "memory_format": "channels_last", "step_seconds": None},
        "device": {"type": "cpu", "name": "Some CPU", "cpu": "Some CPU", "cores": 8, "system": "Linux", "threads": 4},
        "started": "2026-03-01T10:00:00+00:00",
        "ended": "2026-03-01T10:05:00+00:00",
    }


def smoothness(variant: str, seed: int) -> dict[str, Any]:
    """As lipschitz.smoothness leaves it; of the variant without a bound, only the first layer has one."""
    draw = random.Random(f"{variant}/{seed}/smoothness")
    layers = []
    for name in LAYERS[:1] if variant == UNBOUNDED else LAYERS:
        bound = draw.uniform(1, 9)
        filtered = variant == "network_deconvolution" and name == "conv"
        layers.append({"name": name, "bound": bound, "estimate": None if filtered else 0.9 * bound})
    found: dict[str, Any] = {"layers": layers}
    found["local"] = {"mean": draw.uniform(3, 9), "max": draw.uniform(9, 20), "examples": 100}
    if variant == UNBOUNDED:
        return found | {"product": None, "bound": None, "why": "no Lipschitz constant is known for GroupNorm"}
    product = math.prod(layer["bound"] for layer in layers)
    certified = {"8": draw.uniform(0.5, 0.9), "36": draw.uniform(0, 0.5)}
    return found | {"product": product, "bound": 3 * product, "certified": certified}


def features(variant: str, seed: int) -> dict[str, Any]:
    """Of two blocks, the second of which is too small to have low frequencies."""
    draw = random.Random(f"{variant}/{seed}/features")
    found: dict[str, Any] = {"initial": [], "trained": []}
    for blocks in found.values():
        for low in (0.25, 0.0):
            middle = draw.uniform(0.1, 0.2)
            shares = {"mean": 0.5 - middle, "low": low, "middle": middle, "high": 0.5 - low}
            blocks.append({"rms": draw.uniform(0.5, 4), "max": draw.uniform(5, 60)} | shares)
    return found


def classification_record(variant: str, seed: int) -> dict[str, Any]:
    draw = random.Random(f"{variant}/{seed}")
    clean, speed, memory, parameters = VARIANTS[variant]
    broke = (variant, seed) in DIVERGED
    epochs = 3 if broke else EPOCHS
    loss = [2.3 * math.exp(-0.35 * (1.5 if clean > 0.99 else 1) * e) + draw.uniform(0.01, 0.03) for e in range(epochs)]
    lr = [0.05 * (1 + math.cos(math.pi * e / EPOCHS)) for e in range(epochs)]
    history = [{"epoch": e + 1, "lr": lr[e], "loss": loss[e], "accuracy": 1 - loss[e] / 3} for e in range(epochs)]
    metrics: dict[str, Any] = {"history": history}
    task = {"name": TASK, "dataset": "digits", "model": "resnet8", "model_options": {"width": 16}, "seed": 0}
    task |= {"seeds": SEEDS, "recipe": {"epochs": EPOCHS, "batch_size": 64, "lr": 0.1, "gradient_clip": None}}
    options = {"placement": "last_stage"} if variant == "spectral_batch_norm" else {}
    provenance = origin(task, variant, variant, options)
    if not broke:
        metrics["clean_accuracy"] = clean + draw.uniform(-0.003, 0.003)
        metrics["corruption_accuracy"] = {
            name: [clean - 0.01 * s * (1 + NAMES.index(name) % 7) * draw.uniform(0.9, 1.1) for s in SEVERITIES]
            for name in sorted(NAMES)
        }
        provenance["corrupted"] = {"names": NAMES, "severities": SEVERITIES, "path": "build/corrupted/digits"}
        if variant != UNMEASURED:
            metrics |= {"smoothness": smoothness(variant, seed), "features": features(variant, seed)}
    return {
        "run": "0" * 16,
        "kind": "classification",
        "seed": seed,
        "status": "diverged" if broke else "finished",
        "diverged": {"epoch": 3, "step": 70} if broke else None,
        "metrics": metrics,
        "cost": {
            "images_per_second": None if variant == "spectral_norm" else speed * draw.uniform(0.95, 1.05),
            "peak_memory_bytes": int(memory * 2**20),
            "parameters": parameters,
            "epoch_seconds": [1437 / speed] * epochs,
            "seconds": {"setup": 0.1, "train": 20000 / speed, "evaluate": 0.2, "save": 0.05, "corruptions": 1.5},
        },
        "provenance": provenance,
    }


def gan_record(variant: str, seed: int) -> dict[str, Any]:
    broke = variant == "batch_norm" and seed == 0
    task = {"name": GAN_TASK, "dataset": "digits", "model": "sngan", "model_options": {"width": 32}, "seed": 0}
    task |= {"seeds": SEEDS, "recipe": {"iterations": 400, "batch_size": 64, "lr": 2e-4}}
    method, options = ("spectral_norm", {"batch_norm": False}) if variant == "spectral_norm_alone" else (variant, {})
    return {
        "run": "1" * 16,
        "kind": "gan",
        "seed": seed,
        "status": "diverged" if broke else "finished",
        "diverged": {"step": 12} if broke else None,
        "metrics": {} if broke else {"fid": {"batch_norm": 61.5, "spectral_norm_alone": 34.25}[variant] + seed},
        "cost": {
            "images_per_second": 2100.0 + seed,
            "peak_memory_bytes": 90 * 2**20,
            "parameters": 411_905,
            "seconds": {"setup": 0.2, "train": 31.0, "fid": 3.0},
        },
        "provenance": origin(task, variant, method, options),
    }


def write_suite(**changed: Any) -> dict[str, Any]:
    """The inputs of `aggregate` below the working directory; returns the suite."""
    suite = {
        "seed": 0,
        "seeds": SEEDS,
        "datasets": ["digits"],
        "tasks": [TASK],
        "variants": list(VARIANTS),
        "baseline": "batch_norm",
        "gan_tasks": [GAN_TASK],
        "gan_variants": GAN_VARIANTS,
    } | changed
    files.write_json("build/resolved/suite.json", suite)
    files.write_json("build/resolved/corruptions.json", {"names": NAMES, "severities": SEVERITIES, "seed": 0})
    for variant in VARIANTS:
        for seed in SEEDS:
            record = classification_record(variant, seed)
            files.write_json(f"build/scores/classification/{TASK}/{variant}/{seed}.json", record)
    for variant in GAN_VARIANTS:
        for seed in SEEDS:
            folder = Path(f"build/scores/gan/{GAN_TASK}/{variant}")
            files.write_json(folder / f"{seed}.json", gan_record(variant, seed))
            noise = random.Random(f"{variant}{seed}").randbytes(128 * 128)
            Image.frombytes("L", (128, 128), noise).save(folder / f"{seed}.png")
    return suite


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return write_suite()


def rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records(variant: str) -> list[dict[str, Any]]:
    """The finished ones of a variant."""
    found = [classification_record(variant, seed) for seed in SEEDS]
    return [record for record in found if record["status"] == "finished"]


def error_sums(variant: str) -> dict[str, float]:
    """Corruption -> error summed over severities, mean over finished runs."""
    runs = records(variant)
    return {n: sum(sum(1 - a for a in r["metrics"]["corruption_accuracy"][n]) for r in runs) / len(runs) for n in NAMES}


def edit(path: str, change: Any) -> None:
    record = files.read_json(path)
    change(record)
    files.write_json(path, record)


def test_leaderboard_against_plain_sums(suite: dict[str, Any]) -> None:
    tables.aggregate()
    found = {row["variant"]: row for row in rows("results/leaderboard.csv")}
    assert list(found["batch_norm"]) == tables.LEADERBOARD
    assert set(found) == set(VARIANTS)
    baseline = error_sums("batch_norm")
    for variant, row in found.items():
        runs = records(variant)
        assert (int(row["finished"]), int(row["diverged"])) == (len(runs), 3 - len(runs))
        assert (row["task"], row["method"], row["mce_corruptions"]) == (TASK, variant, "15")
        assert int(row["parameters"]) == VARIANTS[variant][3]
        assert float(row["peak_memory_mib"]) == pytest.approx(VARIANTS[variant][2], abs=0.006)
        if not runs:
            empty = ["clean_accuracy", "clean_accuracy_std", "corruption_accuracy", "corruption_accuracy_std"]
            assert [row[column] for column in [*empty, "mce", "images_per_second", "seconds"]] == [""] * 7
            continue
        clean = [run["metrics"]["clean_accuracy"] for run in runs]
        corrupted = [sum(map(sum, r["metrics"]["corruption_accuracy"].values())) / (19 * 5) for r in runs]
        own = error_sums(variant)
        mce = 100 * sum(own[name] / baseline[name] for name in MAIN) / 15
        assert float(row["clean_accuracy"]) == pytest.approx(statistics.mean(clean), abs=6e-6)
        assert float(row["clean_accuracy_std"]) == pytest.approx(statistics.stdev(clean), abs=6e-6)
        assert float(row["corruption_accuracy"]) == pytest.approx(statistics.mean(corrupted), abs=6e-6)
        assert float(row["corruption_accuracy_std"]) == pytest.approx(statistics.stdev(corrupted), abs=6e-6)
        assert float(row["mce"]) == pytest.approx(mce, abs=6e-4)
        speeds = [run["cost"]["images_per_second"] for run in runs]
        assert float(row["images_per_second"]) == pytest.approx(statistics.median(speeds), abs=0.06)
        seconds = [sum(run["cost"]["seconds"].values()) for run in runs]
        assert float(row["seconds"]) == pytest.approx(statistics.mean(seconds), abs=6e-3)


def test_leaderboard_is_ordered_by_accuracy_with_the_unfinished_last(suite: dict[str, Any]) -> None:
    tables.aggregate()
    order = [row["variant"] for row in rows("results/leaderboard.csv")]
    accuracy = {v: statistics.mean(r["metrics"]["clean_accuracy"] for r in records(v)) for v in order[:-1]}
    assert order[-1] == "spectral_norm"
    assert order[:-1] == sorted(accuracy, key=lambda variant: -accuracy[variant])


def test_markdown_says_what_the_csv_says(suite: dict[str, Any]) -> None:
    tables.aggregate()
    text = Path("results/leaderboard.md").read_text(encoding="utf-8")
    assert "relative to `batch_norm`, over 15 of the 15 main corruptions" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    shown = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in shown}) == 1
    for cells, row in zip(shown[2:], rows("results/leaderboard.csv"), strict=True):
        assert cells[:2] == [row["task"], row["variant"]]
        if row["clean_accuracy"]:
            mean, deviation = cells[2].split(" ± ")
            assert float(mean) == pytest.approx(100 * float(row["clean_accuracy"]), abs=0.006)
            assert float(deviation) == pytest.approx(100 * float(row["clean_accuracy_std"]), abs=0.006)
            assert float(cells[4]) == pytest.approx(float(row["mce"]), abs=0.06)
            assert float(cells[5]) == pytest.approx(float(row["images_per_second"]), abs=0.6)
        assert int(cells[7]) == int(row["parameters"])
    last = {cells[1]: cells for cells in shown[2:]}
    assert last["spectral_norm"][2:6] == ["", "", "", ""]
    assert [last[v][-1] for v in ("spectral_norm", "no_norm", "conv_norm")] == ["diverged 3/3", "diverged 1/3", "3/3"]


def test_costs_are_of_runs_that_had_the_machine_to_themselves() -> None:
    records = [classification_record("batch_norm", seed) for seed in range(3)]
    for record, beside, speed in zip(records, (2, 1, 4), (10.0, 20.0, 30.0), strict=True):
        record["status"], record["provenance"]["device"]["side_by_side"] = "finished", beside
        record["cost"]["images_per_second"] = speed
    found = tables.cost(records)
    assert (found["images_per_second"], found["finished"], found["side_by_side"]) == (20.0, 3, 1)
    records[1]["provenance"]["device"]["side_by_side"] = 2
    found = tables.cost(records)
    assert (found["images_per_second"], found["side_by_side"]) == (20.0, 4)
    for beside, told in ((1, "runs that had the machine to themselves."), (3, "of which up to 3 shared the machine.")):
        for record in records:
            record["provenance"]["device"]["side_by_side"] = beside
        rows = tables.leaderboard({("t", "batch_norm"): records}, "batch_norm", NAMES)
        assert told in tables.markdown(rows, {"tasks": ["t"], "baseline": "batch_norm"}, NAMES, [])


def test_gan_corruptions_and_curves(suite: dict[str, Any]) -> None:
    tables.aggregate()
    gan = rows("results/gan.csv")
    assert [(r["variant"], r["method"], r["fid"], r["fid_std"], r["finished"], r["diverged"]) for r in gan] == [
        ("spectral_norm_alone", "spectral_norm", "35.250", "1.000", "3", "0"),
        ("batch_norm", "batch_norm", "63.000", f"{statistics.stdev([62.5, 63.5]):.3f}", "2", "1"),
    ]
    grid = {(row["variant"], row["corruption"]): row for row in rows("results/corruptions.csv")}
    assert len(grid) == len(VARIANTS) * len(NAMES)
    row, runs = grid["no_norm", "fog"], records("no_norm")
    for i, severity in enumerate(SEVERITIES):
        expected = statistics.mean(run["metrics"]["corruption_accuracy"]["fog"][i] for run in runs)
        assert float(row[f"severity_{severity}"]) == pytest.approx(expected, abs=6e-6)
    assert float(row["mean"]) == pytest.approx(1 - error_sums("no_norm")["fog"] / 5, abs=6e-6)
    assert set(list(grid["spectral_norm", "fog"].values())[3:]) == {""}

    curves = rows("results/curves.csv")
    assert list(curves[0]) == tables.CURVES
    assert len(curves) == (8 * 3 - len(DIVERGED)) * EPOCHS + 3 * len(DIVERGED)
    history = classification_record("no_norm", 1)["metrics"]["history"]
    own = [row for row in curves if (row["variant"], row["seed"]) == ("no_norm", "1")]
    assert [float(row["loss"]) for row in own] == pytest.approx([epoch["loss"] for epoch in history], rel=1e-5)


def test_a_gan_variant_that_never_finished_comes_last(suite: dict[str, Any]) -> None:
    for seed in SEEDS:
        path = f"build/scores/gan/{GAN_TASK}/spectral_norm_alone/{seed}.json"
        edit(path, lambda record: record.update(status="diverged", metrics={}))
    tables.aggregate()
    gan = rows("results/gan.csv")
    assert [(row["variant"], row["fid"], row["diverged"]) for row in gan] == [
        ("batch_norm", "63.000", "1"),
        ("spectral_norm_alone", "", "3"),
    ]
    assert not Path(f"build/tables/samples/{GAN_TASK}/spectral_norm_alone").exists()


def test_metrics_are_nested_rounded_and_leave_out_what_has_no_value(suite: dict[str, Any]) -> None:
    tables.aggregate()
    metrics = json.loads(Path("results/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {TASK, GAN_TASK}
    assert metrics[TASK]["spectral_norm"] == {}
    assert metrics[TASK]["batch_norm"]["mce"] == 100.0
    assert metrics[GAN_TASK] == {"batch_norm": {"fid": 63.0}, "spectral_norm_alone": {"fid": 35.25}}
    clean = statistics.mean(r["metrics"]["clean_accuracy"] for r in records("conv_norm"))
    assert metrics[TASK]["conv_norm"]["clean_accuracy"] == float(f"{clean:.6g}")


def test_a_task_and_a_gan_task_of_one_name_share_their_metrics() -> None:
    board = [{"task": "t", "variant": "v", "clean_accuracy": 0.5, "corruption_accuracy": math.nan, "mce": math.nan}]
    found = tables.metrics(board, [{"task": "t", "variant": "v", "fid": 2.0}])
    assert found == {"t": {"v": {"clean_accuracy": 0.5, "fid": 2.0}}}


def test_mce_is_over_the_main_corruptions_that_were_run_and_the_chosen_severities(suite: dict[str, Any]) -> None:
    chosen = {"names": ["fog", "spatter", "gaussian_noise"], "severities": [2, 5], "seed": 0}
    files.write_json("build/resolved/corruptions.json", chosen)

    def keep(record: dict[str, Any]) -> None:
        if record["status"] == "finished":
            accuracy = record["metrics"]["corruption_accuracy"]
            found = {name: [accuracy[name][1], accuracy[name][4]] for name in sorted(chosen["names"])}
            record["metrics"]["corruption_accuracy"] = found
            record["provenance"]["corrupted"] = chosen

    for path in Path("build/scores/classification").rglob("*.json"):
        edit(str(path), keep)
    tables.aggregate()
    row = next(row for row in rows("results/leaderboard.csv") if row["variant"] == "conv_norm")

    def error(variant: str, name: str) -> float:
        runs = [run["metrics"]["corruption_accuracy"][name] for run in records(variant)]
        return sum(2 - a[1] - a[4] for a in runs) / len(runs)

    ratios = [error("conv_norm", name) / error("batch_norm", name) for name in ("fog", "gaussian_noise")]
    assert float(row["mce"]) == pytest.approx(100 * statistics.mean(ratios), abs=6e-4)
    assert row["mce_corruptions"] == "2"
    assert "2 of the 15" in Path("results/leaderboard.md").read_text(encoding="utf-8")
    grid = rows("results/corruptions.csv")
    assert list(grid[0]) == ["task", "variant", "corruption", "severity_2", "severity_5", "mean"]


def test_no_mce_without_a_finished_baseline_or_with_one_that_makes_no_error(suite: dict[str, Any]) -> None:
    write_suite(baseline="spectral_norm")
    tables.aggregate()
    assert {row["mce"] for row in rows("results/leaderboard.csv")} == {""}
    write_suite()
    for seed in SEEDS:
        path = f"build/scores/classification/{TASK}/batch_norm/{seed}.json"
        edit(path, lambda record: record["metrics"]["corruption_accuracy"].update(fog=[1.0] * 5))
    tables.aggregate()
    assert {row["mce"] for row in rows("results/leaderboard.csv")} == {""}


def test_one_seed_has_no_spread(suite: dict[str, Any]) -> None:
    write_suite(seeds=[2], variants=["batch_norm", "network_deconvolution", "spectral_norm"])
    tables.aggregate()
    for row in rows("results/leaderboard.csv"):
        assert row["clean_accuracy_std"] == row["corruption_accuracy_std"] == ""
    assert " ± 0" not in Path("results/leaderboard.md").read_text(encoding="utf-8")
    report.report()
    assert 'class="best"' not in Path("results/report.html").read_text(encoding="utf-8")


def test_only_what_the_suite_names_is_read(suite: dict[str, Any]) -> None:
    write_suite(variants=["group_norm", "batch_norm"], gan_tasks=[], gan_variants=[])
    stale = Path(f"build/scores/classification/{TASK}/conv_norm/0.json")
    stale.write_text("not JSON", encoding="utf-8")
    tables.aggregate()
    assert {row["variant"] for row in rows("results/leaderboard.csv")} == {"group_norm", "batch_norm"}
    assert Path("results/gan.csv").read_text(encoding="utf-8") == ",".join(tables.GAN) + "\n"


def test_tables_without_classification_have_their_header(suite: dict[str, Any]) -> None:
    write_suite(tasks=[], variants=[], baseline=None)
    tables.aggregate()
    for name, columns in (("leaderboard", tables.LEADERBOARD), ("curves", tables.CURVES)):
        assert Path(f"results/{name}.csv").read_text(encoding="utf-8") == ",".join(columns) + "\n"
    header = "task,variant,corruption,severity_1,severity_2,severity_3,severity_4,severity_5,mean\n"
    assert Path("results/corruptions.csv").read_text(encoding="utf-8") == header
    assert Path("results/leaderboard.md").read_text(encoding="utf-8").count("\n|") == 2
    report.report()
    assert "mCE" not in Path("results/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "task"), [("classification", TASK), ("gan", GAN_TASK)])
def test_a_missing_record_is_named_and_leaves_the_old_tables(suite: dict[str, Any], kind: str, task: str) -> None:
    tables.aggregate()
    before = Path("results/leaderboard.csv").read_bytes()
    path = f"build/scores/{kind}/{task}/batch_norm/1.json"
    Path(path).unlink()
    with pytest.raises(UserError, match=re.escape(path)) as error:
        tables.aggregate()
    assert "\n" not in str(error.value)
    assert Path("results/leaderboard.csv").read_bytes() == before


def test_a_record_of_other_severities_is_refused(suite: dict[str, Any]) -> None:
    files.write_json("build/resolved/corruptions.json", {"names": NAMES, "severities": [1, 2, 3, 4], "seed": 0})
    with pytest.raises(UserError, match=r"batch_norm/0\.json: evaluated on 19 corruptions at severities \[1, 2, 3"):
        tables.aggregate()


def test_provenance_counts_what_differs_and_keeps_no_path(suite: dict[str, Any]) -> None:
    path = f"build/scores/classification/{TASK}/conv_norm/1.json"
    edit(path, lambda record: record["provenance"]["device"].update(name="Some GPU", cuda="12.8"))
    tables.aggregate()
    facts = files.read_json("build/tables/provenance.json")
    assert [(device["name"], device["runs"]) for device in facts["devices"]] == [("Some CPU", 29), ("Some GPU", 1)]
    assert facts["git"] == [{"revision": "0123456789abcdef" * 2 + "01234567", "dirty": True, "runs": 30}]
    assert facts["datasets"]["digits"]["fingerprint"] == "5a" * 32
    assert "arXiv 1905.11926" in facts["variants"]["network_deconvolution"]["about"]
    assert "/home" not in Path("build/tables/provenance.json").read_text(encoding="utf-8")
    samples = sorted(str(path.relative_to("build/tables/samples")) for path in Path("build/tables").rglob("*.png"))
    assert samples == [f"{GAN_TASK}/batch_norm/1.png", f"{GAN_TASK}/spectral_norm_alone/0.png"]
    assert report.machine(facts["devices"][1]) == "Some GPU, 4 of 8 cores, CUDA 12.8, Linux"


def test_mixed_precisions_are_told(suite: dict[str, Any]) -> None:
    tables.aggregate()
    report.report()
    before = Path("results/report.html").read_text(encoding="utf-8")
    assert "Computed in float32, channels_last." in before
    assert "different precisions" not in before + Path("results/leaderboard.md").read_text(encoding="utf-8")
    for seed in (0, 1):
        path = f"build/scores/classification/{TASK}/conv_norm/{seed}.json"
        edit(path, lambda record: record["provenance"]["numerics"].update(precision="bfloat16"))
    tables.aggregate()
    report.report()
    assert f"different precisions stand side by side in {TASK}." in Path("results/leaderboard.md").read_text("utf-8")
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert page.count("Runs of different precisions stand side by side") == 1
    count = len(VARIANTS) * len(SEEDS)
    assert f"Computed in float32, channels_last ({count - 2} runs); bfloat16, channels_last (2 runs)." in page


def test_costs_of_different_devices_are_told(suite: dict[str, Any]) -> None:
    """But not where all that a reader sees are those of one device."""
    told = "do not compare them"

    def page() -> str:
        tables.aggregate()
        report.report()
        return Path("results/report.html").read_text(encoding="utf-8")

    assert told not in page()
    for seed in (0, 1):
        path = f"build/scores/classification/{TASK}/conv_norm/{seed}.json"
        edit(path, lambda record: record["provenance"]["device"].update(side_by_side=2, threads=2))
    assert told not in page()
    path = f"build/scores/classification/{TASK}/conv_norm/2.json"
    edit(path, lambda record: record["provenance"]["device"].update(name="Some GPU"))
    assert told in page()


class Page(html.parser.HTMLParser):
    """Collects what a page loads and links to, its ids and its tables; fails where elements are not nested."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.uses: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        values = {key: value or "" for key, value in attributes}
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.loads += [values[key] for key in ("src", "srcset", "href", "xlink:href", "data") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        self.uses += re.findall(r"url\(#([^)]+)\)", " ".join(values.values()))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            if "best" in values.get("class", "").split():
                self.marked.append(self.rows[-1][0])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if ("td" in self.open or "th" in self.open) and "small" not in self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the whole suite was aggregated and reported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("suite"))
        write_suite()
        tables.aggregate()
        report.report()
        yield Path.cwd()


@pytest.fixture
def page(folder: Path) -> str:
    return (folder / "results/report.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    found = Page(page)
    assert "script" not in found.seen
    assert "link" not in found.seen
    assert len(found.ids) == len(set(found.ids))
    inner = [load.removeprefix("#") for load in found.loads if load.startswith("#")] + found.uses
    assert inner
    assert set(inner) <= set(found.ids)
    rest = [load for load in found.loads if not load.startswith("#")]
    assert len(rest) == len(GAN_VARIANTS)
    assert all(load.startswith("data:image/png;base64,") for load in rest)
    assert all(link.startswith("https://arxiv.org/abs/") for link in found.links)
    assert len(re.findall(r"https?://", page)) == len(found.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(?<![\w.\"=)])/(home|tmp|root|work|usr)/", page)


def test_page_has_the_numbers_and_marks_only_a_clear_best(page: str) -> None:
    found = Page(page)
    shown = {row[0].strip(): [cell.strip() for cell in row] for row in found.rows if len(row) == 9}
    clean = [run["metrics"]["clean_accuracy"] for run in records("network_deconvolution")]
    best = shown["network_deconvolution"]
    assert best[1] == f"{100 * statistics.mean(clean):.2f} ± {100 * statistics.stdev(clean):.2f}"
    assert shown["batch_normbaseline"][3] == "100.0"
    dash = "\N{EN DASH}"
    assert shown["spectral_norm"][1:] == [dash, dash, dash, dash, "62.8", "77,530", dash, "diverged 3/3"]
    assert [name.strip() for name in found.marked] == ["network_deconvolution"] * 2 + ["spectral_norm_alone"]
    assert found.seen >= {"svg", "figure", "dl", "h2"}
    assert page.count('role="img"') == 4 + 3
    assert "arXiv 2103.00673" in page
    assert "5a5a5a5a5a5a5a5a" in page
    assert "0123456789ab</code> with uncommitted changes" in page


def test_page_is_the_same_for_the_same_tables(page: str, folder: Path) -> None:
    assert report.render(folder / "build/tables") == page


@pytest.mark.parametrize(
    ("second", "clear"),
    [((0.90, 0.01), True), ((0.93, 0.02), False), ((0.94, math.nan), True), ((math.nan, math.nan), False)],
)
def test_best_is_clear_only_beyond_both_spreads(second: tuple[float, float], clear: bool) -> None:
    values = {"a": (0.95, 0.005), "b": second}
    listed = [{"variant": name, "x": mean, "x_std": deviation} for name, (mean, deviation) in values.items()]
    assert (report.clear_best(listed, "x", True) == "a") is clear
    mirrored = [row | {"x": -row["x"]} for row in listed]
    assert (report.clear_best(mirrored, "x", False) == "a") is clear


def test_best_needs_a_spread_of_its_own() -> None:
    listed = [{"variant": "a", "x": 0.9, "x_std": math.nan}, {"variant": "b", "x": 0.5, "x_std": 0.01}]
    assert report.clear_best(listed, "x", True) is None


def test_a_variant_is_drawn_alike_and_unlike_others() -> None:
    looks = [drawing.Look(i) for i in range(32)]
    assert len({(look.colour, look.marker) for look in looks}) == 32
    assert len({(look.colour, look.line) for look in looks}) == 32


def test_names_that_pandas_or_html_would_read_otherwise(suite: dict[str, Any]) -> None:
    folder = Path(f"build/scores/classification/{TASK}")
    names = ["batch_norm", "NA", "1", "null"]
    for name in names[1:]:
        files.write_json("build/resolved/suite.json", write_suite(variants=names))
        for seed in SEEDS:
            record = classification_record("conv_norm", seed)
            record["provenance"]["variant"]["method"] = "my_methods/<b>.py:Mine & Yours"
            files.write_json(folder / name / f"{seed}.json", record)
    tables.aggregate()
    report.report()
    page = Path("results/report.html").read_text(encoding="utf-8")
    found = Page(page)
    assert {"NA", "1", "null"} <= {row[0].strip() for row in found.rows if len(row) == 9}
    assert "my_methods/&lt;b&gt;.py:Mine &amp; Yours" in page


def test_robustness_table_and_its_columns_in_the_report(suite: dict[str, Any]) -> None:
    """Means over finished runs and cells; a variant without batch statistics has none; a warning shows."""
    measured = ["batch_norm", "group_norm"]
    for variant in measured:
        for seed in SEEDS:
            path = Path(f"build/scores/classification/{TASK}/{variant}/{seed}.json")
            record = files.read_json(path)
            if record["status"] != "finished":
                continue
            metrics = record["metrics"]
            metrics["calibration"] = {"nll": 0.5 + seed, "brier": 0.2, "ece": 0.04}
            metrics["corruption_calibration"] = {
                name: {"nll": [1.0 + s for s in SEVERITIES], "brier": [0.4] * 5, "ece": [0.1 * s for s in SEVERITIES]}
                for name in NAMES
            }
            metrics["attacks"] = {"examples": 50, "clean": 0.9, "fgsm": 0.8, "pgd": 0.2, "warning": "FGSM leaves more"}
            if variant == "batch_norm":
                metrics["attacks"]["auto_attack"] = {"examples": 20, "accuracy": 0.1 + 0.01 * seed}
                half = {name: [0.5] * 5 for name in NAMES}
                metrics["batch_statistics"] = {"prior": 16, "clean_accuracy": 0.97, "corruption_accuracy": half}
            files.write_json(path, record)
    tables.aggregate()
    found = {row["variant"]: row for row in rows("results/robustness.csv")}
    assert set(found) == set(VARIANTS)
    seeds = [record["seed"] for record in records("batch_norm")]
    row = found["batch_norm"]
    assert float(row["nll"]) == pytest.approx(0.5 + statistics.mean(seeds), abs=1e-5)
    assert float(row["corrupted_nll"]) == pytest.approx(4.0)
    assert float(row["corrupted_ece"]) == pytest.approx(0.3)
    assert float(row["batch_corruption_accuracy"]) == 0.5
    assert float(row["batch_clean_accuracy"]) == 0.97
    assert (row["attack_examples"], float(row["attack_pgd"]), row["attack_pgd_long"]) == ("50", 0.2, "")
    assert row["auto_attack_examples"] == "20"
    assert float(row["auto_attack"]) == pytest.approx(0.1 + 0.01 * statistics.mean(seeds), abs=1e-5)
    assert found["group_norm"]["auto_attack"] == found["group_norm"]["auto_attack_examples"] == ""
    assert row["warnings"] == str(len(seeds))
    # Relative mCE of the baseline against itself is 100; its mCE with half of all images wrong is far above.
    assert float(row["relative_mce"]) == pytest.approx(100)
    errors = [sum(1 - a for r in records("batch_norm") for a in r["metrics"]["corruption_accuracy"][n]) for n in MAIN]
    expected = statistics.mean(100 * 5 * 0.5 * len(seeds) / error for error in errors)
    assert float(row["batch_mce"]) == pytest.approx(expected, rel=1e-5)
    assert found["group_norm"]["batch_mce"] == found["group_norm"]["batch_clean_accuracy"] == ""
    assert found["conv_norm"]["nll"] == ""
    page = report.render(Path("build/tables"))
    assert "Calibration and robustness" in page
    assert "cannot be trusted: batch_norm, group_norm" in page
    assert "AutoAttack<" in page


def test_smoothness_against_plain_sums(suite: dict[str, Any]) -> None:
    tables.aggregate()
    found = {row["variant"]: row for row in rows("results/smoothness.csv")}
    assert set(found) == set(VARIANTS)
    for variant, row in found.items():
        runs = [] if variant == UNMEASURED else [record["metrics"]["smoothness"] for record in records(variant)]
        bounded = [run for run in runs if run["bound"] is not None]
        expected = {
            "lipschitz_local": [run["local"]["mean"] for run in runs],
            "lipschitz_local_max": [run["local"]["max"] for run in runs],
            "lipschitz_bound": [run["bound"] for run in bounded],
            "layer_bound_sum": [sum(layer["bound"] for layer in run["layers"]) for run in bounded],
            "layer_bound_max": [max(layer["bound"] for layer in run["layers"]) for run in bounded],
            "certified_8": [run["certified"]["8"] for run in bounded],
            "certified_36": [run["certified"]["36"] for run in bounded],
        }
        columns = [name for column in expected for name in (column, f"{column}_std")]
        assert list(row) == ["task", "variant", "examples", *columns, "no_bound"]
        assert (row["task"], row["examples"]) == (TASK, "100" if runs else "")
        for column, values in expected.items():
            if not values:
                assert row[column] == row[f"{column}_std"] == ""
                continue
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5)
        assert row["no_bound"] == ("no Lipschitz constant is known for GroupNorm" if variant == UNBOUNDED else "")


def test_layers_and_features_against_plain_sums(suite: dict[str, Any]) -> None:
    tables.aggregate()
    measured = [variant for variant in VARIANTS if records(variant) and variant != UNMEASURED]
    layers = {(row["variant"], row["layer"]): row for row in rows("results/layers.csv")}
    own = {variant: LAYERS[:1] if variant == UNBOUNDED else LAYERS for variant in measured}
    assert list(layers) == [(variant, name) for variant, names in own.items() for name in names]
    for (variant, name), row in layers.items():
        place = LAYERS.index(name)
        assert int(row["place"]) == place + 1
        for column in ("bound", "estimate"):
            values = [record["metrics"]["smoothness"]["layers"][place][column] for record in records(variant)]
            if values[0] is None:
                assert row[column] == row[f"{column}_std"] == ""
                continue
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5)
    assert layers["network_deconvolution", "conv"]["estimate"] == ""
    assert layers["network_deconvolution", "head"]["estimate"] != ""

    blocks = {(row["variant"], row["when"], row["block"]): row for row in rows("results/features.csv")}
    assert list(blocks) == [(v, when, block) for v in measured for when in ("initial", "trained") for block in "12"]
    names = {"rms": "rms", "max": "max", "energy_constant": "mean"}
    names |= {f"energy_{band}": band for band in ("low", "middle", "high")}
    for (variant, when, block), row in blocks.items():
        for column, name in names.items():
            values = [record["metrics"]["features"][when][int(block) - 1][name] for record in records(variant)]
            assert float(row[column]) == pytest.approx(statistics.mean(values), rel=1e-5)
            assert float(row[f"{column}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-5, abs=1e-12)
        shares = [float(row[column]) for column in names if column.startswith("energy")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_page_shows_smoothness_and_features(page: str) -> None:
    found = Page(page)
    assert page.count("Smoothness and features") == 1
    shown = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in found.rows if len(row) == 8}
    assert shown.pop("Variant") == ["Lipschitz"] * 3 + ["Norms of layers"] * 2 + ["Certified"] * 2
    shown = {name.removesuffix("baseline"): cells for name, cells in shown.items()}
    assert set(shown) == set(VARIANTS)
    dash = "\N{EN DASH}"
    assert shown[UNMEASURED] == shown["spectral_norm"] == [dash] * 7
    assert shown[UNBOUNDED][2:] == [dash] * 5
    runs = [record["metrics"]["smoothness"] for record in records("fantastic_four")]
    local, certified = ([run["local"]["mean"] for run in runs], [100 * run["certified"]["36"] for run in runs])
    for cell, values in ((0, local), (6, certified)):
        assert shown["fantastic_four"][cell] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert "within 36/255, %" in page
    assert f"{UNBOUNDED} (no Lipschitz constant is known for GroupNorm)" in page
    plots = re.findall(r'aria-label="(?:Norm of each|Size of|Energy of).*?</svg>', page, re.DOTALL)
    assert len(plots) == 3
    for plot in plots:  # the legend names those that have a line
        names = set(re.findall(r">(\w+)</text>", plot))
        assert names & set(VARIANTS) == set(VARIANTS) - {UNMEASURED, "spectral_norm"}
    assert all(f">{name}</text>" in plots[0] for name in LAYERS)


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (math.nan, math.nan, "\N{EN DASH}"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (999.0, math.nan, "999.00"),
        (28_091.3, 4_401.69, "2.81 ± 0.44 \N{MULTIPLICATION SIGN}104"),
        (4.3e7, 5.8e7, "4.30 ± 5.80 \N{MULTIPLICATION SIGN}107"),
    ],
)
def test_large_numbers_have_a_power_of_ten(mean: float, deviation: float, text: str) -> None:
    assert report.quantity(mean, deviation).striptags() == text


def test_layers_of_several_networks_are_one_order() -> None:
    """A layer that only one network has stands behind its predecessor there."""
    lists = [["conv", "a", "head"], ["conv", "norm", "a", "b", "head"], ["conv"], ["stem", "conv", "last"]]
    order = smoothness_plots.merged(pd.Series(names) for names in lists)
    assert sorted(order) == ["a", "b", "conv", "head", "last", "norm", "stem"]
    for names in lists:
        assert [name for name in order if name in names] == names


def test_without_smoothness_there_is_no_section(suite: dict[str, Any]) -> None:
    for path in Path("build/scores/classification").rglob("*.json"):
        edit(str(path), lambda record: [record["metrics"].pop(name, None) for name in ("smoothness", "features")])
    tables.aggregate()
    assert {row["lipschitz_local"] for row in rows("results/smoothness.csv")} == {""}
    for name in ("layers", "features"):
        assert Path(f"results/{name}.csv").read_text(encoding="utf-8").count("\n") == 1
    page = report.render(Path("build/tables"))
    assert "Smoothness and features" not in page
    assert page.count('role="img"') == 4


def test_many_variants_and_layers_of_a_dead_network(suite: dict[str, Any]) -> None:
    """Plots over the whole page; every so many layers named; values of zero, which no logarithm has."""
    names = [*VARIANTS, *(f"more_{i}" for i in range(8))]
    files.write_json("build/resolved/suite.json", write_suite(variants=names))
    for name in names[len(VARIANTS) :]:
        for seed in SEEDS:
            record = classification_record("fantastic_four", seed)
            layers = [{"name": f"layer{i}", "bound": 10.0 ** (i % 9), "estimate": 1.0} for i in range(100)]
            record["metrics"]["smoothness"]["layers"] = layers
            for blocks in record["metrics"]["features"].values():
                blocks[1] = dict.fromkeys(blocks[1], 0.0)
            files.write_json(f"build/scores/classification/{TASK}/{name}/{seed}.json", record)
    tables.aggregate()
    page = report.render(Path("build/tables"))
    Page(page)
    assert 20 < len(re.findall(r">layer\d+</text>", page)) < 50
    assert page.count('<figure class="wide">') == 2 + 3


def test_without_measurements_the_report_shows_what_follows_from_accuracies(suite: dict[str, Any]) -> None:
    tables.aggregate()
    page = report.render(Path("build/tables"))
    assert page.count("Calibration and robustness") == 1  # relative mCE alone needs no more than the accuracies
    assert "<small>clean, %</small>" not in page


def test_a_picture_of_the_corruptions(suite: dict[str, Any]) -> None:
    """A row for each corruption, clean image first; none for a dataset whose corrupted images are not there."""
    tables.aggregate()
    assert "The corruptions of" not in report.render(Path("build/tables"))
    data, corrupted = Path("build/data/digits"), Path("build/corrupted/digits")
    data.mkdir(parents=True)
    corrupted.mkdir(parents=True)
    np.save(data / "test_images.npy", np.zeros((4, 8, 8, 1), np.uint8))
    for number, name in enumerate(("contrast", "fog")):
        np.save(corrupted / f"{name}.npy", np.full((2 * 4, 8, 8, 1), 100 + 50 * number, np.uint8))
    files.write_json(corrupted / "meta.json", {"names": ["contrast", "fog"], "severities": [1, 5]})
    tables.aggregate()
    with Image.open("build/tables/corrupted/digits.png") as picture:
        colours = {colour[:3] for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0, 0, 0), (100, 100, 100), (150, 150, 150)} <= colours
    assert "The corruptions of digits" in report.render(Path("build/tables"))
