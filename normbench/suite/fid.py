"""The stage `fid`: scores every GAN of a task and variant against the real images and adds the scores to its record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data import intact, prepared
from normbench.data.bound import Bound
from normbench.gan import score as scores
from normbench.gan.evaluation import BOUND, column
from normbench.gan.features import Extractor
from normbench.gan.lipschitz import lipschitz_bound
from normbench.gan.over_time import kids
from normbench.gan.score import Found, Real
from normbench.gan.scores.frechet import Reference
from normbench.gan.task import GanTask
from normbench.runs import finished
from normbench.runs.contents import DISCRIMINATOR, HISTORY, PICTURES
from normbench.runs.finished import record_in
from normbench.runs.networks import trained_discriminator, trained_generator
from normbench.runs.record import Record
from normbench.runs.run import OUTPUTS, SCORED_IN, Kind
from normbench.suite import real, resolved
from normbench.suite.real import scoring_device
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.system.size import sides

Network = tuple[Extractor, Reference, Real, dict[str, Any]]  # with its real images, and what the records say of it


def score(task: str, variant: str) -> None:
    """Add the scores of `params.yaml`'s `gan_evaluation` to the records of a GAN task and variant.

    Raises UserError, and stores nothing, if images, weights or samples are not those that were written.
    """
    spec = narrowed(resolved.task(Kind.GAN, task), GanTask, f"task {task}")
    bound = Bound.read(layout.BOUND / f"{task}.json")
    scoring = resolved.gan_evaluation()
    device = scoring_device()
    devices.prepare(device, deterministic=spec.recipe.deterministic)
    devices.use_threads(spec.recipe.threads, device)
    intact.check_bound(bound)
    data = prepared.load(bound, device)
    networks: dict[str, Network] = {}
    for name in scoring.features:
        images, known = real.read(task, name, device)
        network, about = real.extractor(name, bound, scoring, data, layout.REAL / task / name)
        networks[name] = network, Reference(images.moments), images, about | {"references": known["references"]}
    count = scores.sample_count(spec, len(data.train.pixels))
    runs = [OUTPUTS[Kind.GAN] / task / variant / str(seed) for seed in spec.seeds]
    with files.atomic_folder(SCORED_IN[Kind.GAN] / task / variant) as out:
        shown = []
        with Progress(f"fid {task} {variant}", len(runs)) as progress:
            for done, run in enumerate(runs, start=1):
                record: Record = record_in(run)
                if record.finished:
                    record = scored(record, run, spec, networks, count, scoring.resamples, device)
                    pass_on(record, run, out)
                    shown.append(in_words(record.metrics))
                record.write(out / f"{record.seed}.json")
                progress.update(done, f"seed {record.seed}")
            progress.close(", ".join(shown) or "no finished run")


def pass_on(record: Record, run: Path, out: Path) -> None:
    """Copies the pictures of a finished run to where `aggregate` finds them, beside its record with the scores.

    A run of an earlier version has no film strip. run, out: the folders of the run and of the records.
    """
    for name, ending in PICTURES.items():
        if name in record.files:
            files.copy(run / name, out / f"{record.seed}{ending}")


def scored(
    record: Record, run: Path, task: GanTask, networks: dict[str, Network], count: int, resamples: int, device: str
) -> Record:
    """Returns the record of a finished run with its scores. run: the folder with its files."""
    began = time.perf_counter()
    generator = trained_generator(record, run, device)
    metrics: dict[str, Any] = {"columns": {}, "missing": {}, "features": {}, "over_time": {}}
    samples = history(record, run)
    for name, (network, reference, images, about) in networks.items():
        found = of_network(generator, task, record.seed, network, reference, images, count, resamples, device)
        metrics["columns"] |= {column(name, each): value for each, value in found.columns.items()}
        metrics["missing"] |= {column(name, each): why for each, why in found.missing.items()}
        metrics["features"][name] = about | {
            "samples": count,
            "compared": [found.compared, len(images.kept)],
            "kid_subset": found.subset or None,
            "intervals": {column(name, each): list(ends) for each, ends in found.intervals.items()},
        }
        if samples is not None:
            metrics["over_time"][column(name, "kid")] = kids(network, images.kept, samples)
    bound, why = bound_of(record, run, task, device)
    if bound is None:
        metrics["missing"][BOUND] = why
    else:
        metrics["columns"][BOUND] = bound
    metrics["fid"] = metrics["columns"].pop("fid", None)
    return record.with_scores(metrics, {"fid": time.perf_counter() - began})


def history(record: Record, run: Path) -> Tensor | None:
    """Returns the samples of a run's history, uint8 (times, N, C, H, W); None for one of an early version."""
    if HISTORY not in record.files:
        return None
    finished.check(run / HISTORY, record.files[HISTORY])
    with np.load(run / HISTORY, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["samples"])


def bound_of(record: Record, run: Path, task: GanTask, device: str) -> tuple[float | None, str]:
    """Returns the Lipschitz bound of a run's discriminator, or None and why there is none."""
    if DISCRIMINATOR not in record.files:
        return None, "a run of an early version has no weights of its discriminator"
    dataset = record.provenance.dataset
    image = torch.zeros(1, dataset.channels, *sides(dataset.image_size), device=device)
    return lipschitz_bound(trained_discriminator(record, run, device), image, task.classes(dataset))


def of_network(
    generator: nn.Module,
    task: GanTask,
    seed: int,
    network: Extractor,
    reference: Reference,
    images: Real,
    count: int,
    resamples: int,
    device: str,
) -> Found:
    """Returns the scores of a generator in the features of one network. seed: the run's."""
    made = scores.generated(generator, task, seed, count, device)
    return scores.measure(network, reference, images.kept, made, count, resamples)


def in_words(metrics: dict[str, Any]) -> str:
    """Returns the FIDs of a run, or why there are none, for the progress."""
    names = [("fid", metrics["fid"]), ("inception_fid", metrics["columns"].get("inception_fid"))]
    values = [f"{value:.2f}" for _, value in names if value is not None]
    return " / ".join(values) or next((metrics["missing"][name] for name, _ in names if name in metrics["missing"]), "")
