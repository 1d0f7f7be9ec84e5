"""Accuracy of trained classifiers on corrupted test images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench import device as devices
from normbench import files, layout, store
from normbench.data.batches import Images, on_device
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
    devices.prepare(device)
    runs = [layout.TRAINED / task / variant / str(seed) for seed in task_spec["seeds"]]
    records = [files.read_json(run / store.RECORD) for run in runs]
    with files.atomic_folder(layout.SCORES / "classification" / task / variant) as out:
        finished = [i for i, record in enumerate(records) if record["status"] == "finished"]
        networks = [network(records[i], runs[i] / WEIGHTS, bound, device) for i in finished]
        began = time.perf_counter()
        accuracy = accuracies(networks, bound, corrupted, task_spec["recipe"]["precision"], device, f"{task} {variant}")
        for i, found in zip(finished, accuracy, strict=True):
            records[i]["metrics"]["corruption_accuracy"] = found
            records[i]["cost"]["seconds"]["corruptions"] = (time.perf_counter() - began) / len(finished)
            records[i]["provenance"]["corrupted"] = corrupted
        for record in records:
            files.write_json(out / f"{record['seed']}.json", record)


def network(record: dict[str, Any], weights: Path, bound: dict[str, Any], device: str) -> torch.nn.Module:
    """The trained network of a record, in evaluation mode."""
    task, variant = record["provenance"]["task"], record["provenance"]["variant"]
    method = methods.build(variant["method"], variant["options"])
    model = models.classifier(task["model"], task["model_options"], method, bound["channels"], bound["classes"])
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return model.to(device).to(memory_format=torch.channels_last).eval()


def accuracies(
    networks: list[torch.nn.Module],
    bound: dict[str, Any],
    corrupted: dict[str, Any],
    precision: str,
    device: str,
    title: str,
) -> list[dict[str, list[float]]]:
    """For each network: corruption -> accuracy at each severity, in order. Images are read once for all."""
    meta = files.read_json(Path(bound["path"]) / "meta.json")
    found: list[dict[str, list[float]]] = [{} for _ in networks]
    labels = torch.from_numpy(np.load(Path(bound["path"]) / "test_labels.npy"))
    names, severities = corrupted["names"], corrupted["severities"]
    with Progress(f"evaluate {title}", len(names)) as progress:
        for index, name in enumerate(names):
            stored = np.load(Path(corrupted["path"]) / f"{name}.npy", mmap_mode="r")
            for scores in found:
                scores[name] = []
            for level in range(len(severities)):
                block = torch.from_numpy(np.array(stored[level * len(labels) : (level + 1) * len(labels)]))
                images: Images = on_device(block, labels, meta["mean"], meta["std"], device)
                for model, scores in zip(networks, found, strict=True):
                    predicted = logits(model, images, images.pixels, precision).argmax(1)
                    scores[name].append(float((predicted == labels).double().mean()))
            progress.update(index + 1, name)
        mean = [np.mean(list(scores.values())) for scores in found]
        progress.close(f"corruption accuracy {np.mean(mean):.4f}" if mean else "no finished run")
    return found
