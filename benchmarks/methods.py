"""Measures what every method costs in a ResNet-20: time of a training step and of an evaluation, and memory of a step.

All methods take turns in one process; the table has ratios of medians to batch norm, with one thread, in float32, for
random images of 3 x 32 x 32. Memory is that which `normbench.system.memory.step_memory` follows, and does not depend on
the machine.

    python -m benchmarks.methods [--rounds 5] [--batch-size 64] [--methods iter_norm timm.layers:EvoNorm2dS0 ...]
"""

from __future__ import annotations

import argparse
import contextlib

import torch
from tabulate import tabulate

from benchmarks import machine
from benchmarks.networks import BASE, case
from benchmarks.turns import take_turns
from normbench.functional.constants import unchanging
from normbench.methods import registry as methods
from normbench.system import device as devices
from normbench.system import memory
from normbench.training.recipe import Recipe

MODEL = "resnet20"


def main() -> None:
    """Prints a row for each method, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--methods", nargs="+", default=methods.names())
    options = parser.parse_args()
    devices.prepare("cpu")
    torch.set_num_threads(1)
    recipe = Recipe(epochs=10**6, batch_size=options.batch_size, lr=1e-4, memory_format="channels_last", threads=1)
    cases = {name: case(MODEL, name, recipe) for name in dict.fromkeys([BASE, *options.methods])}
    peaks = {name: memory.step_memory(each.network, each.step, "cpu") for name, each in cases.items()}
    works = {("step", name): each.step for name, each in cases.items()}
    works |= {("evaluation", name): each.evaluation for name, each in cases.items()}
    with contextlib.ExitStack() as stack:
        for each in cases.values():
            stack.enter_context(unchanging(each.trained))
        times = take_turns(works, options.rounds)
    print(f"{machine.description()}; {MODEL}, batch {options.batch_size}, {options.rounds} rounds")
    rows = [
        [
            f"`{name}`",
            *(f"{times[kind, name] / times[kind, BASE]:.2f}x" for kind in ("step", "evaluation")),
            f"{peaks[name] / peaks[BASE]:.2f}x",
            f"{sum(p.numel() for p in each.network.parameters()):,}",
        ]
        for name, each in cases.items()
    ]
    headers = ["method", "training step", "evaluation", "memory of a step", "parameters"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
