"""Measures whole networks: a training step and an evaluation with each method, as ratios to batch norm, with goals.

A training step is that of normbench's training loop: input normalization, forward pass, loss with the method's penalty,
backward pass, optimizer and schedule. An evaluation is that of one batch while a network is scored, when what layers
compute from parameters alone is known (`functional/constants.py`). For each network and precision, all methods take
turns in one process; the table has medians and ratios of medians. The images are random, 3 x 32 x 32. bfloat16 is
autocast, and is measured only if the CPU computes it without emulation. The floor is what a perfect implementation
would need at this machine's peaks, by the formulas in `benchmarks/floors.py`, also as a ratio.

    python -m benchmarks.networks [--threads 1 2] [--rounds 9] [--models resnet20 resnet18] [--methods conv_norm ...]
        [--precision float32 bfloat16] [--format channels_last|contiguous]

By default it measures one thread and then as many as there are cores. With one thread, times are processor time, so
that another process disturbs them less; with more, they are times of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import floors, machine
from benchmarks.turns import clock, take_turns
from normbench.data.batches import Images
from normbench.functional import placement
from normbench.functional.constants import unchanging
from normbench.methods import registry as methods
from normbench.models.build import build_classifier
from normbench.system import device as devices
from normbench.training.keeper import Nobody
from normbench.training.logits import logits
from normbench.training.loop import Training
from normbench.training.recipe import Recipe

BASE = "batch_norm"
METHODS = ("network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four")
BATCH_SIZES = {"resnet20": 64, "resnet18": 32}
# What a step and an evaluation may take in multiples of batch norm's, with one thread.
GOALS: dict[tuple[str, str], dict[str, tuple[float, float | None]]] = {
    ("resnet20", "float32"): {
        "network_deconvolution": (2.5, 1.02),
        "conv_norm": (2.4, 2.0),
        "spectral_batch_norm": (1.05, None),
        "fantastic_four": (1.05, None),
    },
    ("resnet20", "bfloat16"): {
        "network_deconvolution": (2.5, 1.02),
        "conv_norm": (3.5, 3.0),
        "spectral_batch_norm": (1.05, None),
        "fantastic_four": (1.05, None),
    },
    ("resnet18", "float32"): {
        "network_deconvolution": (1.9, 1.02),
        "conv_norm": (1.8, 1.6),
        "spectral_batch_norm": (1.03, None),
        "fantastic_four": (1.03, None),
    },
    ("resnet18", "bfloat16"): {
        "network_deconvolution": (2.2, 1.02),
        "conv_norm": (2.4, 2.0),
        "spectral_batch_norm": (1.05, None),
        "fantastic_four": (1.05, None),
    },
}


# The networks whose measured time is part of the floor: those without what the method adds.
WITHOUT = {"network_deconvolution": "no_norm"}


@dataclass(frozen=True)
class Case:
    """A network with a method: a training step and an evaluation of one batch, and what the method adds to each.

    network: the one that the steps train. trained: the one that the evaluation is of.
    """

    network: nn.Module
    trained: nn.Module
    step: Callable[[], object]
    evaluation: Callable[[], object]
    step_parts: list[floors.Part]
    evaluation_parts: list[floors.Part]


def case(model: str, name: str, recipe: Recipe) -> Case:
    """Builds a network with a method."""
    method = methods.build(name, {})
    network = build_classifier(model, {}, method, 3, 10, seed=0)
    network = placement.placed(network, "cpu", recipe.memory_format).train()
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (recipe.batch_size, 3, 32, 32), dtype=torch.uint8, generator=chance)
    labels = torch.randint(10, (recipe.batch_size,), generator=chance)
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    images = Images(pixels, labels, mean, std).made_for(network, recipe.memory_format)
    training = Training(network, method, images, recipe, 0, lambda *_: None, Nobody())

    def step() -> None:
        training.meter.reset()
        training.train_on(0, 0, pixels, labels)

    step()  # gives running statistics a value
    trained = copy.deepcopy(network).eval()
    size = 2 if recipe.precision == "bfloat16" else floors.WIDE
    step_parts, evaluation_parts = (
        floors.parts(trained, images.normalized(pixels), training, size) for training in (True, False)
    )
    return Case(
        network, trained, step, lambda: logits(trained, images, pixels, recipe.precision), step_parts, evaluation_parts
    )


def cells(spent: float, floor: float | None, base: float, goal: float | None) -> str:
    """Returns a time in ms, its ratio to batch norm, the goal and the floor of that, as cells of the table."""
    numbers = (f"{'' if number is None else f'{number:.2f}':>6}" for number in (goal, floor and floor / base))
    return f"{spent:9.1f} {spent / base:6.2f} {' '.join(numbers)}"


def table(model: str, recipe: Recipe, names: list[str], rounds: int) -> None:
    """Measures a network with all methods and prints their times, ratios, goals and floors."""
    torch.set_num_threads(recipe.threads)
    peaks = floors.Peaks.measured([torch.float32, *([torch.bfloat16] if recipe.precision == "bfloat16" else [])])
    without = [WITHOUT[name] for name in names if name in WITHOUT]
    cases = {name: case(model, name, recipe) for name in [BASE, *without, *names]}
    works = {("step", name): each.step for name, each in cases.items()}
    works |= {("evaluation", name): each.evaluation for name, each in cases.items()}
    with contextlib.ExitStack() as stack:
        for each in cases.values():
            stack.enter_context(unchanging(each.trained))
        times = take_turns(works, rounds)
    threads = f"{recipe.threads} thread{'s' * (recipe.threads > 1)}"
    print(f"\n{model}, batch {recipe.batch_size}, {recipe.precision}, {recipe.memory_format}, {threads} ({clock()})")
    print(peaks)
    print(f"{'':22} {'step, ms':>9}  ratio   goal  floor {'eval., ms':>9}  ratio   goal  floor")
    goals = GOALS.get((model, recipe.precision), {})
    for name, each in cases.items():
        row = []
        found = (each.step_parts, each.evaluation_parts)
        for kind, goal, parts in zip(("step", "evaluation"), goals.get(name, (None, None)), found, strict=True):
            floor = times[kind, WITHOUT.get(name, BASE)] + peaks.milliseconds(parts) if name in names else None
            row.append(cells(times[kind, name], floor, times[kind, BASE], goal))
        print(f"{name:22} {' '.join(row)}".rstrip(), flush=True)


def main() -> None:
    """Prints a table for each number of threads, network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, machine.cores()}))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=list(BATCH_SIZES), choices=list(BATCH_SIZES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--precision", nargs="+", default=machine.precisions(), choices=machine.precisions())
    parser.add_argument("--format", default="channels_last", choices=list(placement.FORMATS))
    options = parser.parse_args()
    devices.prepare("cpu")
    print(f"{machine.description()}; {options.rounds} rounds")
    for threads in options.threads:
        for model in options.models:
            for precision in options.precision:
                recipe = Recipe(
                    epochs=10**6,  # so that the learning rate stays what it is
                    batch_size=BATCH_SIZES[model],
                    lr=1e-3,
                    precision=precision,
                    memory_format=options.format,
                    threads=threads,
                )
                table(model, recipe, options.methods, options.rounds)


if __name__ == "__main__":
    main()
