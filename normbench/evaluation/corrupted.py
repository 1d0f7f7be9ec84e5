"""Accuracy of trained classifiers on corrupted test images."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench import device as devices
from normbench import files, jobs, layout, store
from normbench.data.batches import on_device
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.progress import Progress
from normbench.training.classify import WEIGHTS
from normbench.training.loop import logits


def evaluate(task: str, variant: str) -> None:
    """Add the accuracy on every corruption and severity to the records of a task and variant."""
    task_spec = files.read_json(layout.RESOLVED / f"tasks/{task}.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    corrupted = files.read_json(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    with files.atomic_folder(layout.SCORES / "classification" / task / variant) as out:
        scorings = []
        for seed in task_spec["seeds"]:
            run, title = layout.TRAINED / task / variant / str(seed), f"evaluate {task} {variant} seed {seed}"
            scorings.append(functools.partial(score, run, out / f"{seed}.json", bound, corrupted, device, title))
        jobs.side_by_side(scorings, device, len(scorings))


def score(run: Path, out: Path, bound: dict[str, Any], corrupted: dict[str, Any], device: str, title: str) -> None:
    """Write the record of a run with its accuracies on corrupted images; as it is where the run did not finish."""
    record = files.read_json(run / store.RECORD)
    if record["status"] == "finished":
        began = time.perf_counter()
        model = network(record, run / WEIGHTS, bound, device)
        precision = record["provenance"]["task"]["recipe"]["precision"]
        record["metrics"]["corruption_accuracy"] = accuracies(model, bound, corrupted, precision, device, title)
        record["cost"]["seconds"]["corruptions"] = time.perf_counter() - began
        record["provenance"]["corrupted"] = corrupted
    files.write_json(out, record)


def network(record: dict[str, Any], weights: Path, bound: dict[str, Any], device: str) -> torch.nn.Module:
    """The trained network of a record, in evaluation mode."""
    task, variant = record["provenance"]["task"], record["provenance"]["variant"]
    method = methods.build(variant["method"], variant["options"])
    model = models.classifier(task["model"], task["model_options"], method, bound["channels"], bound["classes"])
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return model.to(device).to(memory_format=devices.memory_format(device)).eval()


def accuracies(
    model: torch.nn.Module,
    bound: dict[str, Any],
    corrupted: dict[str, Any],
    precision: str,
    device: str,
    title: str,
) -> dict[str, list[float]]:
    """Corruption -> accuracy at each of the severities, in their order."""
    meta = files.read_json(Path(bound["path"]) / "meta.json")
    labels = torch.from_numpy(np.load(Path(bound["path"]) / "test_labels.npy"))
    names, severities = corrupted["names"], corrupted["severities"]
    found: dict[str, list[float]] = {}
    with Progress(title, len(names)) as progress:
        for index, name in enumerate(names):
            stored = np.load(Path(corrupted["path"]) / f"{name}.npy", mmap_mode="r")
            found[name] = []
            for level in range(len(severities)):
                block = torch.from_numpy(np.array(stored[level * len(labels) : (level + 1) * len(labels)]))
                images = on_device(block, labels, meta["mean"], meta["std"], device)
                predicted = logits(model, images, images.pixels, precision).argmax(1)
                found[name].append(float((predicted == labels).double().mean()))
            progress.update(index + 1, name)
        progress.close(f"corruption accuracy {np.mean(list(found.values())):.4f}")
    return found
