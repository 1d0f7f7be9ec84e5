"""A suite of made-up records, with every kind of gap, written as the stages before `aggregate` leave it."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normbench.corruptions.constants import EXTRA, MAIN
from normbench.runs.contents import FILM, SAMPLES
from normbench.runs.record import Record, Stored
from normbench.system import files, npy
from tests.support.records import ITERATIONS, change, corrupted_images, record

TASK, GAN_TASK = "digits-resnet8", "digits-sngan"
SEEDS = [0, 1, 2]
OTHERS = {"seed": 0, "engine": "normbench", "constants": "auto", "source": None}  # of the resolved corruptions
SEVERITIES = [1, 2, 3, 4, 5]
NAMES = [*MAIN, *EXTRA]
EPOCHS = 12
IMAGES = 360  # test images
WORSE = "group_norm"  # whose predictions are worse than its record says, so that a verdict is clear
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
GAN_TIMES = [10, 20, 30, ITERATIONS]  # of the entries of a history
GAN_LAYERS = ["layers.0", "layers.3", "head"]
FID = {"batch_norm": 61.5, "spectral_norm_alone": 34.25}  # of seed 0; one more for each further seed
UNMEASURED, UNBOUNDED = "conv_norm", "group_norm"  # neither smoothness nor features; no bound on the network
LAYERS = ["conv", "stages.0.0.conv1", "stages.0.0.conv2", "head"]
FILTERED = "network_deconvolution"  # whose first layer whitens patches
DIVERGED = {("no_norm", 1), *(("spectral_norm", seed) for seed in SEEDS)}


def classification_record(variant: str, seed: int) -> Record:
    """The scored record of a classifier."""
    draw = random.Random(f"{variant}/{seed}")
    clean, speed, memory, parameters = VARIANTS[variant]
    diverged = (variant, seed) in DIVERGED
    epochs = 3 if diverged else EPOCHS
    loss = [2.3 * math.exp(-0.35 * (1.5 if clean > 0.99 else 1) * e) + draw.uniform(0.01, 0.03) for e in range(epochs)]
    lr = [0.05 * (1 + math.cos(math.pi * e / EPOCHS)) for e in range(epochs)]
    history = [{"epoch": e + 1, "lr": lr[e], "loss": loss[e], "accuracy": 1 - loss[e] / 3} for e in range(epochs)]
    metrics: dict[str, Any] = {"history": history, "training_set": {"images": 1437, "flipped_labels": 0.0}}
    if not diverged:
        metrics["clean_accuracy"] = clean + draw.uniform(-0.003, 0.003)
        metrics["corruption_accuracy"] = {
            name: [clean - 0.01 * s * (1 + NAMES.index(name) % 7) * draw.uniform(0.9, 1.1) for s in SEVERITIES]
            for name in sorted(NAMES)
        }
        metrics["columns"] = {}
        if variant == FILTERED:
            metrics["filters"] = filters()
        if variant != UNMEASURED:
            metrics |= {"smoothness": smoothness(variant, seed), "features": features(variant, seed)}
    return record(
        TASK,
        variant,
        seed,
        "diverged" if diverged else "finished",
        diverged={"epoch": epochs, "step": 30 * epochs} if diverged else None,
        metrics=metrics,
        cost={
            "images_per_second": None if variant == "spectral_norm" else speed * draw.uniform(0.95, 1.05),
            "peak_memory_bytes": int(memory * 2**20),
            "parameters": parameters,
            "epoch_seconds": [1437 / speed] * epochs,
            "seconds": {"setup": 0.1, "train": 20000 / speed, "evaluate": 0.2, "save": 0.05, "corruptions": 1.5},
        },
        provenance={
            "task": {"recipe": {"epochs": EPOCHS}},
            "variant": {"options": {"placement": "last_stage"} if variant == "spectral_batch_norm" else {}},
            "corrupted": None if diverged else corrupted_images(NAMES, SEVERITIES),
        },
    )


def predictions(variant: str, seed: int) -> dict[str, np.ndarray]:
    """The predicted classes of a finished run, right about as often as its record says."""
    metrics, labels = classification_record(variant, seed).metrics, labels_of_test()
    less = 0.5 if variant == WORSE else 0.0
    draw = np.random.default_rng([list(VARIANTS).index(variant), seed])

    def predicted(right: float, index: np.ndarray) -> np.ndarray:
        wrong = (labels[index] + 1) % 10
        return np.where(draw.random(len(index)) < right, labels[index], wrong).astype(np.int16)

    index = np.arange(0, IMAGES, 3)
    corrupted = [[predicted(right, index) for right in metrics["corruption_accuracy"][name]] for name in NAMES]
    return {
        "names": np.array(NAMES),
        "severities": np.array(SEVERITIES),
        "index": index,
        "clean": predicted(metrics["clean_accuracy"] - less, np.arange(IMAGES)),
        "corrupted": np.array(corrupted),
        "attack_index": index[:50].astype(np.int32),
        "attack_fgsm": predicted(0.6, index[:50]),
        "attack_pgd": predicted(0.5, index[:50]),
    }


def labels_of_test() -> np.ndarray:
    """The labels of the test images, ten classes of equal size."""
    return np.arange(IMAGES) % 10


def smoothness(variant: str, seed: int) -> dict[str, Any]:
    """The metric of that name; of the variant without a bound, only the first layer has one."""
    draw = random.Random(f"{variant}/{seed}/smoothness")
    layers = []
    for name in LAYERS[:1] if variant == UNBOUNDED else LAYERS:
        bound = draw.uniform(1, 9)
        filtered = variant == "network_deconvolution" and name == "conv"
        spectrum = None if name == "head" else [draw.uniform(0, 1), draw.uniform(1, 2)]
        layers.append(
            {"name": name, "bound": bound, "estimate": None if filtered else 0.9 * bound, "spectrum": spectrum}
        )
    found: dict[str, Any] = {"layers": layers}
    found["local"] = {"mean": draw.uniform(3, 9), "max": draw.uniform(9, 20), "examples": 100}
    if variant == UNBOUNDED:
        return found | {"product": None, "bound": None, "why": "no Lipschitz constant is known for GroupNorm"}
    product = math.prod(layer["bound"] for layer in layers)
    certified = {"8": draw.uniform(0.5, 0.9), "36": draw.uniform(0, 0.5)}
    return found | {"product": product, "bound": 3 * product, "certified": certified}


def features(variant: str, seed: int) -> dict[str, Any]:
    """The metric of that name, of two blocks, the second of which is too small to have low frequencies."""
    draw = random.Random(f"{variant}/{seed}/features")
    found: dict[str, Any] = {"initial": [], "trained": []}
    for blocks in found.values():
        for low in (0.25, 0.0):
            middle = draw.uniform(0.1, 0.2)
            shares = {"mean": 0.5 - middle, "low": low, "middle": middle, "high": 0.5 - low}
            blocks.append({"rms": draw.uniform(0.5, 4), "max": draw.uniform(5, 60)} | shares)
    return found


def filters() -> dict[str, Any]:
    """The metric of that name, of a 3x3 layer on grey images, whose filters are nearly a point and then a surround."""
    after = []
    for iterations, beside, corner, kurtosis in ((5, -0.125, 0.0, 0.75), (15, -0.375, 0.125, 10.5)):
        own = [[2 * weight for weight in row] for row in ([corner, beside, corner], [beside, 1, beside])]
        found = {"iterations": iterations, "centre": 2.0, "ring": beside, "others": None, "weights": [[[*own, own[0]]]]}
        found["responses"] = {"kurtosis": kurtosis, "near_zero": 0.09 + iterations / 100}
        after.append(found | {"sum": 1 + 4 * (beside + corner)})
    about = {"version": 1, "examples": 360, "patches": 5760, "own_iterations": 5}
    return about | {"pixels": {"kurtosis": -0.5, "near_zero": 0.07}, "after": after}


def gan_record(variant: str, seed: int) -> Record:
    """The scored record of a GAN."""
    diverged = variant == "batch_norm" and seed == 0
    method, options = ("spectral_norm", {"batch_norm": False}) if variant == "spectral_norm_alone" else (variant, {})
    return record(
        GAN_TASK,
        variant,
        seed,
        "diverged" if diverged else "finished",
        "gan",
        metrics={"history": gan_history(variant, seed)}
        | ({} if diverged else {"fid": FID[variant] + seed, "over_time": {"classifier_kid": kids(variant, seed)}}),
        cost={
            "images_per_second": 2100.0 + seed,
            "peak_memory_bytes": 90 * 2**20,
            "parameters": 411_905,
            "seconds": {"setup": 0.2, "train": 31.0, "fid": 3.0},
        },
        provenance={"variant": {"method": method, "options": options}},
    )


def gan_history(variant: str, seed: int) -> list[dict[str, Any]]:
    """The history of a GAN; that of the run that diverged ends early."""
    draw = random.Random(f"{variant}/{seed}/history")
    norms = {layer: 1.0 if variant == "spectral_norm_alone" else draw.uniform(1, 4) for layer in GAN_LAYERS}
    found = []
    for time in GAN_TIMES[: 1 if variant == "batch_norm" and seed == 0 else None]:
        entry: dict[str, Any] = {"iteration": time, "generator_loss": draw.uniform(0.5, 2)}
        entry["discriminator_loss"] = 1.5 - 0.01 * time
        entry["diversity"] = 0.2 + 0.015 * time + draw.uniform(0, 0.1)
        norms = {layer: norm * (1 if norm == 1.0 else 1.1) for layer, norm in norms.items()}
        found.append(entry | {"spectral_norms": norms})
    return found


def kids(variant: str, seed: int) -> list[float]:
    """The KID at each time of a history, of which the last is below 0."""
    draw = random.Random(f"{variant}/{seed}/kid")
    return [draw.uniform(0.1, 2) / time for time in GAN_TIMES[:-1]] + [-0.001]


def film(variant: str, seed: int) -> np.ndarray:
    """The images of a film strip: (rows, columns, 16, 16), a row for each noise and a column for each time."""
    shape = (8, len(GAN_TIMES), 16, 16)
    return np.random.default_rng([GAN_VARIANTS.index(variant), seed]).integers(0, 255, shape, np.uint8)


def save_film(images: np.ndarray, path: Path) -> None:
    """Writes a film strip as the training does: images enlarged to 64 pixels, in frames of one grey pixel."""
    framed = np.pad(images.repeat(4, 2).repeat(4, 3), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=128)
    Image.fromarray(np.concatenate(np.concatenate(framed, 1), 1)).save(path)


def place(variant: str, seed: int, kind: str = "classification", task: str | None = None) -> Path:
    """Where a record of the suite lies."""
    task = task or (GAN_TASK if kind == "gan" else TASK)
    return Path(f"build/scores/{kind}/{task}/{variant}/{seed}.json")


def write_suite(**changed: Any) -> None:
    """Writes the inputs of `aggregate` below the working directory. changed: other values of the suite."""
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
    files.write_json("build/resolved/corruptions.json", {"names": NAMES, "severities": SEVERITIES, **OTHERS})
    resolved = Path("build/resolved")
    for stage in ("evaluate", "fid"):
        files.write_json(resolved / f"code/{stage}.json", {"digest": "7" * 64})
    for variant in GAN_VARIANTS:
        origin = gan_record(variant, 0).provenance
        origin.task.write(resolved / f"gan_tasks/{GAN_TASK}.json")
        origin.variant.write(resolved / f"variants/{variant}.json")
    for variant in VARIANTS:
        origin = classification_record(variant, 0).provenance
        origin.task.write(resolved / f"tasks/{TASK}.json")
        origin.variant.write(resolved / f"variants/{variant}.json")
        for seed in SEEDS:
            classification_record(variant, seed).write(place(variant, seed))
            if (variant, seed) not in DIVERGED:
                npy.save_compressed(place(variant, seed).with_suffix(".npz"), predictions(variant, seed))
    Path("build/data/digits").mkdir(parents=True, exist_ok=True)
    npy.save(Path("build/data/digits/test_labels.npy"), labels_of_test())
    for variant in GAN_VARIANTS:
        for seed in SEEDS:
            path = place(variant, seed, "gan")
            samples, noise = path.with_suffix(".png"), random.Random(f"{variant}{seed}").randbytes(128 * 128)
            samples.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (128, 128), noise).save(samples)
            made = gan_record(variant, seed)
            pictures = {SAMPLES: samples}
            if made.finished:
                pictures[FILM] = path.with_suffix(".film.png")
                save_film(film(variant, seed), pictures[FILM])
            stored = {
                name: Stored(bytes=each.stat().st_size, sha256=files.sha256(each)) for name, each in pictures.items()
            }
            change(made, files=made.files | (stored if made.finished else {})).write(path)


def edit(path: Path, **changes: Any) -> None:
    """Changes a written record, as `tests.support.records.change` does."""
    change(Record.read(path), **changes).write(path)


def edit_metrics(path: Path, edited: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the metrics of a written record in place."""
    found = Record.read(path)
    edited(found.metrics)
    found.write(path)


def finished(variant: str) -> list[Record]:
    """The records of the finished runs of a variant, as `write_suite` writes them."""
    return [classification_record(variant, seed) for seed in SEEDS if (variant, seed) not in DIVERGED]


def error_sums(variant: str) -> dict[str, float]:
    """Corruption -> error summed over severities, mean over finished runs, in plain Python."""
    runs = [run.metrics["corruption_accuracy"] for run in finished(variant)]
    return {name: sum(sum(1 - a for a in run[name]) for run in runs) / len(runs) for name in NAMES}


def rows(path: str) -> list[dict[str, str]]:
    """The rows of a CSV file, every cell as text."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
