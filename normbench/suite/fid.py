"""The stage `fid`: measures the Frechet distance of every GAN of a task and variant and adds it to the GAN's record."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from torch import nn

from normbench.data import intact, prepared
from normbench.data.bound import Bound
from normbench.data.prepared import Splits
from normbench.gan import fid
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import store
from normbench.runs.contents import SAMPLES
from normbench.runs.finished import record_in
from normbench.runs.networks import trained_classifier, trained_generator
from normbench.runs.record import Record
from normbench.runs.run import FID_FEATURES, OUTPUTS, Kind, Run
from normbench.runs.train import claim_and_train
from normbench.runs.variant import Variant
from normbench.suite import code, resolved
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training.task import Task


def score(task: str, variant: str) -> None:
    """Add the FID to the records of a GAN task and variant.

    Raises UserError, and stores nothing, if images, weights or samples are not those that were written.
    """
    spec = narrowed(resolved.task(Kind.GAN, task), GanTask, f"task {task}")
    bound = Bound.read(layout.BOUND / f"{task}.json")
    device = "cpu" if devices.choose() == "mps" else devices.choose()  # MPS has no float64.
    devices.prepare(device)
    intact.check_bound(bound)
    data = prepared.load(bound, device)
    pixels = data.train.pixels
    count = fid.sample_count(spec, len(pixels))
    runs = [OUTPUTS[Kind.GAN] / task / variant / str(seed) for seed in spec.seeds]
    with files.atomic_folder(layout.SCORES / Kind.GAN / task / variant) as out:
        network, description = features(data, bound)
        devices.prepare(device, deterministic=spec.recipe.deterministic)  # not before, as the features have a recipe
        devices.use_threads(spec.recipe.threads, device)
        metric = fid.reference(network, pixels)
        description |= {"samples": count, "references": len(pixels)}
        found = []
        with Progress(f"fid {task} {variant}", len(runs)) as progress:
            for done, run in enumerate(runs, start=1):
                record: Record = record_in(run)
                if record.finished:
                    began = time.perf_counter()
                    generator = trained_generator(record, run, device)
                    found.append(fid.fid(metric, generator, spec, record.seed, count, device))
                    seconds = {"fid": time.perf_counter() - began}
                    record = record.with_scores({"fid": found[-1], "fid_features": description}, seconds)
                    files.copy(run / SAMPLES, out / f"{record.seed}.png")
                record.write(out / f"{record.seed}.json")
                progress.update(done, f"seed {record.seed}")
            progress.close(", ".join(f"{value:.2f}" for value in found) or "no finished run")


def features(data: Splits, bound: Bound) -> tuple[fid.Features, dict[str, Any]]:
    """Returns the network from uint8 images to the compared features, and its description for the records.

    The network is a classifier of the dataset that is trained once and kept in the run store. It is independent of
    variants and seeds. Raises UserError if its training diverged.
    """
    if bound.classes < 2:  # `bind` says so before the training.
        raise UserError(
            f"dataset {bound.name}: has 1 class, but the FID needs the features of a classifier of 2 or more"
        )
    run = feature_run(bound)
    claim_and_train(run, lambda: data)
    record = store.record(run.id)
    if not record.finished:
        raise UserError(f"{store.folder(run.id)}: the classifier of {bound.name} whose features the FID needs diverged")
    model: nn.Module = trained_classifier(record, store.folder(run.id), data.device)
    network = fid.Features(model, data.train)
    description = {
        "network": f"{fid.CLASSIFIER} (width {fid.WIDTH}) trained on {bound.name} for {fid.RECIPE.epochs} epochs",
        "run": run.id,
        "test_accuracy": record.metrics["clean_accuracy"],
        "dimensions": network.num_features,
    }
    return network, description


def feature_run(bound: Bound) -> Run:
    """Returns the run that trains the classifier of a dataset for the FID."""
    task = Task(
        name=FID_FEATURES,
        seed=0,
        seeds=[0],
        dataset=bound.name,
        model=fid.CLASSIFIER,
        model_options=models.get(fid.CLASSIFIER).options() | {"width": fid.WIDTH},
        model_code=code.model(fid.CLASSIFIER),
        recipe=fid.RECIPE,
    )
    variant = Variant(
        name=fid.METHOD,
        method=fid.METHOD,
        options=dataclasses.asdict(methods.build(fid.METHOD, {})),
        method_code=code.method(fid.METHOD),
    )
    digest = code.training(Kind.CLASSIFICATION)
    return Run(Kind.CLASSIFICATION, task, variant, 0, bound, digest, f"train the features of {bound.name}")
