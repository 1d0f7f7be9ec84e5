"""Tasks, variants, datasets and subjects for tests, with a value for everything that a test does not care about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from normbench.data.batches import Images, on_device
from normbench.data.bound import Bound, Corrupted
from normbench.evaluation.subject import Subject, scored_images
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.runs.variant import Variant
from normbench.training.recipe import Recipe
from normbench.training.task import Task


def recipe(**changes: Any) -> Recipe:
    """One epoch in batches of 16 images that are not cropped."""
    return Recipe.model_validate({"epochs": 1, "batch_size": 16, "crop_padding": 0} | changes)


def gan_recipe(**changes: Any) -> GanRecipe:
    """Six iterations on batches of 16 images."""
    return GanRecipe.model_validate({"iterations": 6, "batch_size": 16, "lr": 2e-3, "latent": 8} | changes)


def task(**changes: Any) -> Task:
    """A narrow resnet8, trained once by `recipe()`."""
    given = {"dataset": "mine", "model": "resnet8", "model_options": {"width": 4}, "recipe": recipe()}
    return Task.model_validate(given | {"name": "small", "seed": 0, "seeds": [0], "model_code": "a"} | changes)


def gan_task(**changes: Any) -> GanTask:
    """A narrow sngan, trained once by `gan_recipe()`."""
    given = {"dataset": "mine", "model": "sngan", "model_options": {"width": 8}, "recipe": gan_recipe()}
    return GanTask.model_validate(given | {"name": "small", "seed": 0, "seeds": [0], "model_code": "a"} | changes)


def variant(method: str, **options: Any) -> Variant:
    """A method with these options, under its own name."""
    return Variant(method=method, options=options, name=method, method_code="b")


def bound(**changes: Any) -> Bound:
    """Grey images of 8 x 8 pixels in four classes, at no real place."""
    given: dict[str, Any] = {"name": "mine", "path": "build/data/mine", "fingerprint": "f" * 64, "origin": "a test"}
    given |= {"classes": 4, "channels": 1, "image_size": 8, "train": 64, "test": 64, "mean": [0.3], "std": [0.3]}
    return Bound.model_validate(given | changes)


def corrupted(path: Path | str, names: list[str], severities: list[int]) -> Corrupted:
    """Corrupted images in a folder, of which nothing else is known."""
    facts = dict.fromkeys(("engine", "constants", "seed", "published"))
    return Corrupted.model_validate(
        {"path": str(path), "names": names, "severities": severities, "source_fingerprint": "f" * 64}
        | {"sha256": {}, "versions": {}, **facts}
    )


def subject(model: nn.Module, images: Images, **changes: Any) -> Subject:
    """A model in evaluation mode on these test images, of which there are no corrupted copies."""
    given: dict[str, Any] = {"initial": lambda: model, "precision": "float32", "seed": 0}
    given |= {"corrupted": corrupted("nowhere", [], []), "index": np.arange(len(images))}
    return Subject(model=model.eval(), images=images, **(given | changes))


def corrupted_subject(model: nn.Module, folder: Path, examples: int | None = None, seed: int = 0) -> Subject:
    """A model on 40 grey images of 8 x 8 pixels in four classes, with two corruptions of two severities in a folder.

    The corrupted images are images of their own, so that they are not to be confused with each other. examples: how
    many are scored. seed: the suite's.
    """
    chance, count, names, severities = np.random.default_rng(0), 40, ["fog", "frost"], [2, 4]
    pixels = torch.from_numpy(chance.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8))
    images = on_device(pixels, torch.from_numpy(chance.integers(0, 4, count)), [0.4], [0.3], "cpu")
    for name in names:
        np.save(folder / f"{name}.npy", chance.integers(0, 256, (len(severities) * count, 8, 8, 1), dtype=np.uint8))
    return subject(
        model,
        images,
        corrupted=corrupted(folder, names, severities),
        index=scored_images(count, seed, examples),
        seed=seed,
    )
