"""Tables of made-up suites of any size, as `aggregate` leaves them in build/tables, for tests of the page alone."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from normbench.corruptions.constants import BENCHMARK
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.facts import facts
from normbench.results.tables.table import Row, Table
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system import files
from tests.support.records import record

TASK, GAN_TASK = "digits-resnet8", "digits-sngan"
SEVERITIES = [1, 5]
GROUPS = ("noise", "blur", "weather", "digital", "extra")
SCORES = ("nll", "ece", "corrupted_nll", "corrupted_ece", "attack_clean", "attack_fgsm", "attack_pgd")
MEASURES = (
    "clean_accuracy",
    "corruption_accuracy",
    *(f"corruption_{group}" for group in GROUPS),
    "attack_fgsm",
    "attack_pgd",
)
Runs = dict[tuple[str, str], list[Row]]  # by task and variant, rows of runs.csv
CLEAR = 0.02  # a difference of accuracies from which on the made-up verdicts are not `indistinguishable`


@dataclass(frozen=True)
class MadeUp:
    """A made-up suite.

    variants: their names; the first is the baseline, and each is a little worse than the one before. more: the number
    of further scores, each a column of its own.
    """

    variants: tuple[str, ...] = ("batch_norm", "group_norm", "no_norm", "conv_norm", "fantastic_four")
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = (TASK,)
    gan_tasks: tuple[str, ...] = (GAN_TASK,)
    gan_variants: tuple[str, ...] = ("batch_norm", "spectral_norm_alone")
    more: int = 0

    @property
    def judged(self) -> bool:
        """Whether there are enough seeds for verdicts."""
        return len(self.seeds) >= 3


def write_tables(folder: Path, made: MadeUp = MadeUp()) -> None:
    """Writes the tables of a suite."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [run for task in made.tasks for run in classifiers(made, task)]
    runs += [run for task in made.gan_tasks for run in gans(made, task)]
    cell: Runs = {}
    for run in runs:
        cell.setdefault((run["task"], run["variant"]), []).append(run)
    tables: dict[str, list[Row]] = {
        "runs": [{name: run.get(name, "") for name in RUN_COLUMNS + extra(made)} for run in runs],
        "leaderboard": [row for task in made.tasks for row in leaderboard(made, task, cell)],
        "gan": [row for task in made.gan_tasks for row in gan(made, task, cell)],
        "speeds": [row for kind, task, name in cells(made) for row in [speed(kind, task, name, made)]],
        "comparisons": list(comparisons(made, cell)),
        "corruptions": [row for task in made.tasks for row in corruptions(made, task)],
        "classes": [row for task in made.tasks for row in classes(made, task)],
        "agreement": [row for task in made.tasks for row in agreement(made, task)],
        "robustness": [row for task in made.tasks for row in robustness(made, task, cell)],
        "smoothness": [row for task in made.tasks for row in smoothness(made, task)],
        "layers": [row for task in made.tasks for row in layers(made, task)],
        "features": [row for task in made.tasks for row in features(made, task)],
        "curves": [row for task in made.tasks for row in curves(made, task)],
        "gan_curves": [row for task in made.gan_tasks for row in gan_curves(made, task)],
        "gan_norms": [row for task in made.gan_tasks for row in gan_norms(made, task)],
    }
    for name, found in tables.items():
        columns = dict.fromkeys(found[0] if found else {"task": ""}, "")
        (folder / f"{name}.csv").write_text(Table(columns, found).csv(), encoding="utf-8")
    files.write_json(folder / "runs.json", [described(run) for run in runs])
    files.write_json(folder / "missing.json", missing(made))
    origin(made).write(folder / "provenance.json")
    for task in made.gan_tasks:
        for name in made.gan_variants:
            place = folder / "samples" / task / name
            place.mkdir(parents=True, exist_ok=True)
            for seed in made.seeds:
                Image.frombytes("L", (64, 64), random.Random(f"{name}{seed}").randbytes(64 * 64)).save(
                    place / f"{seed}.png"
                )
            film = folder / "films" / task / name / f"{made.seeds[0]}.png"
            film.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (68, 136), random.Random(name).randbytes(68 * 136)).save(film)
    for name in ("real", "corrupted"):
        (folder / name).mkdir(exist_ok=True)
        Image.frombytes("L", (64, 64), random.Random(name).randbytes(64 * 64)).save(folder / name / "digits.png")


def extra(made: MadeUp) -> list[str]:
    return [*SCORES, *(f"own_{number}" for number in range(made.more)), *COST_COLUMNS]


RUN_COLUMNS = ["kind", "task", "variant", "method", "seed", "status", "tuned", "clean_accuracy", "corruption_accuracy"]
RUN_COLUMNS += ["fid"]
COST_COLUMNS = ["peak_memory_mib", "parameters", "device", "precision", "memory_format", "run"]


def classifiers(made: MadeUp, task: str) -> list[Row]:
    """The rows of runs.csv: of the last variant one run has diverged."""
    found = []
    for place, name in enumerate(made.variants):
        for seed in made.seeds:
            draw = random.Random(f"{task}/{name}/{seed}")
            clean = 0.98 - 0.008 * place + draw.uniform(-0.002, 0.002)
            diverged = name == made.variants[-1] and seed == made.seeds[-1] and len(made.seeds) > 1
            row = common("classification", task, name, seed) | {"status": "diverged" if diverged else "finished"}
            if not diverged:
                row |= {"clean_accuracy": round(clean, 5), "corruption_accuracy": round(clean - 0.1, 5)}
                row |= {score: round(draw.uniform(0.1, 0.9), 5) for score in extra(made)[: len(SCORES) + made.more]}
            found.append(row)
    return found


def gans(made: MadeUp, task: str) -> list[Row]:
    return [
        common("gan", task, name, seed) | {"status": "finished", "fid": 14 - 6 * place + 0.1 * seed}
        for place, name in enumerate(made.gan_variants)
        for seed in made.seeds
    ]


def common(kind: str, task: str, name: str, seed: int) -> Row:
    identity = random.Random(f"{kind}/{task}/{name}/{seed}").randbytes(8).hex()
    row: Row = {"kind": kind, "task": task, "variant": name, "method": name, "seed": seed, "tuned": 0}
    row |= {"peak_memory_mib": 61.5, "parameters": 77_530, "device": "Some CPU", "precision": "float32"}
    return row | {"memory_format": "channels_last", "run": identity}


def cells(made: MadeUp) -> list[tuple[str, str, str]]:
    found = [("classification", task, name) for task in made.tasks for name in made.variants]
    return found + [("gan", task, name) for task in made.gan_tasks for name in made.gan_variants]


def values(runs: Runs, task: str, variant: str, column: str) -> list[float]:
    return [run[column] for run in runs[task, variant] if run.get(column, "") != ""]


def spread(found: list[float]) -> tuple[float | str, float | str]:
    if not found:
        return "", ""
    mean = sum(found) / len(found)
    if len(found) < 2:
        return round(mean, 5), ""
    return round(mean, 5), round(math.sqrt(sum((x - mean) ** 2 for x in found) / (len(found) - 1)), 5)


def outcomes(made: MadeUp, runs: Runs, task: str, name: str) -> Row:
    ends = [run["status"] for run in runs[task, name]]
    row: Row = {"peak_memory_mib": 61.5, "parameters": 77_530, "runs": len(ends), "finished": ends.count("finished")}
    row |= {"failed": ends.count("diverged"), "diverged": ends.count("diverged"), "collapsed": 0, "missing": ""}
    return row


def leaderboard(made: MadeUp, task: str, runs: Runs) -> list[Row]:
    found = []
    for name in made.variants:
        row: Row = {"task": task, "variant": name, "method": name, "tuned": 0}
        for column in ("clean", "corruption"):
            mean, deviation = spread(values(runs, task, name, f"{column}_accuracy"))
            verdict = judge(made, runs, task, f"{column}_accuracy", name, made.variants[0])
            row |= {f"{column}_accuracy": mean, f"{column}_accuracy_std": deviation, f"{column}_verdict": verdict}
        row |= {"mce": 100.0 + len(found), "mce_corruptions": 15}
        found.append(row | outcomes(made, runs, task, name))
    return found


def gan(made: MadeUp, task: str, runs: Runs) -> list[Row]:
    found = []
    for name in made.gan_variants:
        mean, deviation = spread(values(runs, task, name, "fid"))
        row: Row = {"task": task, "variant": name, "method": name, "fid": mean, "fid_std": deviation, "fid_verdict": ""}
        found.append(row | outcomes(made, runs, task, name))
    return found


def speed(kind: str, task: str, name: str, made: MadeUp) -> Row:
    draw = random.Random(f"{task}/{name}/speed")
    row: Row = {"kind": kind, "task": task, "variant": name, "images_per_second": round(draw.uniform(1000, 6000), 1)}
    row |= {"images_per_second_std": 42.0 if len(made.seeds) > 1 else "", "seconds": 3.21, "seconds_std": ""}
    alone = name != made.variants[1]
    row |= {"compile_seconds": 0.0, "ratio": 0.75 if alone else "", "side_by_side": 1 if alone else 2}
    return row | {"missing": "" if alone else "ratio: timed side by side with other runs"}


def judge(made: MadeUp, runs: Runs, task: str, measure: str, first: str, second: str) -> str:
    a, b = spread(values(runs, task, first, measure))[0], spread(values(runs, task, second, measure))[0]
    if not made.judged or first == second or "" in (a, b):
        return ""
    if measure == "fid":
        return "better" if a < b else "worse"
    return "better" if a - b > CLEAR else "worse" if b - a > CLEAR else "indistinguishable"


def comparisons(made: MadeUp, runs: Runs) -> Any:
    kinds = [("classification", task, made.variants, MEASURES) for task in made.tasks]
    kinds += [("gan", task, made.gan_variants, ("fid",)) for task in made.gan_tasks]
    for kind, task, names, measures in kinds:
        for measure in measures:
            for first, second in itertools.combinations(names, 2):
                known = measure in ("clean_accuracy", "corruption_accuracy", "fid")
                of = measure if known else "clean_accuracy"
                found = [spread(values(runs, task, name, of))[0] for name in (first, second)]
                difference: float | str = "" if "" in found else round(found[0] - found[1], 5)  # type: ignore[operator]
                row: Row = {"kind": kind, "task": task, "measure": measure, "variant": first, "other": second}
                row |= {"seeds": len(made.seeds), "examples": 360, "difference": difference}
                verdict = judge(made, runs, task, of, first, second)
                margin = 2.0 if measure == "fid" else CLEAR
                bounds = verdict and difference != ""
                row |= {"low": round(difference - margin, 5) if bounds else ""}
                row |= {"high": round(difference + margin, 5) if bounds else ""}
                row |= {"p": 0.01 if bounds else "", "p_holm": 0.04 if bounds else "", "p_examples": "", "p_seeds": ""}
                row |= {"verdict": verdict, "smallest_effect": 1.5 * margin if bounds else ""}
                yield row | {"missing": "" if bounds else f"{len(made.seeds)} seeds, and a verdict needs 3"}


def corruptions(made: MadeUp, task: str) -> list[Row]:
    found = []
    for name in made.variants:
        draw = random.Random(f"{task}/{name}/corruptions")
        for corruption in BENCHMARK:
            easy, hard = round(draw.uniform(0.9, 0.98), 5), round(draw.uniform(0.5, 0.9), 5)
            row: Row = {"task": task, "variant": name, "corruption": corruption, "severity_1": easy, "severity_5": hard}
            found.append(row | {"mean": round((easy + hard) / 2, 5), "missing": ""})
    return found


def classes(made: MadeUp, task: str) -> list[Row]:
    return [
        {"task": task, "variant": name, "class": label, "examples": 36, "accuracy": round(0.98 - 0.01 * label, 5)}
        for name in made.variants
        for label in range(10)
    ]


def agreement(made: MadeUp, task: str) -> list[Row]:
    shares = {"both_right": 0.9, "only_first": 0.05, "only_second": 0.03, "both_wrong": 0.02}
    return [
        {"task": task, "variant": first, "other": second, **shares}
        for first, second in itertools.combinations(made.variants, 2)
    ]


def robustness(made: MadeUp, task: str, runs: Runs) -> list[Row]:
    found = []
    for name in made.variants:
        row: Row = {"task": task, "variant": name, "relative_mce": 100.0}
        for score in extra(made)[: len(SCORES) + made.more]:
            row[score] = spread(values(runs, task, name, score))[0]
        found.append(row | {"batch_mce": "", "warnings": 0, "missing": "batch_mce: `batch_statistics` is off"})
    return found


def smoothness(made: MadeUp, task: str) -> list[Row]:
    found = []
    for place, name in enumerate(made.variants):
        row: Row = {"task": task, "variant": name, "examples": 100, "lipschitz_local": 8.9, "lipschitz_local_std": 0.5}
        row |= {"lipschitz_bound": 28_091.3 * (place + 1), "lipschitz_bound_std": 4_401.69}
        row |= {"certified_8": 0.0, "certified_8_std": 0.0, "certified_36": 0.0, "certified_36_std": 0.0}
        found.append(row | {"no_bound": "", "missing": ""})
    return found


def layers(made: MadeUp, task: str) -> list[Row]:
    names = ["conv", "stages.0.0.conv1", "stages.0.0.conv2", "head"]
    return [
        {"task": task, "variant": name, "place": place, "layer": layer, "bound": 4.3 + place, "bound_std": 0.3}
        | {"estimate": 4.0 + place, "estimate_std": 0.2, "missing": ""}
        for name in made.variants
        for place, layer in enumerate(names, 1)
    ]


def features(made: MadeUp, task: str) -> list[Row]:
    bands = {"energy_constant": 0.4, "energy_low": 0.3, "energy_middle": 0.2, "energy_high": 0.1}
    with_stds = {key: value for band, share in bands.items() for key, value in ((band, share), (f"{band}_std", 0.01))}
    return [
        {"task": task, "variant": name, "when": when, "block": block, "rms": 1.0 * block, "rms_std": 0.1}
        | {"max": 6.0 * block, "max_std": 1.0, **with_stds, "missing": ""}
        for name in made.variants
        for when in ("initial", "trained")
        for block in (1, 2)
    ]


def curves(made: MadeUp, task: str) -> list[Row]:
    return [
        {
            "task": task,
            "variant": name,
            "seed": seed,
            "epoch": epoch,
            "lr": 0.1 / epoch,
            "loss": 2.3 / epoch + 0.01 * seed,
        }
        | {"accuracy": 1 - 0.5 / epoch}
        for name in made.variants
        for seed in made.seeds
        for epoch in (1, 2, 3, 4)
    ]


def gan_curves(made: MadeUp, task: str) -> list[Row]:
    return [
        {"task": task, "variant": name, "seed": seed, "iteration": time, "discriminator_loss": 1.5 - 0.01 * time}
        | {"generator_loss": 0.5 + 0.1 * seed, "diversity": 0.3 + 0.01 * time, "largest_norm": 2.0 + 0.1 * seed}
        | {"classifier_kid": 1.0 / time}
        for name in made.gan_variants
        for seed in made.seeds
        for time in (10, 20, 30, 40)
    ]


def gan_norms(made: MadeUp, task: str) -> list[Row]:
    return [
        {name: row[name] for name in ("task", "variant", "seed", "iteration")} | {"layer": layer, "norm": norm}
        for row in gan_curves(made, task)
        for layer, norm in (("layers.0", row["largest_norm"]), ("head", 1.0))
    ]


def described(run: Row) -> dict[str, Any]:
    """An entry of runs.json."""
    kept = {name: run[name] for name in ("kind", "task", "variant", "seed", "status", "run", "method", "tuned")}
    names = ("clean_accuracy", "corruption_accuracy", "fid", *SCORES)
    return kept | {
        "options": {"momentum": 0.1},
        "recipe": {"epochs": 4, "batch_size": 64, "lr": 0.1},
        "model": "resnet8",
        "model_options": {"width": 16},
        "dataset": {"name": "digits", "fingerprint": "5a" * 32, "origin": "digits.npz", "note": None},
        "device": {"type": "cpu", "name": "Some CPU", "cores": 8, "system": "Linux"},
        "versions": {"python": "3.12.4", "torch": "2.9.0"},
        "git": {"revision": "0123456789abcdef" * 2 + "01234567", "dirty": False},
        "code": "1" * 64,
        "numerics": {"precision": "float32", "memory_format": "channels_last", "threads": 1},
        "started": "2026-03-01T10:00:00+00:00",
        "ended": "2026-03-01T10:05:00+00:00",
        "seconds": {"setup": 0.5, "train": 2.0, "save": 0.25},
        "diverged": {"epoch": 1, "step": 30} if run["status"] == "diverged" else None,
        "metrics": {name: run[name] for name in names if name in run},
        "files": {"weights.pt": {"bytes": 1000, "sha256": "6" * 64}},
    }


def missing(made: MadeUp) -> dict[str, Any]:
    off = dict.fromkeys(("batch_mce",), "`batch_statistics` is off in `evaluation`")
    return {
        "leaderboard": {},
        "gan": {},
        "robustness": {task: dict.fromkeys(made.variants, off) for task in made.tasks},
        "smoothness": {},
        "failed": {},
        "off": {task: ["batch_statistics"] for task in made.tasks},
    }


def origin(made: MadeUp) -> Any:
    """The facts behind the numbers, from made-up records."""
    suite = Suite(
        seed=0,
        seeds=list(made.seeds),
        datasets=["digits"],
        tasks=list(made.tasks),
        variants=list(made.variants),
        baseline=made.variants[0],
        gan_tasks=list(made.gan_tasks),
        gan_variants=list(made.gan_variants),
    )
    found = {
        Kind.CLASSIFICATION: {(task, name): [record(task, name)] for task in made.tasks for name in made.variants},
        Kind.GAN: {
            (task, name): [record(task, name, kind="gan")] for task in made.gan_tasks for name in made.gan_variants
        },
    }
    return facts(suite, Corruptions(names=list(BENCHMARK), severities=SEVERITIES), found)
