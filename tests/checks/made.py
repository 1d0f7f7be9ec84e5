"""Files of a user's own methods and models with one mistake each, and what `normbench.checks` says of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

from normbench.checks import subjects
from normbench.checks.method import problems
from normbench.data.bound import Bound
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system.errors import UserError
from normbench.training.recipe import Recipe
from normbench.training.task import Task

HERE = "# HERE"  # marks the line that a message must name
HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Callable, ClassVar, Literal, Optional
import math, random
import numpy as np
import torch
from torch import Tensor, nn
from normbench.methods.base import ConvSpec, Count, Method, NotNegative, Positive, Role
from normbench.models.base import register_classifier, register_gan
"""
BOUND = Bound.model_construct(name="data", path="", fingerprint="", classes=5, channels=3, image_size=8, train=0, test=0, mean=[0.5] * 3, std=[0.3] * 3, origin="")  # fmt: skip
NAME = "variant mine, task small"


def task(model: str = "resnet8", options: dict | None = None, **recipe: object) -> Task:
    options = {"width": 4} if options is None else options
    settings = {"epochs": 1, "batch_size": 8} | recipe
    # The settings are of several types, as the tests give them; the recipe checks each when it is made.
    return Task(name="small", dataset="data", model=model, model_options=options, recipe=Recipe(**settings), seed=0, seeds=[0], model_code="")  # type: ignore[arg-type]  # fmt: skip


def gan_task(model: str = "sngan", options: dict | None = None) -> GanTask:
    options = {"width": 4} if options is None else options
    return GanTask(name="small", dataset="data", model=model, model_options=options, recipe=GanRecipe(iterations=1, latent=6), seed=0, seeds=[0], model_code="")  # fmt: skip


def write(folder: Path, text: str, name: str = "mine.py") -> tuple[str, int | None]:
    """Writes a file with the usual imports; returns its path and the number of the marked line."""
    path = folder / name
    path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    return str(path), next((number for number, line in enumerate(lines, 1) if HERE in line), None)


def checked(reference: str, what: Task | GanTask | None = None, bound: Bound = BOUND, **options: object) -> list[str]:
    """What the checks say of a method in a task: mistakes of its class, else the mistake in its network, else notes."""
    what = what or task()
    found = problems(methods.method_class(reference))
    if found:
        return found
    try:
        return subjects.check(what, models.get(what.model), methods.build(reference, options), bound, NAME)
    except UserError as error:
        return [str(error)]
