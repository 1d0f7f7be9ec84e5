"""Made-up tables for charts: those columns that charts read, of suites of any size and with any kind of gap."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from normbench.corruptions.constants import EXTRA, MAIN

CORRUPTIONS = [*MAIN, *EXTRA]
LAYERS = ["conv", "stages.0.0.conv1", "stages.0.0.conv2", "stages.1.0.conv1", "stages.1.0.conv2", "head"]
MEASURES = ["clean_accuracy", "corruption_accuracy", "corruption_noise", "corruption_blur", "attack_fgsm", "attack_pgd"]
TASK, GAN_TASK = "digits-resnet8", "digits-sngan"
TABLES = (
    "runs",
    "leaderboard",
    "gan",
    "speeds",
    "comparisons",
    "robustness",
    "corruptions",
    "layers",
    "features",
    "curves",
    "gan_curves",
    "gan_norms",
    "overall",
)
Rows = dict[str, list[dict[str, Any]]]  # by table


def chart_tables(
    variants: list[str],
    seeds: int = 3,
    epochs: int = 12,
    severities: tuple[int, ...] = (1, 2, 3, 4, 5),
    failed: tuple[tuple[str, int], ...] = (),
    unmeasured: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (TASK,),
) -> dict[str, pd.DataFrame]:
    """Returns the tables of a suite whose first variant is the baseline.

    failed: variant and seed of runs that diverged. unmeasured: variants without smoothness and attacks.
    """
    draw = np.random.default_rng(0)
    rows: Rows = {name: [] for name in TABLES}
    for task in tasks:
        for place, variant in enumerate(variants):
            _variant(rows, draw, task, variant, place, seeds, epochs, severities, failed, variant in unmeasured)
        rows["comparisons"] += [
            _comparison(draw, "classification", task, measure, *pair, seeds)
            for measure in MEASURES
            for pair in itertools.combinations(variants, 2)
        ]
    for variant in variants[:2]:
        _gan(rows, draw, variant, seeds)
    if len(variants) > 1:
        rows["comparisons"].append(_comparison(draw, "gan", GAN_TASK, "fid", *variants[:2], seeds))
    if len(tasks) > 1:
        rows["overall"] = [_overall(draw, variant, place, len(tasks)) for place, variant in enumerate(variants)]
    return {name: pd.DataFrame(each) for name, each in rows.items()}


def _variant(
    rows: Rows,
    draw: np.random.Generator,
    task: str,
    variant: str,
    place: int,
    seeds: int,
    epochs: int,
    severities: tuple[int, ...],
    failed: tuple[tuple[str, int], ...],
    unmeasured: bool,
) -> None:
    level, speed = 0.9 + 0.08 * draw.random(), 10 ** draw.uniform(2.5, 4)
    clean, corrupted = [], []
    for seed in range(seeds):
        bad = (variant, seed) in failed
        accuracy, under = level + draw.normal(0, 0.005), level - 0.15 + draw.normal(0, 0.01)
        run = {"kind": "classification", "task": task, "variant": variant, "method": variant, "seed": seed}
        run |= {"status": "diverged" if bad else "finished", "fid": math.nan, "tuned": 0}
        run |= {"clean_accuracy": math.nan if bad else accuracy, "corruption_accuracy": math.nan if bad else under}
        attacked = bad or unmeasured
        run |= {
            name: math.nan if attacked else share * accuracy + draw.normal(0, 0.01)
            for name, share in (
                ("attack_clean", 1),
                ("attack_fgsm", 0.85),
                ("attack_pgd", 0.7),
                ("attack_pgd_long", 0.68),
            )
        }
        run |= {"ece": math.nan if bad else 0.02 + 0.1 * draw.random(), "nll": math.nan if bad else 0.1 + draw.random()}
        run |= {
            "corrupted_ece": math.nan if bad else 0.1 + 0.2 * draw.random(),
            "corrupted_nll": math.nan if bad else 1 + draw.random(),
        }
        rows["runs"].append(run | {"run": f"{place:04x}{seed:04x}"})
        if not bad:
            clean.append(accuracy)
            corrupted.append(under)
        for epoch in range(1, (max(1, epochs // 3) if bad else epochs) + 1):
            loss = 2.3 * math.exp(-4 * epoch / epochs) + 0.02 + 0.05 * draw.random()
            rows["curves"].append(
                {
                    "task": task,
                    "variant": variant,
                    "seed": seed,
                    "epoch": epoch,
                    "loss": loss,
                    "accuracy": 1 - loss / 3,
                    "lr": 0.1,
                }
            )
    own = pd.DataFrame([run for run in rows["runs"] if run["variant"] == variant and run["task"] == task])

    def mean(column: str) -> float:
        return float(own[column].mean())

    def std(column: str) -> float:
        return float(own[column].std())

    key = {"task": task, "variant": variant}
    rows["leaderboard"].append(
        {
            **key,
            "method": variant,
            "tuned": 0,
            **{
                f"{name}{end}": of(name)
                for name in ("clean_accuracy", "corruption_accuracy")
                for end, of in (("", mean), ("_std", std))
            },
            "mce": 100 * (1 - mean("corruption_accuracy")) / 0.2,
            "peak_memory_mib": draw.uniform(40, 150),
            "parameters": int(draw.integers(70_000, 90_000)),
            "finished": len(clean),
            "diverged": seeds - len(clean),
        }
    )
    rows["speeds"].append(
        {
            "kind": "classification",
            **key,
            "images_per_second": speed,
            "images_per_second_std": 0.05 * speed,
            "seconds": 9e4 / speed,
            "seconds_std": 1.0,
            "ratio": speed / 5000,
            "missing": "",
        }
    )
    scores = [
        "nll",
        "ece",
        "corrupted_nll",
        "corrupted_ece",
        "attack_clean",
        "attack_fgsm",
        "attack_pgd",
        "attack_pgd_long",
    ]
    rows["robustness"].append(key | {name: mean(name) for name in scores} | {"warnings": 0})
    for number, name in enumerate(CORRUPTIONS):
        each = [
            mean("clean_accuracy") - 0.01 * severity * (1 + number % 7) * draw.uniform(0.8, 1.2)
            for severity in severities
        ]
        values = dict(zip((f"severity_{severity}" for severity in severities), each, strict=True))
        rows["corruptions"].append(key | {"corruption": name} | values | {"mean": float(np.mean(each))})
    if unmeasured or not clean:
        return
    for number, name in enumerate(LAYERS, 1):
        bound = 10 ** draw.uniform(0, 1.3)
        rows["layers"].append(
            key
            | {"place": number, "layer": name, "bound": bound, "estimate": math.nan if name == "head" else 0.9 * bound}
        )
    for when, block in itertools.product(("initial", "trained"), (1, 2, 3)):
        low = 0.25 if block < 3 else 0.0
        middle = draw.uniform(0.1, 0.2)
        sizes = {"rms": draw.uniform(0.5, 4), "max": draw.uniform(5, 60)}
        energies = {
            "energy_constant": 0.5 - middle,
            "energy_low": low,
            "energy_middle": middle,
            "energy_high": 0.5 - low,
        }
        rows["features"].append(key | {"when": when, "block": block} | sizes | energies)


def _gan(rows: Rows, draw: np.random.Generator, variant: str, seeds: int) -> None:
    key = {"task": GAN_TASK, "variant": variant}
    each = [5 + 10 * draw.random() for _ in range(seeds)]
    for seed, fid in enumerate(each):
        rows["runs"].append(
            {
                "kind": "gan",
                **key,
                "seed": seed,
                "status": "finished",
                "fid": fid,
                "clean_accuracy": math.nan,
                "corruption_accuracy": math.nan,
            }
        )
        for time in range(25, 501, 25):
            norms = {layer: 1 + 3 * draw.random() for layer in LAYERS}
            noted = {
                "discriminator_loss": 1.5 - draw.random(),
                "generator_loss": draw.normal(),
                "diversity": draw.random(),
                "classifier_kid": draw.random() / time,
            }
            row = {**key, "seed": seed, "iteration": time}
            rows["gan_curves"].append(row | noted | {"largest_norm": max(norms.values())})
            rows["gan_norms"] += [row | {"layer": layer, "norm": norm} for layer, norm in norms.items()]
    spread = float(np.std(each, ddof=1)) if seeds > 1 else math.nan
    rows["gan"].append(
        key
        | {"fid": float(np.mean(each)), "fid_std": spread, "peak_memory_mib": draw.uniform(3, 5), "parameters": 35_000}
    )
    rows["speeds"].append(
        {
            "kind": "gan",
            **key,
            "images_per_second": 2000 + 100 * draw.random(),
            "seconds": 2.0,
            "ratio": 1.0,
            "missing": "",
        }
    )


def _comparison(
    draw: np.random.Generator, kind: str, task: str, measure: str, variant: str, other: str, seeds: int
) -> dict[str, Any]:
    difference, half = draw.normal(0, 0.02), draw.uniform(0.005, 0.02)
    found = {
        "kind": kind,
        "task": task,
        "measure": measure,
        "variant": variant,
        "other": other,
        "difference": difference,
    }
    if seeds < 3:
        return found | {"low": math.nan, "high": math.nan, "verdict": math.nan, "smallest_effect": math.nan}
    verdict = "indistinguishable" if abs(difference) < half else ("better" if difference > 0 else "worse")
    return found | {"low": difference - half, "high": difference + half, "verdict": verdict, "smallest_effect": 0.03}


def _overall(draw: np.random.Generator, variant: str, place: int, tasks: int) -> dict[str, Any]:
    iqm, improvement = draw.uniform(0.8, 0.95), math.nan if place == 0 else draw.uniform(0.1, 0.9)
    found = {"variant": variant, "tasks": tasks, "iqm": iqm, "iqm_low": iqm - 0.02, "iqm_high": iqm + 0.02}
    found |= {"improvement": improvement, "improvement_low": improvement - 0.1, "improvement_high": improvement + 0.1}
    return found | {"average_rank": draw.uniform(1, 8), "critical_difference": 2.3}
