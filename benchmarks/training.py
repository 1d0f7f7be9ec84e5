"""Training speed of normbench, against a plain torchvision and DataLoader loop that trains the same network.

The plain loop is the usual script: torchvision transforms on PIL images, a DataLoader with two workers, SGD, the loss
read at each step. Both train in turns, each turn in a process that this one forks (so that neither finds the other's
allocator settings or threads), on the same random images of CIFAR-10's size; a first turn of each is not counted. The
table has medians of images a second and their ratio.

    python -m benchmarks.training [--model resnet20] [--method batch_norm] [--images 2560] [--turns 5] [--threads 2]

On a GPU the turns are taken in this process, and a third row has the time of input and augmentation alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from normbench import device as devices
from normbench.config import Recipe
from normbench.data.batches import Batches, on_device
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.training import loop

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Photographs(Dataset):
    """Images as torchvision's CIFAR10 gives them."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        self.pixels, self.labels = pixels, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def plain(arguments: argparse.Namespace, pixels: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Images a second of one epoch of the usual script."""
    method = methods.build(arguments.method, {})
    model = models.classifier(arguments.model, {}, method, 3, 10).to(device).train()
    optim = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    loader = DataLoader(
        Photographs(pixels, labels), arguments.batch_size, shuffle=True, num_workers=2, pin_memory=device == "cuda"
    )
    start = time.perf_counter()
    for x, y in loader:
        loss = functional.cross_entropy(model(x.to(device)), y.to(device))
        penalty = method.penalty(model)
        if penalty is not None:
            loss = loss + penalty
        optim.zero_grad()
        loss.backward()
        optim.step()
        loss.item()
    return len(pixels) / (time.perf_counter() - start)


def ours(arguments: argparse.Namespace, pixels: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Images a second of one epoch of normbench's loop."""
    devices.prepare(device)
    method = methods.build(arguments.method, {})
    model = devices.placed(models.classifier(arguments.model, {}, method, 3, 10), device)
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), MEAN, STD, device).made_for(model)
    settings = {"batch_size": arguments.batch_size, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    epochs = 1 if device == "cpu" else 3  # a GPU chooses its kernels in the first
    recipe = Recipe(epochs=epochs, crop_padding=4, flip=True, **settings).model_dump()
    outcome = loop.fit(model, method, images, recipe, 0, lambda *_: None)
    return len(pixels) / outcome.epoch_seconds[-1]


def input_alone(arguments: argparse.Namespace, pixels: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Images a second of the batches without a network."""
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), MEAN, STD, device)
    batches = Batches(images, arguments.batch_size, 4, True, False, 0)
    for _ in batches.epoch(0):
        pass
    start = time.perf_counter()
    for _ in batches.epoch(1):
        pass
    if device == "cuda":
        torch.cuda.synchronize()
    return len(pixels) / (time.perf_counter() - start)


def turn(work: Callable[[], float], threads: int) -> float:
    """What the work returns, in a process of its own with so many threads."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        torch.set_num_threads(threads)
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = json.load(pipe)
    os.waitpid(pid, 0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--method", default="batch_norm")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads cannot be forked
    device = devices.choose()
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8)
    labels = chance.integers(0, 10, arguments.images)
    rows = {"plain loop": plain, "normbench": ours, "input and augmentation": input_alone}
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(arguments.turns + 1):
        for name, function in rows.items():
            work = functools.partial(function, arguments, pixels, labels, device)
            speed = turn(work, arguments.threads) if device == "cpu" else work()
            if number:
                speeds[name].append(speed)
            print(f"turn {number}: {name} {speed:,.0f} images/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    where = f"{device}, {arguments.threads} threads"
    print(f"{arguments.model}, {arguments.method}, batches of {arguments.batch_size}, {where}")
    for name, median in medians.items():
        print(f"  {name:<24} {median:>10,.0f} images/s")
    print(f"  normbench / plain loop   {medians['normbench'] / medians['plain loop']:>10.2f}")
    share = medians["normbench"] / medians["input and augmentation"]
    print(f"  input and augmentation   {100 * share:>10.2f} % of a step")


if __name__ == "__main__":
    main()
