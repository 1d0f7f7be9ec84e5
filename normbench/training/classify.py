"""The training of classifiers: each run leaves its weights, its predictions and its record in the run store."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from normbench.data.batches import Batches, Images
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import provenance, store
from normbench.runs import run as runs
from normbench.runs.checkpoint import Checkpoints, save_weights
from normbench.runs.run import Run
from normbench.system import device as devices
from normbench.system import files, layout, preemption
from normbench.system.progress import Progress
from normbench.system.seeds import derive
from normbench.training import loop
from normbench.training.compilation import keep_compiled
from normbench.training.logits import logits
from normbench.training.numerics import settled

WEIGHTS, PREDICTIONS = "weights.pt", "predictions.npz"


def train(task: str, variant: str) -> None:
    """Train every seed of a task and variant that the run store lacks."""
    runs.complete("classification", task, variant, loop.__file__, train_run, layout.TRAINED / task / variant, settled)


def train_run(run: Run, data: dict[str, Images]) -> None:
    """One run into the run store: weights, predictions on the clean test images, and last of all the record."""
    task, variant = run.task, run.variant
    images, training_set = loop.training_set(data["train"], task, run.bound["classes"])
    device = images.pixels.device.type
    numerics = run.numerics or devices.by_rule(task["recipe"], device)
    recipe = task["recipe"] | {"precision": numerics.precision}
    started, clock = provenance.now(), [time.perf_counter()]
    keep_compiled(str(layout.store() / "compiled"))
    torch.manual_seed(derive(task["seed"], "init", run.seed))  # layers and methods draw from torch's own generator
    method = methods.build(variant["method"], variant["options"])
    channels = images.pixels.shape[1]
    model = models.classifier(task["model"], task["model_options"], method, channels, run.bound["classes"])
    wanted = numerics.memory_format
    model = devices.placed(model, device, wanted)
    images, test = images.made_for(model, wanted), data["test"].made_for(model, wanted)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    clock.append(time.perf_counter())

    with Progress(run.title, recipe["epochs"]) as progress:
        first: list[float] = []  # step and time of the first report: a resumed run has steps that it did not make

        def report(epoch: int, step: int, steps: int, loss: float) -> None:
            now = [epoch * steps + step, time.perf_counter()]
            first[:] = first or now
            speed = (now[0] - first[0]) * recipe["batch_size"] / max(now[1] - first[1], 1e-9)
            fields = f"epoch {epoch + 1}/{recipe['epochs']}, loss {loss:.3f}, {speed:,.0f} images/s"
            progress.update(epoch + step / steps, fields)

        checkpoints = Checkpoints(store.unfinished(run.id))
        with preemption.saved():
            seed = derive(task["seed"], "order", run.seed)
            outcome = loop.fit(model, method, images, recipe, seed, report, checkpoints)
        clock.append(time.perf_counter())
        recipe |= {"precision": outcome.precision}
        metrics: dict[str, Any] = {"history": outcome.history, "training_set": training_set}
        predicted = None
        if outcome.diverged is None:
            scores = logits(model, test, test.pixels, recipe["precision"])
            predicted = scores.argmax(1).numpy()
            metrics["clean_accuracy"] = float((predicted == test.labels.cpu().numpy()).mean())
        clock.append(time.perf_counter())
        status = "finished" if outcome.diverged is None else "diverged"
        accuracy = f"clean accuracy {metrics['clean_accuracy']:.4f}" if predicted is not None else ""
        progress.close(accuracy or f"diverged at step {outcome.diverged['step'] if outcome.diverged else 0}")

    speed = images_per_second(outcome, len(images))
    with files.atomic_folder(store.folder(run.id)) as folder:
        save_weights(model, folder / WEIGHTS)
        if predicted is not None:
            np.savez_compressed(folder / PREDICTIONS, predicted=predicted.astype(np.int32))
        memory = measure_memory(model, method, images, recipe)
        clock.append(time.perf_counter())
        phases = ("setup", "train", "evaluate", "memory")
        record = {
            "run": run.id,
            "kind": "classification",
            "seed": run.seed,
            "status": status,
            "diverged": outcome.diverged,
            "metrics": metrics,
            "cost": {
                "images_per_second": speed,
                "peak_memory_bytes": memory,
                "parameters": parameters,
                "epoch_seconds": outcome.epoch_seconds,
                "resumed": outcome.resumed,
                "seconds": {name: b - a for name, (a, b) in zip(phases, pairwise(clock), strict=True)}
                | {"train": outcome.seconds, "compile": outcome.compile_seconds, "checkpoints": checkpoints.spent},
            },
            "provenance": provenance.collect(task, variant, run.bound, run.code, device, started)
            | {
                "numerics": {
                    "precision": outcome.precision,
                    "memory_format": devices.memory_format_name(model, device, wanted),
                    "step_seconds": numerics.step_seconds,
                }
            },
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
        loss, _ = loop.step_loss(model, model, method, x, y, recipe, device)
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    return devices.step_memory(model, step, device)
