"""The wording of numbers and facts on the page."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from normbench.results.tables.facts import Facts, TaskFacts
from normbench.runs.record import Device
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.training.task import Task

NONE = "\N{EN DASH}"
STAGES = {Kind.CLASSIFICATION: ("train", "evaluate"), Kind.GAN: ("gan", "fid")}  # those that make a row of a table
NUMERICS = ("precision", "memory_format", "threads")  # keys of recipes that `numerics` shows, as they were used


def number(value: float, form: str) -> str:
    """Returns a number in a format; a dash for NaN."""
    return NONE if math.isnan(value) else format(value, form)


def measured(mean: float, deviation: float, form: str) -> Markup:
    """Returns mean and deviation in a format, `98.61 ± 0.32`, with the deviation in a muted colour.

    It is a dash if the mean is NaN, and has no deviation if that is NaN.
    """
    if math.isnan(mean):
        return Markup(NONE)
    behind = "" if math.isnan(deviation) else Markup(' <span class="sd">± {}</span>').format(format(deviation, form))
    return Markup("{}{}").format(format(mean, form), behind)


def quantity(mean: float, deviation: float) -> Markup:
    """Like `measured` with two decimals, but from 1000 on with a common power of ten: `2.81 ± 0.44 ×10⁴`."""
    if math.isnan(mean) or abs(mean) < 1000:
        return measured(mean, deviation, ".2f")
    exponent = math.floor(math.log10(abs(mean)))
    scaled = measured(mean / 10.0**exponent, deviation / 10.0**exponent, ".2f")
    return scaled + Markup(" \N{MULTIPLICATION SIGN}10<sup>{}</sup>").format(exponent)


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


NOUNS = {Kind.CLASSIFICATION: "task", Kind.SEGMENTATION: "segmentation task", Kind.GAN: "GAN task"}


def overview(suite: Suite) -> str:
    """Returns one line about the suite."""
    parts = [
        f"{counted(len(variants), 'variant')} on {counted(len(tasks), noun)}"
        for kind, noun in NOUNS.items()
        for tasks, variants in [suite.of_kind(kind)]
        if tasks
    ]
    seeds = ", ".join(map(str, suite.seeds))
    return f"{' and '.join(parts)}, {counted(len(suite.seeds), 'seed')} each ({seeds})"


def recipe(facts: TaskFacts) -> str:
    """Returns two sentences about a task: network, data and recipe, and then the numerics of its runs.

    Of the recipe there is what has to be given, and what differs from its defaults.
    """
    task = facts.task
    network = task.model + (f" ({pairs(task.model_options)})" if task.model_options else "")
    data = [task.dataset]
    if isinstance(task, Task) and task.train_fraction < 1:
        data.append(f"{100 * task.train_fraction:g} % of its training images")
    if isinstance(task, Task) and task.label_noise:
        data.append(f"label noise ({pairs(task.label_noise.json_value())})")
    fields = type(task.recipe).model_fields
    settings = {
        name: value
        for name, value in task.recipe.json_value().items()
        if name not in NUMERICS and (fields[name].is_required() or getattr(task.recipe, name) != fields[name].default)
    }
    return f"{network} on {', '.join(data)}: {pairs(settings)}. {numerics(facts)}"


def numerics(facts: TaskFacts) -> str:
    """Returns a sentence about the settings that decide the last digits of the results, besides the device."""
    parts = [facts.precision, *filter(None, [" and ".join(facts.memory_formats)])]
    if facts.threads is not None:
        parts.append(f"{counted(facts.threads, 'thread')} a run on a CPU")
    return f"Computed in {', '.join(parts)}."


def resolution(images: int) -> str:
    """Returns by how much one image changes an accuracy: `one image is 0.28 points`."""
    return f"one image is {100 / images:.2g} points" if images < 10_000 else f"one image is {100 / images:.3f} points"


def effects(found: list[float], factor: float, unit: str) -> str:
    """Returns the smallest effects that could have been shown, in rising order, as text: `1.2 to 3.4 points`."""
    ends = [f"{float(f'{factor * value:.2g}'):g}" for value in (found[0], found[-1])]
    return " to ".join(dict.fromkeys(ends)) + f" {unit}".rstrip()


def interval(low: float, high: float, form: str) -> str:
    """Returns an interval with signs, `[−0.52, +1.10]`; empty without bounds."""
    return "" if math.isnan(low) else f"[{signed(low, form)}, {signed(high, form)}]"


def signed(value: float, form: str) -> str:
    """Returns a number with its sign, a true minus; a dash for NaN."""
    return NONE if math.isnan(value) else format(value, f"+{form}").replace("-", "\N{MINUS SIGN}")


def citation(version: str, facts: Facts) -> str:
    """Returns the entry of normbench in BibTeX, with the revision that made the results."""
    found = facts.git[0].value
    dirty = ", with uncommitted changes" if found.dirty else ""
    lines = [
        "@software{normbench,",
        "  title   = {normbench: a reproducible benchmark of normalization methods for convolutional networks},",
        "  author  = {{The normbench authors}},",
        f"  version = {{{version}}},",
        *([f"  note    = {{Revision {found.revision}{dirty}}},"] if found.revision else []),
        f"  year    = {{{facts.ended[:4]}}}",
        "}",
    ]
    return "\n".join(lines)


def commands(facts: Facts) -> str:
    """Returns the commands that make the first row of each kind of table again."""
    suite = facts.suite
    lines = [f"git checkout {facts.git[0].value.revision or 'REVISION'}", "make env"]
    for kind, stages in STAGES.items():
        tasks, variants = suite.of_kind(kind)
        if tasks:
            what = f"--task {shlex.quote(tasks[0])} --variant {shlex.quote(variants[0])}"
            lines += [f"python -m stages.{stage} {what}" for stage in stages]
    return "\n".join(lines)
