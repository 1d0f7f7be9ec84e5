"""Records to tables: what the runs of the suite left, as the files of results/ and, for the report, build/tables.

Accuracies, FID, speed and wall time are over finished runs; a number that no finished run gives is an empty cell.
"""

from __future__ import annotations

import ast
import functools
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from normbench import methods
from normbench.corruptions import MAIN
from normbench.results.contact_sheet import contact_sheet
from normbench.results.means import Runs, finished, mean, std
from normbench.results.smoothness import feature_table, layer_table, smoothness_table
from normbench.system import files, layout
from normbench.system.errors import UserError

TABLES = Path("build/tables")
MIB = 2**20

COST = ["images_per_second", "peak_memory_mib", "parameters", "seconds", "compile_seconds", "finished", "diverged"]
LEADERBOARD = [
    "task",
    "variant",
    "method",
    "clean_accuracy",
    "clean_accuracy_std",
    "corruption_accuracy",
    "corruption_accuracy_std",
    "mce",
    "mce_corruptions",
    *COST,
]
# Column of results/robustness.csv -> where its value stands in the metrics of a record. A list is averaged.
ROBUSTNESS = {
    "nll": ("calibration", "nll"),
    "brier": ("calibration", "brier"),
    "ece": ("calibration", "ece"),
    "corrupted_nll": ("corruption_calibration", "*", "nll"),
    "corrupted_brier": ("corruption_calibration", "*", "brier"),
    "corrupted_ece": ("corruption_calibration", "*", "ece"),
    "batch_clean_accuracy": ("batch_statistics", "clean_accuracy"),
    "batch_corruption_accuracy": ("batch_statistics", "corruption_accuracy", "*"),
    "attack_examples": ("attacks", "examples"),
    "attack_clean": ("attacks", "clean"),
    "attack_fgsm": ("attacks", "fgsm"),
    "attack_pgd": ("attacks", "pgd"),
    "attack_pgd_long": ("attacks", "pgd_long", "pgd_long"),
    "auto_attack_examples": ("attacks", "auto_attack", "examples"),
    "auto_attack": ("attacks", "auto_attack", "accuracy"),
}
GAN = ["task", "variant", "method", "fid", "fid_std", *COST]
CURVES = ["task", "variant", "seed", "epoch", "loss", "accuracy", "lr"]
FORMATS = (
    {
        "clean_accuracy": ".5f",
        "clean_accuracy_std": ".5f",
        "corruption_accuracy": ".5f",
        "corruption_accuracy_std": ".5f",
        "mce": ".3f",
        "fid": ".3f",
        "fid_std": ".3f",
        "images_per_second": ".1f",
        "peak_memory_mib": ".2f",
        "seconds": ".2f",
        "compile_seconds": ".2f",
        "mean": ".5f",
        "loss": ".6g",
        "accuracy": ".5f",
        "lr": ".6g",
        "relative_mce": ".3f",
        "batch_mce": ".3f",
    }
    | {name: ".0f" if name.endswith("_examples") else ".5f" for name in ROBUSTNESS}
    | {f"severity_{severity}": ".5f" for severity in range(1, 6)}
)


def aggregate() -> None:
    """Write the tables of results/ and the folder build/tables. Raises UserError where a record is missing."""
    suite = files.read_json(layout.RESOLVED / "suite.json")
    corruptions = files.read_json(layout.RESOLVED / "corruptions.json")
    names, severities = list(dict.fromkeys(corruptions["names"])), corruptions["severities"]
    classified = read("classification", suite["tasks"], suite["variants"], suite["seeds"])
    generated = read("gan", suite["gan_tasks"], suite["gan_variants"], suite["seeds"])
    check_corruptions(classified, names, severities)

    board, gan = leaderboard(classified, suite["baseline"], names), gan_table(generated)
    tables = {
        "leaderboard": csv_text(board, LEADERBOARD),
        "gan": csv_text(gan, GAN),
        "robustness": csv_text(*robustness_table(classified, suite["baseline"], names)),
        "corruptions": csv_text(*corruption_table(classified, names, severities)),
        "smoothness": csv_text(*smoothness_table(classified)),
        "layers": csv_text(*layer_table(classified)),
        "features": csv_text(*feature_table(classified)),
        "curves": csv_text(curves(classified), CURVES),
    }
    facts = provenance(classified, generated) | {"suite": suite, "corruptions": corruptions | {"names": names}}
    for name, text in tables.items():
        files.write_text(layout.RESULTS / f"{name}.csv", text)
    mixed = [task for task in suite["tasks"] if len({each["precision"] for each in numerics(classified, task)}) > 1]
    files.write_text(layout.RESULTS / "leaderboard.md", markdown(board, suite, names, mixed))
    files.write_json(layout.RESULTS / "metrics.json", metrics(board, gan))
    with files.atomic_folder(TABLES) as folder:
        for name, text in tables.items():
            files.write_text(folder / f"{name}.csv", text)
        files.write_json(folder / "provenance.json", facts)
        copy_samples(generated, folder)
        draw_contact_sheets(suite["datasets"], folder / "corrupted")


def read(kind: str, tasks: list[str], variants: list[str], seeds: list[int]) -> Runs:
    """The records of the suite; what else lies in build/scores is of no interest. UserError for one that is missing."""
    runs: Runs = {}
    for task in tasks:
        for variant in variants:
            runs[task, variant] = []
            for seed in seeds:
                path = layout.SCORES / kind / task / variant / f"{seed}.json"
                if not path.is_file():
                    stage = "fid" if kind == "gan" else "evaluate"
                    command = f"python -m stages.{stage} --task {task} --variant {variant}"
                    raise UserError(f"{path}: no such record, but the suite has that run; write it with `{command}`")
                runs[task, variant].append(files.read_json(path))
    return runs


def check_corruptions(runs: Runs, names: list[str], severities: list[int]) -> None:
    """UserError for a record whose corruptions are not those of params.yaml: it was left by an earlier evaluation."""
    for (task, variant), records in runs.items():
        for record in finished(records):
            found = record["metrics"].get("corruption_accuracy", {})
            used = record["provenance"].get("corrupted", {}).get("severities")
            if set(found) != set(names) or used != severities:
                path = layout.SCORES / "classification" / task / variant / f"{record['seed']}.json"
                command = f"python -m stages.evaluate --task {task} --variant {variant}"
                raise UserError(
                    f"{path}: evaluated on {len(found)} corruptions at severities {used or []}, but params.yaml has "
                    f"{len(names)} at {severities}; run `{command}` again"
                )


def leaderboard(runs: Runs, baseline: str | None, names: list[str]) -> list[dict[str, Any]]:
    """One row per task and variant, by task and then by falling clean accuracy."""
    main = [name for name in names if name in MAIN]
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        clean = [record["metrics"]["clean_accuracy"] for record in done]
        corrupted = [mean_corruption_accuracy(record) for record in done]
        row = {
            "task": task,
            "variant": variant,
            "method": portable(records[0]["provenance"]["variant"]["method"]),
            "clean_accuracy": mean(clean),
            "clean_accuracy_std": std(clean),
            "corruption_accuracy": mean(corrupted),
            "corruption_accuracy_std": std(corrupted),
            "mce": mce(done, finished(runs[task, baseline]), main) if baseline else math.nan,
            "mce_corruptions": len(main),
        }
        rows.append(row | cost(records))
    return ranked(rows, "clean_accuracy", falling=True)


def mean_corruption_accuracy(record: dict[str, Any]) -> float:
    """Of one run, over corruptions and severities."""
    return float(np.mean(list(record["metrics"]["corruption_accuracy"].values())))


def mce(
    own: list[dict[str, Any]],
    baseline: list[dict[str, Any]],
    names: list[str],
    above_clean: bool = False,
    of: tuple[str, ...] = ("corruption_accuracy",),
) -> float:
    """Mean corruption error in percent (Hendrycks and Dietterich, ICLR 2019, section 4), of finished runs.

    CE_c is the error summed over severities, divided by the baseline's; errors are means over the runs. NaN without
    runs on both sides, or where the baseline makes no error on a corruption, so that the ratio has no value.
    above_clean: less the clean error, on both sides (relative mCE). of: where the accuracies of `own` stand.
    """
    if not own or not baseline or not names:
        return math.nan

    def errors(records: list[dict[str, Any]], path: tuple[str, ...]) -> np.ndarray:
        found = [functools.reduce(lambda place, key: place[key], path, record["metrics"]) for record in records]
        error = 1 - np.mean([[accuracies[name] for name in names] for accuracies in found], axis=0)
        if above_clean:
            error = error - (1 - np.mean([record["metrics"]["clean_accuracy"] for record in records]))
        return error.sum(axis=1)

    reference = errors(baseline, ("corruption_accuracy",))
    return 100 * float((errors(own, of) / reference).mean()) if (reference > 0).all() else math.nan


def robustness_table(runs: Runs, baseline: str | None, names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Means over finished runs of what `evaluation` measured, one row per task and variant; and the columns.

    relative_mce: as mCE, of the errors less the clean error. batch_mce: mCE with statistics of the test batches,
    against the baseline without. warnings: runs whose attacks cannot be trusted.
    """
    main = [name for name in names if name in MAIN]
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        base = finished(runs[task, baseline]) if baseline else []
        adapted = [record for record in done if "batch_statistics" in record["metrics"]]
        row: dict[str, Any] = {"task": task, "variant": variant}
        row |= {"relative_mce": mce(done, base, main, above_clean=True)}
        row |= {
            name: mean(found for record in done for found in dig(record["metrics"], path))
            for name, path in ROBUSTNESS.items()
        }
        row |= {"batch_mce": mce(adapted, base, main, of=("batch_statistics", "corruption_accuracy"))}
        row |= {"warnings": sum("warning" in record["metrics"].get("attacks", {}) for record in done)}
        rows.append(row)
    return rows, ["task", "variant", "relative_mce", *ROBUSTNESS, "batch_mce", "warnings"]


def dig(metrics: Any, path: tuple[str, ...]) -> list[float]:
    """The number at a place in a record, as a list of one, or of none where there is no such place.

    `*` goes into every value of a mapping, and takes the mean over what is found there.
    """
    if not path:
        return [] if metrics is None else [float(np.mean(metrics))]
    if path[0] == "*":
        found = [value for item in metrics.values() for value in dig(item, path[1:])]
        return [float(np.mean(found))] if found else []
    return dig(metrics[path[0]], path[1:]) if path[0] in metrics else []


def gan_table(runs: Runs) -> list[dict[str, Any]]:
    """One row per GAN task and variant, by task and then by rising FID."""
    rows = []
    for (task, variant), records in runs.items():
        fid = [record["metrics"]["fid"] for record in finished(records)]
        method = portable(records[0]["provenance"]["variant"]["method"])
        row = {"task": task, "variant": variant, "method": method, "fid": mean(fid), "fid_std": std(fid)}
        rows.append(row | cost(records))
    return ranked(rows, "fid", falling=False)


def cost(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed and wall time of the finished runs, size of all: a run that broke off says nothing about the former.

    Of runs that had the machine to themselves, where there are such. side_by_side: how many shared it otherwise.
    """
    count, done = len(finished(records)), costed(records)
    speeds = pd.Series([record["cost"]["images_per_second"] for record in done], dtype=float)
    memory = pd.Series([record["cost"]["peak_memory_bytes"] for record in records], dtype=float)
    return {
        "images_per_second": float(speeds.median()),
        "peak_memory_mib": float(memory.max()) / MIB,
        "parameters": records[0]["cost"]["parameters"],
        "seconds": mean(sum(record["cost"]["seconds"].values()) for record in done),
        "compile_seconds": mean(record["cost"]["seconds"].get("compile", 0.0) for record in done),
        "finished": count,
        "diverged": len(records) - count,
        "side_by_side": max((side_by_side(record) for record in done), default=1),
    }


def costed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that say what a variant costs: finished, and alone on the machine where any was."""
    done = finished(records)
    return [record for record in done if side_by_side(record) == 1] or done


def side_by_side(record: dict[str, Any]) -> int:
    """How many runs shared the machine with this one, itself included."""
    return record["provenance"]["device"].get("side_by_side", 1)


def ranked(rows: list[dict[str, Any]], column: str, falling: bool) -> list[dict[str, Any]]:
    """Tasks in their order; in each the best value first and those without one last, ties as in the suite."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    sign = -1 if falling else 1
    return sorted(rows, key=lambda r: (tasks.index(r["task"]), math.isnan(r[column]), sign * np.nan_to_num(r[column])))


def corruption_table(runs: Runs, names: list[str], severities: list[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Mean accuracy over finished runs, one row per task, variant and corruption; and the names of the columns."""
    columns = [f"severity_{severity}" for severity in severities]
    rows = []
    for (task, variant), records in runs.items():
        done = finished(records)
        for name in names:
            levels = [
                mean(record["metrics"]["corruption_accuracy"][name][i] for record in done)
                for i in range(len(severities))
            ]
            row = {"task": task, "variant": variant, "corruption": name, "mean": mean(levels)}
            rows.append(row | dict(zip(columns, levels, strict=True)))
    return rows, ["task", "variant", "corruption", *columns, "mean"]


def curves(runs: Runs) -> list[dict[str, Any]]:
    """One row per run and epoch, of diverged runs up to their last whole epoch."""
    return [
        {"task": task, "variant": variant, "seed": record["seed"], **epoch}
        for (task, variant), records in runs.items()
        for record in records
        for epoch in record["metrics"]["history"]
    ]


def cell(value: Any, column: str) -> str:
    """Text of a value, with the precision of its column, six digits by default; nothing where there is no number."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return format(value, FORMATS.get(column, ".6g" if isinstance(value, float) else ""))


def csv_text(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Numbers at a fixed precision, so that differences between two versions are differences of results."""
    texts = [[cell(row[column], column) for column in columns] for row in rows]
    return pd.DataFrame(texts, columns=columns, dtype=str).to_csv(index=False, lineterminator="\n")


def percent(value: float, deviation: float) -> str:
    """`98.61 ± 0.32`; without a deviation the mean alone; nothing where there is no number."""
    spread = "" if math.isnan(deviation) else f" ± {100 * deviation:.2f}"
    return "" if math.isnan(value) else f"{100 * value:.2f}{spread}"


def outcome(done: int, diverged: int) -> str:
    """`3/3`, or `diverged 2/3`."""
    return f"diverged {diverged}/{done + diverged}" if diverged else f"{done}/{done}"


def markdown(rows: list[dict[str, Any]], suite: dict[str, Any], names: list[str], mixed: list[str]) -> str:
    """The leaderboard for reading: one table under a caption. mixed: tasks with runs of different precisions."""
    head = ["task", "variant", "clean accuracy (%)", "corruption accuracy (%)", "mCE (%)", "images/s"]
    head += ["peak memory (MiB)", "parameters", "seconds", "runs"]
    lines = [head, ["---", "---", *["---:"] * 7, "---"]]
    for row in rows:
        relative = "" if math.isnan(row["mce"]) else f"{row['mce']:.1f}"
        forms = {"images_per_second": ".0f", "peak_memory_mib": ".1f", "parameters": "d", "seconds": ".1f"}
        costs = ["" if math.isnan(row[name]) else format(row[name], form) for name, form in forms.items()]
        clean = percent(row["clean_accuracy"], row["clean_accuracy_std"])
        corrupted = percent(row["corruption_accuracy"], row["corruption_accuracy_std"])
        runs = outcome(row["finished"], row["diverged"])
        lines.append([row["task"], row["variant"], clean, corrupted, relative, *costs, runs])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    main = sum(name in MAIN for name in names)
    caption = "Mean ± sample standard deviation over the finished runs of a variant, one run a seed."
    if suite["tasks"]:
        caption += f" mCE is relative to `{suite['baseline']}`, over {main} of the {len(MAIN)} main corruptions."
    if rows:
        beside = max(row["side_by_side"] for row in rows)
        shared = f"of which up to {beside} shared the machine" if beside > 1 else "that had the machine to themselves"
        caption += f" Speed and seconds are those of runs {shared}."
    if mixed:
        caption += f" Runs of different precisions stand side by side in {', '.join(mixed)}."
    return f"# Leaderboard\n\n{caption}\n\n{table}\n"


def metrics(board: list[dict[str, Any]], gan: list[dict[str, Any]]) -> dict[str, Any]:
    """Task -> variant -> metric, for `dvc metrics`; a metric without a value is left out."""
    found: dict[str, Any] = {}
    for rows, names in ((board, ("clean_accuracy", "corruption_accuracy", "mce")), (gan, ("fid",))):
        for row in rows:
            values = {name: float(f"{row[name]:.6g}") for name in names if not math.isnan(row[name])}
            found.setdefault(row["task"], {}).setdefault(row["variant"], {}).update(values)
    return found


def provenance(classified: Runs, generated: Runs) -> dict[str, Any]:
    """What the report says about the origin of its numbers. Every list is of distinct values, with how often they were.

    Tasks are kept apart by their kind, since a task and a GAN task may have one name.
    """
    cells = [cell for runs in (classified, generated) for cell in runs.values()]
    records = [record for cell in cells for record in cell]
    origins = [record["provenance"] for record in records]
    tasks: dict[str, Any] = {"classification": {}, "gan": {}}
    variants: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    for kind, runs in (("classification", classified), ("gan", generated)):
        for (task, variant), cell in runs.items():
            origin = cell[0]["provenance"]
            spec = origin["task"]
            tasks[kind][task] = {key: spec[key] for key in ("dataset", "model", "model_options", "recipe")}
            if spec.get("label_noise"):
                tasks[kind][task]["label_noise"] = spec["label_noise"]
            if spec.get("train_fraction", 1.0) < 1:
                tasks[kind][task]["train_fraction"] = spec["train_fraction"]
            tasks[kind][task]["numerics"] = numerics(runs, task)
            variants[variant] = {
                "method": portable(origin["variant"]["method"]),
                "options": origin["variant"]["options"],
                "about": about(origin["variant"]["method"]),
            }
            dataset = {key: value for key, value in origin["dataset"].items() if key != "path"}
            datasets[dataset["name"]] = dataset | {"origin": portable(dataset["origin"])}
    return {
        "tasks": tasks,
        "variants": variants,
        "datasets": datasets,
        "devices": distinct(origin["device"] for origin in origins),
        "devices_of_costs": distinct(record["provenance"]["device"] for cell in cells for record in costed(cell)),
        "versions": distinct(origin["versions"] for origin in origins),
        "git": distinct(origin["git"] for origin in origins),
        "runs": len(records),
        "seconds": sum(sum(record["cost"]["seconds"].values()) for record in records),
        "started": min(origin["started"] for origin in origins),
        "ended": max(origin["ended"] for origin in origins),
    }


def numerics(runs: Runs, task: str) -> list[dict[str, Any]]:
    """The precisions and memory formats of the runs of a task, each with the number of its runs."""
    records = [record for (name, _), cell in runs.items() if name == task for record in cell]
    chosen = [record["provenance"]["numerics"] for record in records]
    return distinct({key: each[key] for key in ("precision", "memory_format")} for each in chosen)


def distinct(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different values in the order of their first appearance, each with the number of its `runs`."""
    found: dict[str, dict[str, Any]] = {}
    for value in values:
        found.setdefault(files.hash_of(value), value | {"runs": 0})["runs"] += 1
    return list(found.values())


def portable(text: str) -> str:
    """A reference without the folder of a file that is named by an absolute path: that is the machine's own."""
    return text.rpartition("/")[2] if text.startswith(("/", "~")) else text


def about(method: str) -> str | None:
    """The first paragraph of the docstring of a method's file: paper and arXiv id. None where there is no such file.

    Read as text: importing a method takes torch, seconds that this stage does not need.
    """
    place, colon, _ = method.partition(":")
    path = Path(place) if colon else Path(methods.__file__).parent / f"{place}.py"
    if path.suffix != ".py" or not path.is_file():
        return None
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return " ".join(text.split("\n\n")[0].split()) if text else None


def draw_contact_sheets(datasets: list[str], folder: Path) -> None:
    """A picture of the corruptions of each dataset, where they were made."""
    folder.mkdir()
    for name in datasets:
        if (layout.CORRUPTED / name / "meta.json").is_file():
            contact_sheet(layout.DATA / name, layout.CORRUPTED / name, folder / f"{name}.png")


def copy_samples(runs: Runs, folder: Path) -> None:
    """The sample grid of the first finished run of each GAN variant: by the order of seeds, not by its look."""
    for (task, variant), records in runs.items():
        done = finished(records)
        if done:
            source = layout.SCORES / "gan" / task / variant / f"{done[0]['seed']}.png"
            if not source.is_file():
                raise UserError(f"{source}: no such file; `python -m stages.fid --task {task} --variant {variant}`")
            target = folder / "samples" / task / variant
            target.mkdir(parents=True)
            shutil.copyfile(source, target / source.name)
