"""Measures the training speed of normbench against a plain torchvision and DataLoader loop.

Both train the same network. The plain loop is the usual script: torchvision transforms on PIL images, a DataLoader with
two workers, SGD, the loss read at each step, float32. normbench trains in float32 and, if the device has it, in
bfloat16. All of them take turns on the same random images of CIFAR-10's size. On a CPU each turn has its own forked
process, so that it does not inherit the allocator settings or threads of another. Each turn has two epochs, of which
the second counts, and the first turn does not count. The table has medians of images per second and their ratios.

    python -m benchmarks.training [--model resnet20] [--method batch_norm] [--images 2560] [--turns 5] [--threads 2]

On a GPU all turns are in this process. The last row is input and augmentation alone.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
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

from benchmarks import machine
from normbench.data.augmentation import Augmentation
from normbench.data.batches import on_device
from normbench.functional import placement
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system import device as devices
from normbench.training import loop
from normbench.training.recipe import Recipe

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Photographs(Dataset):
    """Images and labels in the form that torchvision's CIFAR10 gives them."""

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
    """Returns the images per second of the usual script in its second epoch.

    Its workers persist between epochs, because starting them takes half a second, which is little in an epoch of a
    whole dataset.
    """
    torch.set_num_threads(arguments.threads)
    method = methods.build(arguments.method, {})
    model = models.classifier(arguments.model, {}, method, 3, 10).to(device).train()
    optim = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    loader = DataLoader(
        Photographs(pixels, labels),
        arguments.batch_size,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )
    for _ in range(2):
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
        seconds = time.perf_counter() - start
    return len(pixels) / seconds


def ours(arguments: argparse.Namespace, pixels: np.ndarray, labels: np.ndarray, device: str, precision: str) -> float:
    """Returns the images per second of normbench's loop in its second epoch."""
    torch.set_num_threads(arguments.threads)
    devices.prepare(device)
    recipe = Recipe(
        epochs=2, batch_size=arguments.batch_size, weight_decay=1e-3, crop_padding=4, flip=True, precision=precision
    )
    method = methods.build(arguments.method, {})
    model = placement.placed(models.classifier(arguments.model, {}, method, 3, 10), device, recipe.memory_format)
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), MEAN, STD, device)
    images = images.made_for(model, recipe.memory_format)
    return len(pixels) / loop.fit(model, method, images, recipe, 0, lambda *_: None).epoch_seconds[-1]


def apart(work: Callable[[], float]) -> float:
    """Returns the result of a function that is called in a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=lambda: there.send(work()))
    child.start()
    there.close()
    try:
        return here.recv()
    finally:
        child.join()


def input_alone(arguments: argparse.Namespace, pixels: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Returns the images per second of the batches alone, without a network."""
    torch.set_num_threads(arguments.threads)
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), MEAN, STD, device)
    batches = images.batches(arguments.batch_size, False, 0, Augmentation(4, True))
    for _ in batches.epoch(0):
        pass
    start = time.perf_counter()
    for _ in batches.epoch(1):
        pass
    if device == "cuda":
        torch.cuda.synchronize()
    return len(pixels) / (time.perf_counter() - start)


def main() -> None:
    """Takes the turns and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--method", default="batch_norm")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process that has used threads must not fork
    device = devices.choose()
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8)
    labels = chance.integers(0, 10, arguments.images)
    precisions = ["float32", *(["bfloat16"] if devices.has_bfloat16(device) else [])]
    rows: dict[str, Callable[..., float]] = {"plain loop": plain}
    rows |= {f"normbench, {each}": functools.partial(ours, precision=each) for each in precisions}
    rows |= {"input and augmentation": input_alone}
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(arguments.turns + 1):
        for name, function in rows.items():
            work = functools.partial(function, arguments, pixels, labels, device)
            speed = apart(work) if device == "cpu" else work()
            if number:
                speeds[name].append(speed)
            print(f"turn {number}: {name} {speed:,.0f} images/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    where = f"{device}, {arguments.threads} threads"
    print(machine.description())
    print(f"{arguments.model}, {arguments.method}, batches of {arguments.batch_size}, {where}")
    for name, median in medians.items():
        ratio = f"{median / medians['plain loop']:.2f} x plain" if name.startswith("normbench") else ""
        print(f"  {name:<36} {median:>10,.0f} images/s  {ratio}")
    share = medians[f"normbench, {precisions[-1]}"] / medians["input and augmentation"]
    print(f"  input and augmentation are {100 * share:.2f} % of a step")


if __name__ == "__main__":
    main()
