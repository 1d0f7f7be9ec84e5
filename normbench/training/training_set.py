"""The training images of a task, with the label noise and the fraction of the dataset that it asks for."""

from __future__ import annotations

from typing import Any

import torch

from normbench.data.batches import Images
from normbench.data.labels import corrupt_labels, part_of_each_class
from normbench.system.seeds import derive
from normbench.training.task import Task


def training_set(images: Images, task: Task, classes: int) -> tuple[Images, dict[str, Any]]:
    """The images and labels that a task trains on, and facts about them for the run's record.

    images: the training split of the dataset. classes: the number of classes. The facts are `images`, the number of
    images, and `flipped_labels`, the fraction of them whose label is wrong.
    """
    labels = images.labels.cpu().numpy()
    noise, noisy = task.label_noise, labels
    if noise is not None:
        noisy = corrupt_labels(labels, noise.fraction, classes, derive(task.seed, "label_noise"), noise.kind)
    kept = part_of_each_class(labels, task.train_fraction, derive(task.seed, "train_fraction"))
    done = {"images": len(kept), "flipped_labels": float((noisy != labels)[kept].mean())}
    if noise is None and len(kept) == len(labels):
        return images, done
    return images.part(kept, torch.from_numpy(noisy[kept]).to(images.labels)), done
