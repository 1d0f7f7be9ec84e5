"""The wording of numbers and facts on the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from normbench.results.tables.facts import TaskFacts
from normbench.runs.record import Device
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.training.task import Task

NONE = "\N{EN DASH}"
NUMERICS = ("precision", "memory_format", "threads")  # keys of recipes that `numerics` shows, as they were used


def number(value: float, form: str) -> str:
    """Returns a number in a format; a dash for NaN."""
    return NONE if math.isnan(value) else format(value, form)


def spread(mean: float, deviation: float, factor: float = 1.0) -> Markup:
    """Returns mean and deviation times a factor, `98.61 ± 0.32`, with the deviation in a muted colour.

    It is a dash if the mean is NaN, and has no deviation if that is NaN.
    """
    if math.isnan(mean):
        return Markup(NONE)
    behind = "" if math.isnan(deviation) else Markup(' <span class="sd">± {:.2f}</span>').format(factor * deviation)
    return Markup("{:.2f}{}").format(factor * mean, behind)


def quantity(mean: float, deviation: float) -> Markup:
    """Like `spread`, but from 1000 on with a common power of ten: `2.81 ± 0.44 ×10⁴`."""
    if math.isnan(mean) or abs(mean) < 1000:
        return spread(mean, deviation)
    exponent = math.floor(math.log10(abs(mean)))
    return spread(mean, deviation, 10.0**-exponent) + Markup(" \N{MULTIPLICATION SIGN}10<sup>{}</sup>").format(exponent)


def pairs(values: Mapping[str, Any]) -> str:
    """Returns names with their values: `lr 0.1, epochs 12`."""
    return ", ".join(f"{key} {shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """Returns a value as it is written in params.yaml."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def cited(text: str) -> Markup:
    """Returns text with arXiv ids as links and `names` as code."""
    safe = str(escape(text))
    safe = re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', safe)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", safe))


def counted(number: int, noun: str) -> str:
    """Returns a number with a noun: `1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def machine(device: Device) -> str:
    """Returns the device that trained, with the other facts on which its speed depends."""
    parts = [device.name]
    if device.type == "cpu" and device.cores is not None:
        parts.append(counted(device.cores, "core"))
    if device.cuda is not None:
        parts.append(f"CUDA {device.cuda}")
    parts.append(device.system)
    if device.side_by_side > 1:
        parts.append(f"{device.side_by_side} runs side by side")
    return ", ".join(parts)


def overview(suite: Suite) -> str:
    """Returns one line about the suite."""
    parts = [
        f"{counted(len(variants), 'variant')} on {counted(len(tasks), noun)}"
        for kind, noun in ((Kind.CLASSIFICATION, "task"), (Kind.GAN, "GAN task"))
        for tasks, variants in [suite.of_kind(kind)]
        if tasks
    ]
    seeds = ", ".join(map(str, suite.seeds))
    return f"{' and '.join(parts)}, {counted(len(suite.seeds), 'seed')} each ({seeds})"


def recipe(facts: TaskFacts) -> str:
    """Returns two sentences about a task: network, data and recipe, and then the numerics of its runs."""
    task = facts.task
    network = task.model + (f" ({pairs(task.model_options)})" if task.model_options else "")
    data = [task.dataset]
    if isinstance(task, Task) and task.train_fraction < 1:
        data.append(f"{100 * task.train_fraction:g} % of its training images")
    if isinstance(task, Task) and task.label_noise:
        data.append(f"label noise ({pairs(task.label_noise.json_value())})")
    settings = {name: value for name, value in task.recipe.json_value().items() if name not in NUMERICS}
    return f"{network} on {', '.join(data)}: {pairs(settings)}. {numerics(facts)}"


def numerics(facts: TaskFacts) -> str:
    """Returns a sentence about the settings that decide the last digits of the results, besides the device."""
    parts = [facts.precision, *filter(None, [" and ".join(facts.memory_formats)])]
    if facts.threads is not None:
        parts.append(f"{counted(facts.threads, 'thread')} a run on a CPU")
    return f"Computed in {', '.join(parts)}."
