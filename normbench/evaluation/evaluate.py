"""The scores of trained classifiers: on clean and corrupted test images, and on images chosen to fool them."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, channels_first, on_device
from normbench.evaluation.auto_attack import auto_attack
from normbench.evaluation.batch_statistics import batch_layers, with_batch_statistics
from normbench.evaluation.calibration import accuracy, calibration, finite
from normbench.evaluation.lipschitz import features, smoothness
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import store
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system import side_by_side as jobs
from normbench.system.progress import Progress
from normbench.system.seeds import derive
from normbench.training.attacks import fgsm, pgd
from normbench.training.classify import WEIGHTS
from normbench.training.logits import logits

LEVELS = 255  # of a pixel; lengths of attacks are given in these
SUSPICIOUS = 0.2  # by how much FGSM may leave more accuracy than PGD before a run is marked


def evaluate(task: str, variant: str) -> None:
    """Add the scores of `params.yaml`'s `evaluation` to the records of a task and variant."""
    task_spec = files.read_json(layout.RESOLVED / f"tasks/{task}.json")
    settings = files.read_json(layout.RESOLVED / "evaluation.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    corrupted = files.read_json(layout.BOUND / f"{task}.corrupted.json")
    device = devices.choose()
    if device == "cpu":
        devices.keep_freed_memory()
    with files.atomic_folder(layout.SCORES / "classification" / task / variant) as out:
        scorings = []
        for seed in task_spec["seeds"]:
            run, title = layout.TRAINED / task / variant / str(seed), f"evaluate {task} {variant} seed {seed}"
            scorings.append(functools.partial(score, run, out / str(seed), bound, corrupted, settings, device, title))
        jobs.side_by_side(scorings, device, len(scorings))


def score(
    run: Path,
    out: Path,
    bound: dict[str, Any],
    corrupted: dict[str, Any],
    settings: dict[str, Any],
    device: str,
    title: str,
) -> None:
    """Write `<out>.json`, the record with its scores, and `<out>.npz`, the predicted class of each image.

    The record as it is, and no predictions, where the run did not finish.
    """
    record = files.read_json(run / store.RECORD)
    if record["status"] == "finished":
        began = time.perf_counter()
        model = network(record, run / WEIGHTS, bound, device)
        images = held_out(bound, device).made_for(model, wanted(record, device))
        precision = record["provenance"]["numerics"]["precision"]
        if device != record["provenance"]["device"]["type"] or not devices.has_bfloat16(device):
            precision = "float32"  # which every device has
        seed = record["provenance"]["task"]["seed"]
        found, predicted = on_corrupted(model, images, corrupted, settings, precision, seed, title)
        record["metrics"] |= found
        record["cost"]["seconds"]["corruptions"] = time.perf_counter() - began
        if settings["attacks"] is not None:
            began = time.perf_counter()
            record["metrics"]["attacks"] = attacked(model, images, settings["attacks"], seed)
            record["cost"]["seconds"]["attacks"] = time.perf_counter() - began
        if settings["smoothness"] is not None:
            began = time.perf_counter()
            record["metrics"] |= measured(model, record, images, bound, settings["smoothness"])
            record["cost"]["seconds"]["smoothness"] = time.perf_counter() - began
        record["provenance"]["corrupted"], record["provenance"]["evaluation"] = corrupted, settings
        np.savez_compressed(out.with_suffix(".npz"), allow_pickle=False, **predicted)
    files.write_json(out.with_suffix(".json"), record)


def network(record: dict[str, Any], weights: Path | None, bound: dict[str, Any], device: str) -> nn.Module:
    """The trained network of a record, in evaluation mode; without weights, the one that its training began with."""
    task, variant = record["provenance"]["task"], record["provenance"]["variant"]
    method = methods.build(variant["method"], variant["options"])
    torch.manual_seed(derive(task["seed"], "init", record["seed"]))
    model = models.classifier(task["model"], task["model_options"], method, bound["channels"], bound["classes"])
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return devices.placed(model, device, wanted(record, device)).eval()


def wanted(record: dict[str, Any], device: str) -> str:
    """The memory format of a run, where it was trained on such a device."""
    origin = record["provenance"]
    return origin["numerics"]["memory_format"] if origin["device"]["type"] == device else "channels_last"


def measured(
    model: nn.Module, record: dict[str, Any], images: Images, bound: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """`smoothness` and `features`: the latter of the network as it is, and of batches at initialization."""
    seed, device = record["provenance"]["task"]["seed"], images.pixels.device
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(seed, "smoothness")))
    chosen = drawn[: settings["examples"]].to(device)
    x = images.normalized(images.pixels[chosen])
    # Before training there are no running statistics: the network is looked at in training mode.
    initial = network(record, None, bound, device.type).train()
    return {
        "smoothness": smoothness(model, images, settings, chosen),
        "features": {"initial": features(initial, x), "trained": features(model, x)},
    }


def held_out(bound: dict[str, Any], device: str) -> Images:
    """The test images of a dataset on the device."""
    folder = Path(bound["path"])
    meta = files.read_json(folder / "meta.json")
    labels = torch.from_numpy(np.load(folder / "test_labels.npy"))
    pixels = torch.from_numpy(np.load(folder / "test_images.npy"))
    return on_device(pixels, labels, meta["mean"], meta["std"], device)


def on_corrupted(
    model: nn.Module,
    clean: Images,
    corrupted: dict[str, Any],
    settings: dict[str, Any],
    precision: str,
    seed: int,
    title: str,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metrics on clean and corrupted images, and predicted classes, int16: `clean` (N,), `corrupted` (names, S, M).

    The corrupted images are those of the M test images `index`, all of them or as many as the settings say, which the
    suite's seed draws. `corruption_accuracy` and `corruption_calibration` go from a corruption to a list over the
    severities. Where batches have a part in the normalization, `batch_statistics` has the accuracies that they give.
    """
    names, severities = corrupted["names"], corrupted["severities"]
    chosen = settings["batch_statistics"]
    by_batch = chosen is not None and bool(batch_layers(model))
    adapted = with_batch_statistics(model, chosen["prior"]) if by_batch else model
    labels = clean.labels.cpu()
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive(seed, "corrupted_examples")))
    index = drawn[: settings["corrupted_examples"]].sort().values.numpy()
    targets = labels[index]
    metrics: dict[str, Any] = {"corruption_accuracy": {}, "corruption_calibration": {}}
    predicted: dict[str, list[Tensor]] = {"clean": [], "corrupted": [], "batch_statistics": []}

    def batchwise(pixels: Tensor) -> Tensor:
        """Logits under the statistics of batches of test images in their order."""
        return finite(logits(adapted, clean, pixels, precision, chosen["batch_size"]))

    with Progress(title, len(names)) as progress:
        scores = finite(logits(model, clean, clean.pixels, precision))
        metrics["calibration"] = calibration(scores, labels)
        predicted["clean"].append(scores.argmax(1))
        if by_batch:
            batch_accuracy: dict[str, list[float]] = {name: [] for name in names}
            metrics["batch_statistics"] = chosen | {
                "clean_accuracy": accuracy(batchwise(clean.pixels), labels),
                "corruption_accuracy": batch_accuracy,
            }
        for number, name in enumerate(names):
            stored = np.load(Path(corrupted["path"]) / f"{name}.npy", mmap_mode="r")
            accuracies, fits = [], []
            for level in range(len(severities)):
                block = stored[level * len(labels) + index]
                pixels = channels_first(torch.from_numpy(block)).to(clean.pixels.device)
                scores = finite(logits(model, clean, pixels, precision))
                accuracies.append(accuracy(scores, targets))
                fits.append(calibration(scores, targets))
                predicted["corrupted"].append(scores.argmax(1))
                if by_batch:
                    scores = batchwise(pixels)
                    batch_accuracy[name].append(accuracy(scores, targets))
                    predicted["batch_statistics"].append(scores.argmax(1))
            metrics["corruption_accuracy"][name] = accuracies
            metrics["corruption_calibration"][name] = {key: [fit[key] for fit in fits] for key in fits[0]}
            progress.update(number + 1, name)
        progress.close(f"corruption accuracy {np.mean(list(metrics['corruption_accuracy'].values())):.4f}")
    cells = (len(names), len(severities), len(index))
    arrays = {"names": np.array(names), "severities": np.array(severities), "index": index}
    for key, values in predicted.items():
        if values:
            stacked = torch.stack(values).to(torch.int16).numpy()
            arrays[key] = stacked[0] if key == "clean" else stacked.reshape(cells)
    return metrics, arrays


def attacked(model: nn.Module, images: Images, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Accuracies under attack, of a subset of the test images that the suite's seed draws.

    `clean`, `fgsm`, `pgd`; as a check for masked gradients, `pgd_long` with more steps on fewer images; `auto_attack`,
    with PGD on the same images. `warning` where FGSM leaves far more than PGD: then one-step training has overfitted,
    or the gradient says nothing. A gradient that is not finite counts as none.
    """
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(seed, "attacked")))
    chosen = drawn[: settings["examples"]].to(images.pixels.device)
    pixels, labels = images.pixels[chosen].float() / LEVELS, images.labels[chosen]
    epsilon, step = settings["epsilon"] / LEVELS, settings["step"] / LEVELS

    def classifier(values: Tensor) -> Tensor:
        x = (values - images.mean) / images.std
        scores = finite(model(x.contiguous(memory_format=images.memory_format)).float())
        if values.requires_grad:
            values.register_hook(lambda gradient: torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
            if not scores.requires_grad:  # the method lets no gradient through
                scores = scores + 0 * values.flatten(1).sum(1, keepdim=True)
        return scores

    def left(count: int, steps: int | None) -> float:
        """Accuracy on the first `count` images after PGD with so many steps, FGSM for None."""
        right = 0.0
        for start in range(0, count, settings["batch_size"]):
            x, y = pixels[start:count][: settings["batch_size"]], labels[start:count][: settings["batch_size"]]
            if steps is None:
                moved = fgsm(classifier, x, y, epsilon)
            else:
                generator = torch.Generator().manual_seed(derive(seed, "attack", start))
                moved = pgd(classifier, x, y, epsilon, step, steps, settings["restarts"], generator)
            with torch.no_grad():
                right += accuracy(classifier(moved), y) * len(y)
        return right / count

    count = len(labels)
    with torch.no_grad():
        found: dict[str, Any] = {"examples": count, "clean": accuracy(classifier(pixels), labels)}
    found["fgsm"], found["pgd"] = left(count, None), left(count, settings["steps"])
    if settings["long_examples"]:
        few = min(settings["long_examples"], count)
        found["pgd_long"] = {"examples": few, "steps": settings["long_steps"], "pgd": left(few, settings["steps"])}
        found["pgd_long"]["pgd_long"] = left(few, settings["long_steps"])
    if settings["auto_attack_examples"]:
        few = min(settings["auto_attack_examples"], count)
        found["auto_attack"] = {"examples": few, "pgd": left(few, settings["steps"])}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)  # the attack calls backward(), which would leave gradients in them
        derived = derive(seed, "auto_attack")
        _, result = auto_attack(classifier, pixels[:few], labels[:few], epsilon, settings["batch_size"], derived)
        found["auto_attack"] |= result
        for parameter in trained:
            parameter.requires_grad_()
    if found["fgsm"] > found["pgd"] + SUSPICIOUS:
        gap = 100 * (found["fgsm"] - found["pgd"])
        found["warning"] = f"FGSM leaves {gap:.1f} points more accuracy than PGD: its gradients cannot be trusted"
    return found
