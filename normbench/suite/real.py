"""The stage `real`: what the scores of GANs need of the real images of a task, once for each network of features.

Its output also holds the classifier whose features are compared, so that every variant is scored with the same one. Two
tasks on one dataset have the same output: the second copies that of the first.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.data import intact, prepared
from normbench.data.bound import Bound
from normbench.data.prepared import Splits
from normbench.gan import features, score
from normbench.gan.evaluation import Scoring
from normbench.gan.features import Extractor
from normbench.gan.inception import Inception, read_weights
from normbench.gan.score import Real
from normbench.gan.scores.moments import Moments
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import finished, store
from normbench.runs.contents import RECORD, WEIGHTS
from normbench.runs.networks import trained_classifier
from normbench.runs.record import TrainedRecord
from normbench.runs.run import FID_FEATURES, Kind, Run
from normbench.runs.train import claim_and_train
from normbench.runs.variant import Variant
from normbench.suite import code, resolved
from normbench.system import device as devices
from normbench.system import files, layout, npy
from normbench.system import intact as whole
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training.task import Task

ABOUT = "about.json"
ARRAYS = ("mean", "scatter", "features")  # of the real images: (d,) and (d, d) in float64, (M, d) in float32
KEYS = {"key", "networks"}


def measure(task: str) -> None:
    """Measure the real images of a GAN task in the features of each network.

    Raises UserError, and stores nothing, if images or weights are not those that they should be.
    """
    spec = narrowed(resolved.task(Kind.GAN, task), GanTask, f"task {task}")
    bound = Bound.read(layout.BOUND / f"{task}.json")
    scoring = resolved.gan_evaluation()
    key = key_of(spec, bound, scoring)
    with files.atomic_folder(layout.REAL / task) as out:
        done = same_as(key, layout.REAL, task)
        if done is not None:
            for path in sorted(done.iterdir()):
                (files.copy_folder if path.is_dir() else files.copy)(path, out / path.name)
            return
        device = scoring_device()
        devices.prepare(device)
        intact.check_bound(bound)
        data = prepared.load(bound, device)
        networks = {name: written(name, spec, bound, scoring, data, out / name) for name in scoring.features}
        files.write_json(out / ABOUT, {"key": key, "networks": networks})


def written(name: str, task: GanTask, bound: Bound, scoring: Scoring, data: Splits, to: Path) -> dict[str, Any]:
    """Measures the real images in the features of a network and writes the arrays; returns what is known of them."""
    to.mkdir()
    if name == "classifier":
        put_classifier(data, bound, to)
    network, about = extractor(name, bound, scoring, data, to)
    devices.prepare(data.device, deterministic=task.recipe.deterministic)
    devices.use_threads(task.recipe.threads, data.device)
    pixels = data.train.pixels[:]
    with Progress(f"real images of {bound.name}, {name}", 1) as progress:
        real = score.of_real(network, pixels)
        progress.update(1, f"{len(pixels)} images")
        progress.close(f"{len(pixels)} images")
    arrays = {"mean": real.moments.mean, "scatter": real.moments.scatter, "features": real.kept}
    for each, array in arrays.items():
        npy.save(to / f"{each}.npy", array.cpu().numpy())
    stored = finished.facts(to, [f"{each}.npy" for each in ARRAYS])
    facts = {each: fact.json_value() for each, fact in stored.items()}
    return {"about": about, "references": real.moments.count, "arrays": facts}


def put_classifier(data: Splits, bound: Bound, to: Path) -> None:
    """Trains the classifier of a dataset, unless the run store has it, and copies it into a folder.

    It is independent of variants and seeds. Raises UserError if its training diverged.
    """
    if bound.classes < 2:  # `bind` says so before the training.
        raise UserError(
            f"dataset {bound.name}: has 1 class, but the FID needs the features of a classifier of 2 or more"
        )
    run = feature_run(bound)
    claim_and_train(run, lambda: data)
    if not store.record(run.id).finished:
        raise UserError(f"{store.folder(run.id)}: the classifier of {bound.name} whose features the FID needs diverged")
    for name in (RECORD, WEIGHTS):
        files.copy(store.folder(run.id) / name, to / name)


def extractor(
    name: str, bound: Bound, scoring: Scoring, data: Splits, folder: Path
) -> tuple[Extractor, dict[str, Any]]:
    """Returns a network of features on the device, and its description for the records.

    folder: that of the network in the output of the stage, which has the classifier. Raises UserError if the weights
    are not those that they should be, or if the network takes no such images.
    """
    if name == "inception":
        sha256 = narrowed(scoring.inception_sha256, str, "gan_evaluation.inception_sha256")
        weights = read_weights(scoring.inception_weights, sha256, layout.downloads() / "inception")
        inception = Inception(weights, scoring.inception_weights or "the downloaded weights").to(data.device)
        return inception, {
            "network": "Inception-v3 of 2015-12-05, trained on ImageNet",
            "sha256": sha256,
            "resize": inception.resize,
            "dimensions": inception.dimensions,
        }
    record = TrainedRecord.read(folder / RECORD)
    network = features.Features(trained_classifier(record, folder, data.device), data.train)
    return network, {
        "network": f"{features.CLASSIFIER} (width {features.WIDTH}) trained on {bound.name} for "
        f"{features.RECIPE.epochs} epochs",
        "sha256": record.files[WEIGHTS].sha256,
        "resize": network.resize,
        "dimensions": network.dimensions,
        "run": record.run,
        "test_accuracy": record.metrics["clean_accuracy"],
    }


def read(task: str, name: str, device: str) -> tuple[Real, dict[str, Any]]:
    """Returns what was measured of the real images in the features of a network, and what is known of it.

    Raises UserError, with the command that mends it, if the output of the stage is damaged.
    """
    folder, about = layout.REAL / task, about_of(layout.REAL / task)
    if about is None or name not in about["networks"]:
        raise UserError(
            f"{folder / ABOUT}: is damaged or missing; `python -m stages.real --task {task}` makes it again"
        )
    known = about["networks"][name]
    found = {}
    for each in ARRAYS:
        path = folder / name / f"{each}.npy"
        problem = damage(path, known)
        if problem is not None:
            raise UserError(f"{path}: {problem}; `python -m stages.real --task {task}` makes it again")
        found[each] = torch.from_numpy(np.load(path)).to(device)
    moments = Moments(known["references"], found["mean"], found["scatter"])
    return Real(moments, found["features"]), known


def about_of(folder: Path) -> dict[str, Any] | None:
    """Returns what an output of the stage says of itself, or None if it is none."""
    try:
        about = files.read_json(folder / ABOUT)
    except (OSError, UserError):
        return None
    return about if isinstance(about, dict) and about.keys() >= KEYS else None


def same_as(key: str, folder: Path, task: str) -> Path | None:
    """Returns the whole output for another task that has the same key, or None."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        about = about_of(path)
        if path.name != task and about is not None and about["key"] == key and is_whole(path, about):
            return path
    return None


def damage(path: Path, known: dict[str, Any]) -> str | None:
    """Returns how an array differs from the one that was written; None if it does not."""
    fact = known["arrays"][path.name]
    return whole.problem(path, fact["sha256"], fact["bytes"])


def is_whole(folder: Path, about: dict[str, Any]) -> bool:
    """Whether the arrays in an output of the stage are those that it says."""
    return all(
        damage(folder / name / f"{each}.npy", known) is None
        for name, known in about["networks"].items()
        for each in ARRAYS
    )


def key_of(task: GanTask, bound: Bound, scoring: Scoring) -> str:
    """Returns the digest of all that shapes the output, besides the device: two tasks with the same one share it."""
    used = {"features": scoring.features, "inception": scoring.inception_sha256, "code": resolved.digest("real")}
    numerics = {"threads": task.recipe.threads, "deterministic": task.recipe.deterministic}
    return files.hash_of(used | numerics | {"dataset": bound.json_value()})


def scoring_device() -> str:
    """Returns the device on which GANs are scored."""
    return "cpu" if devices.choose() == "mps" else devices.choose()  # MPS has no float64.


def feature_run(bound: Bound) -> Run:
    """Returns the run that trains the classifier of a dataset for the FID."""
    task = Task(
        name=FID_FEATURES,
        seed=0,
        seeds=[0],
        dataset=bound.name,
        model=features.CLASSIFIER,
        model_options=models.get(features.CLASSIFIER).options() | {"width": features.WIDTH},
        model_code=code.model(features.CLASSIFIER),
        recipe=features.RECIPE,
    )
    variant = Variant(
        name=features.METHOD,
        method=features.METHOD,
        options=dataclasses.asdict(methods.build(features.METHOD, {})),
        method_code=code.method(features.METHOD),
    )
    digest = code.training(Kind.CLASSIFICATION)
    return Run(Kind.CLASSIFICATION, task, variant, 0, bound, digest, f"train the features of {bound.name}")
