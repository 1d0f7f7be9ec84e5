"""Published numbers beside those that were measured here.

A published number is compared with the runs that it is about: of the same dataset, network, method, epochs and
adversarial training, with all training images and without label noise. Names of tasks and variants do not matter. What
else differs in the training is named beside the numbers.

Times are not compared, because they are those of another machine. The other metrics of `published.csv` are of networks
or images that no task here has: those for ImageNet (whose mCE is also relative to AlexNet), wide residual networks, and
the residual GAN whose FID is in the features of Inception.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normbench.comparison.paired import interval
from normbench.comparison.verdicts import FEWEST
from normbench.data.bound import Bound
from normbench.results.published import Fact, Stated
from normbench.results.tables.means import Runs, finished, mean
from normbench.results.tables.reasons import MISSING
from normbench.results.tables.table import PERCENT, PLAIN, Row, Table
from normbench.runs.record import Record
from normbench.system.narrowing import narrowed
from normbench.training.recipe import Recipe
from normbench.training.task import Task

AGREES, DIFFERS, NOT_COMPARABLE = "agrees", "differs", "not comparable"
COLUMNS = (
    dict.fromkeys(("task", "variant", "measure", "metric", "published_method"), PLAIN)
    | dict.fromkeys(("published", "published_std", "ours", "ours_low", "ours_high", "difference"), PERCENT)
    | dict.fromkeys(("unit", "seeds", "verdict", "recipe_difference", "source", "trust", "note", MISSING), PLAIN)
)


@dataclass(frozen=True)
class Measure:
    """What a published metric is called here. column: of results/runs.csv. error: published as 1 - the accuracy.

    attack: the settings of the score `attacks` with which the metric is the same.
    """

    column: str
    error: bool = False
    attack: dict[str, float] = field(default_factory=dict)

    def values(self, records: list[Record]) -> list[float]:
        """Returns the number of each finished run that has one, in %."""
        found = [
            record.metrics.get(self.column, record.metrics.get("columns", {}).get(self.column)) for record in records
        ]
        return [100 * (1 - value if self.error else value) for value in found if value is not None]


FGSM = Measure("attack_fgsm", attack={"epsilon": 8})
PGD_10 = Measure("attack_pgd", attack={"epsilon": 8, "step": 2, "steps": 10})
PGD_20 = Measure("attack_pgd", attack={"epsilon": 8, "step": 2, "steps": 20})
MEASURES = {
    "top-1 test accuracy": Measure("clean_accuracy"),
    "top-1 test error": Measure("clean_accuracy", error=True),
    "robust accuracy FGSM eps 8/255": FGSM,
    "robust accuracy FGSM eps 8/255 (mean of 4 seeds)": FGSM,
    "robust accuracy PGD-10 eps 8/255 step 2/255": PGD_10,
    "robust accuracy PGD-20 eps 8/255 step 2/255": PGD_20,
    "robust accuracy PGD-20 eps 8/255 step 2/255 (mean of 4 seeds)": PGD_20,
}
# Published dataset -> its numbers of classes, training images and test images, of 3x32x32 pixels.
DATASETS = {"CIFAR-10": (10, 50_000, 10_000), "CIFAR-100": (100, 50_000, 10_000)}
# Published architecture -> model and options of a network with the same layers for images of 32 pixels.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "VGG-16": ("vgg16", {"width": 64}),
    "ResNet-18": ("resnet18", {"width": 64}),
    "PreAct ResNet-18": ("preact_resnet18", {"width": 64}),
    "DenseNet-121": ("densenet121", {"growth": 32}),
    "ResNeXt-29 32x4d": ("resnext29_32x4d", {"width": 64}),
    "MobileNetV2": ("mobilenet_v2", {"width": 32}),
    "SENet-18": ("senet18", {"width": 64}),
    "DPN-92": ("dpn92", {"width": 96}),
    "PNASNetA": ("pnasnet_a", {"width": 44}),
    "EfficientNet-B0": ("efficientnet_b0", {"width": 32}),
}
# Published method -> method and the options that make it the same one.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "BN": ("batch_norm", {"ghost_batch": None, "freeze_after": None}),
    "ND": ("network_deconvolution", {"covariance": "float32"}),
    "ConvNorm": ("conv_norm", {"affine": True, "batch_norm": True}),
    "SN + BN": ("spectral_norm", {"batch_norm": True}),
    "OCNN + BN": ("ocnn", {}),
}
# Fields of a recipe that decide no more than the last digits, or speed, or that have matched already.
SETTLED = ("epochs", "memory_format", "threads", "deterministic", "compile", "adversary")


def published_table(runs: Runs, facts: list[Fact]) -> Table:
    """Returns a row for each task, variant and published number about them, in the order of the suite and of `facts`.

    runs: those of classifiers. The interval is the 95 % t interval of the mean over seeds. A published number agrees
    if it lies within the interval, widened on both sides by its own standard deviation where it has one.
    """
    rows = [
        _row(task, variant, records, fact)
        for (task, variant), records in runs.items()
        for fact in facts
        if records and _is_about(fact, records[0])
    ]
    return Table(COLUMNS, rows)


def _is_about(fact: Fact, record: Record) -> bool:
    """Whether a published number is about a run."""
    origin = record.provenance
    task, variant = origin.task, origin.variant
    network, method = NETWORKS.get(fact.architecture), METHODS.get(fact.method)
    if network is None or method is None or fact.metric not in MEASURES or not isinstance(task, Task):
        return False
    adversary = None if task.recipe.adversary is None else task.recipe.adversary.kind
    return (
        _is_dataset(fact.dataset, origin.dataset)
        and task.model == network[0]
        and network[1].items() <= task.model_options.items()
        and variant.method == method[0]
        and all(variant.options.get(name, value) == value for name, value in method[1].items())
        and task.recipe.epochs == fact.epochs
        and adversary == fact.protocol.get("adversary")
        and (task.label_noise is None or task.label_noise.fraction == 0)
        and task.train_fraction == 1
    )


def _is_dataset(published: str, bound: Bound) -> bool:
    """Whether a dataset is the published one: by its name and its numbers, and with no images held out."""
    numbers = (bound.classes, bound.train, bound.test)
    named = re.sub(r"[^a-z0-9]", "", bound.name.lower()).startswith(re.sub(r"[^a-z0-9]", "", published.lower()))
    shape = (bound.channels, bound.image_size) == (3, 32)
    return named and shape and DATASETS.get(published) == numbers and bound.validation is None


def _row(task: str, variant: str, records: list[Record], fact: Fact) -> Row:
    measure, done = MEASURES[fact.metric], finished(records)
    values = measure.values(done)
    low, high = interval(np.array(values)) if len(values) >= FEWEST else (math.nan, math.nan)
    ours, spread = mean(values), fact.std or 0.0
    why = _incomparable(measure, records, values)
    differences = [*_differences(fact, records[0]), *_fewer_images(measure, records[0])]
    within = low - spread <= fact.value <= high + spread
    return {
        "task": task,
        "variant": variant,
        "measure": measure.column,
        "metric": fact.metric,
        "published_method": fact.method,
        "published": fact.value,
        "published_std": math.nan if fact.std is None else fact.std,
        "ours": ours,
        "ours_low": low,
        "ours_high": high,
        "difference": ours - fact.value,
        "unit": fact.unit,
        "seeds": len(values),
        "verdict": NOT_COMPARABLE if why else AGREES if within else DIFFERS,
        "recipe_difference": "; ".join(differences) or "none in what the source states",
        "source": fact.source,
        "trust": fact.trust,
        "note": fact.note,
        MISSING: why,
    }


def _incomparable(measure: Measure, records: list[Record], values: list[float]) -> str:
    """Returns why runs cannot be compared with a published number; empty if they can."""
    settings = (records[0].provenance.evaluation or {}).get("attacks")
    if measure.attack and not isinstance(settings, dict):
        return "no attack was made here"
    if measure.attack and isinstance(settings, dict):
        others = {name: settings.get(name) for name, value in measure.attack.items() if settings.get(name) != value}
        if settings.get("norm", "linf") != "linf":  # Published attacks are in the maximum norm.
            return "another attack: in the 2-norm, published in the maximum norm"
        if others:
            said = (f"{name} {_text(value)}, published {_text(measure.attack[name])}" for name, value in others.items())
            return f"another attack: {'; '.join(said)}"
    if len(values) < FEWEST:
        failed = "" if len(values) == len(records) else f" of {len(records)} finished"
        return f"{len(values)} seed{'' if len(values) == 1 else 's'}{failed}"
    return ""


def _fewer_images(measure: Measure, record: Record) -> Iterator[str]:
    """Yields on how many of the test images an attack was made, if not on all of them."""
    settings = (record.provenance.evaluation or {}).get("attacks")
    if (
        measure.attack
        and isinstance(settings, dict)
        and settings.get("examples", math.inf) < record.provenance.dataset.test
    ):
        yield f"{settings['examples']} attacked images, published not stated"


def _differences(fact: Fact, record: Record) -> Iterator[str]:
    """Yields what differs between a training here and what is published of another, such as `lr 0.05, published 0.1`.

    What a source does not state counts as the default of a recipe.
    """
    task, variant = narrowed(record.provenance.task, Task, f"run {record.run}"), record.provenance.variant
    ours, stated = _flat(task.recipe), fact.recipe
    defaults = _flat(Recipe(epochs=1))
    for name, value in ours.items():
        if name in stated and value != stated[name]:
            yield f"{_label(name)} {_text(value)}, published {_text(stated[name])}"
        elif name not in stated and name not in SETTLED and value != defaults.get(name):
            yield f"{_label(name)} {_text(value)}, published not stated"
    if task.model_options.get("authors_form") is False:
        yield "the network's default form, published that of the authors (`authors_form: true`)"
    for name, value in fact.options.items():
        if name in variant.options and variant.options[name] != value:
            yield f"{_label(name)} {_text(variant.options[name])}, published {_text(value)}"


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe by the keys of a protocol: with its optimizer, and with its adversary's fields beside it."""
    found: dict[str, Any] = {"optimizer": "sgd"} | recipe.model_dump()
    if recipe.schedule != "step":
        del found["milestones"], found["gamma"]
    adversary = recipe.adversary
    if adversary is not None:
        found |= {"adversary": adversary.kind, "epsilon": adversary.epsilon}
        free = adversary.kind == "free"
        found["step"] = adversary.step or (adversary.epsilon if free else adversary.epsilon / 4)
        found |= {"repeats": adversary.repeats} if free else {"steps": adversary.steps}
    return found


def _label(name: str) -> str:
    return {"lr": "learning rate"}.get(name, name.replace("_", " "))


def _text(value: Stated | None) -> str:
    """Returns a value as people write it: 5e-4, 0.1, 128."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "/".join(map(_text, value))
    if isinstance(value, str):
        return value
    if value != 0 and abs(value) < 0.01:
        mantissa, exponent = f"{value:.5e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"
