"""FID, the Frechet distance between generated and real images; Heusel et al., arXiv 1706.08500.

The features are those of a classifier that is trained on the dataset itself. Published values are measured in features
of Inception, which was trained on ImageNet: the two cannot be compared.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.gan import train as gan
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import fingerprint, store
from normbench.runs import run as runs
from normbench.runs.run import Run, load
from normbench.suite.schema import Recipe
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.progress import Progress
from normbench.system.seeds import derive
from normbench.training import classify, loop

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

CLASSIFIER, WIDTH, EPOCHS = "resnet8", 16, 4  # whose features are compared
MOST_SAMPLES = 10_000  # where the recipe does not say how many
BATCH = 500


def score(task: str, variant: str) -> None:
    """Add the FID to the records of a GAN task and variant."""
    task_spec = files.read_json(layout.RESOLVED / f"gan_tasks/{task}.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    chosen = devices.choose()
    device = "cpu" if chosen == "mps" else chosen  # MPS has no float64
    devices.prepare(device)
    data = load(Path(bound["path"]), device)
    pixels = data["train"].pixels
    count = task_spec["recipe"]["fid_samples"] or min(len(pixels), MOST_SAMPLES)
    runs = [layout.GENERATED / task / variant / str(seed) for seed in task_spec["seeds"]]
    records = [files.read_json(run / store.RECORD) for run in runs]
    with files.atomic_folder(layout.SCORES / "gan" / task / variant) as out:
        feature_network, description = features(data, bound)
        metric = reference(feature_network, pixels)
        with Progress(f"fid {task} {variant}", len(runs)) as progress:
            found = []
            for done, (run, record) in enumerate(zip(runs, records, strict=True), start=1):
                if record["status"] == "finished":
                    began = time.perf_counter()
                    network, seed = generator(record, run, device), derive(task_spec["seed"], "fid", record["seed"])
                    images = gan.sample(network, task_spec["recipe"]["latent"], count, seed, device)
                    found.append(distance(metric, images))
                    counts = {"samples": count, "references": len(pixels)}
                    record["metrics"] |= {"fid": found[-1], "fid_features": description | counts}
                    record["cost"]["seconds"]["fid"] = time.perf_counter() - began
                    shutil.copyfile(run / gan.SAMPLES, out / f"{record['seed']}.png")
                files.write_json(out / f"{record['seed']}.json", record)
                progress.update(done, f"seed {record['seed']}")
            progress.close(", ".join(f"{value:.2f}" for value in found) or "no finished run")


def generator(record: dict[str, Any], run: Path, device: str) -> nn.Module:
    """The trained generator of a record, in evaluation mode."""
    task, variant = record["provenance"]["task"], record["provenance"]["variant"]
    method = methods.build(variant["method"], variant["options"])
    network, _ = gan.networks(task, method, record["provenance"]["dataset"])
    network.load_state_dict(torch.load(run / gan.GENERATOR, weights_only=True, map_location="cpu"))
    return devices.placed(network, device).eval()


class Features(nn.Module):
    """uint8 (N, C, H, W) -> what a classifier gives to its last layer, float64 (N, num_features)."""

    def __init__(self, classifier: nn.Module, images: Images):
        super().__init__()
        head = classifier.get_submodule("head")
        assert isinstance(head, nn.Linear)
        self.num_features = head.in_features
        classifier.set_submodule("head", nn.Identity())
        self.classifier, self.images = classifier.eval(), images

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.images.normalized(pixels)).double()


def features(data: dict[str, Images], bound: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The network from uint8 images to the features that are compared, and what records say of it.

    It is a classifier of the dataset, trained once and kept in the run store; no variant or seed has a part in it.
    """
    recipe = Recipe(epochs=EPOCHS, batch_size=64, crop_padding=1, precision="float32").model_dump()
    task: dict[str, Any] = {
        "name": runs.FID_FEATURES,
        "seed": 0,
        "dataset": bound["name"],
        "model": CLASSIFIER,
        "model_options": {"width": WIDTH},
        "model_code": fingerprint.code([models.source_file(CLASSIFIER)]),
        "recipe": recipe,
    }
    variant: dict[str, Any] = {
        "name": "batch_norm",
        "method": "batch_norm",
        "options": {},
        "method_code": fingerprint.code([methods.source_file("batch_norm")]),
    }
    code = fingerprint.code([loop.__file__])
    run = store.run_id("classification", task, variant, bound["fingerprint"], 0, code)
    if not store.finished(run):
        title = f"train the features of {bound['name']}"
        runs.claim_and_train(Run(run, task, variant, 0, bound, code, title), classify.train_run, lambda: data)
    record = store.record(run)
    if record["status"] != "finished":
        raise UserError(f"{store.folder(run)}: the classifier of {bound['name']} whose features the FID needs diverged")
    method = methods.build(variant["method"], variant["options"])
    model = models.classifier(CLASSIFIER, task["model_options"], method, bound["channels"], bound["classes"])
    weights = store.folder(run) / classify.WEIGHTS
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    images = data["train"]
    device = images.pixels.device.type
    network = Features(devices.placed(model, device), images)
    description = {
        "network": f"{CLASSIFIER} (width {WIDTH}) trained on {bound['name']} for {EPOCHS} epochs",
        "run": run,
        "test_accuracy": record["metrics"]["clean_accuracy"],
        "dimensions": network.num_features,
    }
    return network, description


def reference(network: nn.Module, pixels: Tensor) -> FrechetInceptionDistance:
    """A metric that holds the real images, uint8 (N, C, H, W). Its sums and what it makes of them are float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=network, reset_real_features=False).to(pixels.device)
    for block in pixels.split(BATCH):
        metric.update(block, real=True)
    return metric


def distance(metric: FrechetInceptionDistance, pixels: Tensor) -> float:
    """The FID of images, uint8 (N, C, H, W), to those that the metric holds."""
    for block in pixels.split(BATCH):
        metric.update(block, real=False)
    found = metric.compute().item()
    metric.reset()
    return found
