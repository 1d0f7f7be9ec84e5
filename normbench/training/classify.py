"""All seeds of a task and variant: from the run store where they are finished, else trained, recorded and stored."""

from __future__ import annotations

import functools
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench import device as devices
from normbench import files, fingerprint, jobs, layout, provenance, store
from normbench.data.batches import Batches, Images, on_device
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.progress import Progress
from normbench.seeds import derive
from normbench.training import loop

WEIGHTS, PREDICTIONS = "weights.pt", "predictions.npz"


def train(task: str, variant: str) -> None:
    """Train every seed of a task and variant that the run store lacks."""
    task_spec = files.read_json(layout.RESOLVED / f"tasks/{task}.json")
    variant_spec = files.read_json(layout.RESOLVED / f"variants/{variant}.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    code = fingerprint.code([loop.__file__])
    device = devices.choose()
    devices.prepare(device)
    ids = {
        seed: store.run_id("classification", task_spec, variant_spec, bound["fingerprint"], seed, code)
        for seed in task_spec["seeds"]
    }
    data = functools.cache(lambda: load(Path(bound["path"]), device))
    missing = []
    for seed, run in ids.items():
        title = f"train {task} {variant} seed {seed}{place(task, variant, seed)}"
        if store.finished(run):
            print(f"{title}: finished before, taken from {store.folder(run)}", flush=True)
        else:
            missing.append(
                lambda run=run, seed=seed, title=title: train_run(
                    run, task_spec, variant_spec, seed, data(), bound, code, title
                )
            )
    jobs.side_by_side(missing, device, len(ids))
    with files.atomic_folder(layout.TRAINED / task / variant) as out:
        for seed, run in ids.items():
            store.fetch(run, out / str(seed))


def place(task: str, variant: str, seed: int) -> str:
    """`, run 4 of 24`: where a run stands in the suite; nothing where that is not known."""
    try:
        suite = files.read_json(layout.RESOLVED / "suite.json")
    except OSError:
        return ""
    runs = [(t, v, s) for t in suite["tasks"] for v in suite["variants"] for s in suite["seeds"]]
    runs += [(t, v, s) for t in suite["gan_tasks"] for v in suite["gan_variants"] for s in suite["seeds"]]
    return f", run {runs.index((task, variant, seed)) + 1} of {len(runs)}" if (task, variant, seed) in runs else ""


def load(path: Path, device: str) -> dict[str, Images]:
    """`train` and `test` of a dataset's folder, on the device."""
    meta = files.read_json(path / "meta.json")
    return {
        split: on_device(
            torch.from_numpy(np.load(path / f"{split}_images.npy")),
            torch.from_numpy(np.load(path / f"{split}_labels.npy")),
            meta["mean"],
            meta["std"],
            device,
        )
        for split in ("train", "test")
    }


def train_run(
    run: str,
    task: dict[str, Any],
    variant: dict[str, Any],
    seed: int,
    data: dict[str, Images],
    bound: dict[str, Any],
    code: str,
    title: str,
) -> None:
    """One run into the run store: weights, predictions on the clean test images, and last of all the record."""
    recipe, images = task["recipe"], data["train"]
    device = images.pixels.device.type
    started, clock = provenance.now(), [time.perf_counter()]
    torch.manual_seed(derive(task["seed"], "init", seed))  # layers and methods draw from torch's own generator
    method = methods.build(variant["method"], variant["options"])
    channels = images.pixels.shape[1]
    model = models.classifier(task["model"], task["model_options"], method, channels, bound["classes"])
    model = model.to(device).to(memory_format=devices.memory_format(device))
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    clock.append(time.perf_counter())

    with Progress(title, recipe["epochs"]) as progress:
        began = time.perf_counter()

        def report(epoch: int, step: int, steps: int, loss: float) -> None:
            seen = (epoch * steps + step) * recipe["batch_size"]
            speed = seen / (time.perf_counter() - began)
            fields = f"epoch {epoch + 1}/{recipe['epochs']}, loss {loss:.3f}, {speed:,.0f} images/s"
            progress.update(epoch + step / steps, fields)

        outcome = loop.fit(model, method, images, recipe, derive(task["seed"], "order", seed), report)
        clock.append(time.perf_counter())
        metrics: dict[str, Any] = {"history": outcome.history}
        predicted = None
        if outcome.diverged is None:
            test = data["test"]
            scores = loop.logits(model, test, test.pixels, recipe["precision"])
            predicted = scores.argmax(1).numpy()
            metrics["clean_accuracy"] = float((predicted == test.labels.cpu().numpy()).mean())
        clock.append(time.perf_counter())
        status = "finished" if outcome.diverged is None else "diverged"
        accuracy = f"clean accuracy {metrics['clean_accuracy']:.4f}" if predicted is not None else ""
        progress.close(accuracy or f"diverged at step {outcome.diverged['step'] if outcome.diverged else 0}")

    speed = images_per_second(outcome, len(images))
    with files.atomic_folder(store.folder(run)) as folder:
        torch.save(model.state_dict(), folder / WEIGHTS)
        if predicted is not None:
            np.savez_compressed(folder / PREDICTIONS, predicted=predicted.astype(np.int32))
        memory = measure_memory(model, method, images, recipe)
        clock.append(time.perf_counter())
        phases = ("setup", "train", "evaluate", "memory")
        record = {
            "run": run,
            "kind": "classification",
            "seed": seed,
            "status": status,
            "diverged": outcome.diverged,
            "metrics": metrics,
            "cost": {
                "images_per_second": speed,
                "peak_memory_bytes": memory,
                "parameters": parameters,
                "epoch_seconds": outcome.epoch_seconds,
                "seconds": {name: b - a for name, (a, b) in zip(phases, pairwise(clock), strict=True)},
            },
            "provenance": provenance.collect(task, variant, bound, code, device, started),
        }
        files.write_json(folder / store.RECORD, record)


def images_per_second(outcome: loop.Outcome, images: int) -> float | None:
    """Training images a second, median over the epochs after the first, in which kernels are chosen and warmed up."""
    seconds = outcome.epoch_seconds[1:] or outcome.epoch_seconds
    return images / float(np.median(seconds)) if seconds else None


def measure_memory(model: torch.nn.Module, method: Any, images: Images, recipe: dict[str, Any]) -> int | None:
    """Peak bytes of a training step, measured when all that a run leaves is made, as it moves the weights."""
    device = images.pixels.device.type
    model.train()
    optim = loop.optimizer(model, method, recipe)
    batches = Batches(images, recipe["batch_size"], recipe["crop_padding"], recipe["flip"], recipe["drop_last"], 0)
    x, y = next(batches.epoch(0))

    def step() -> None:
        loss, _ = loop.step_loss(model, method, x, y, recipe, device)
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    return devices.step_memory(model, step, device)
