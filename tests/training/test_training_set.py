"""The images and labels that a task trains on."""

from __future__ import annotations

import pytest
import torch

from normbench.data.batches import on_device
from normbench.data.labels import LabelNoise, part_of_each_class
from normbench.system.seeds import derive
from normbench.training.training_set import training_set
from tests.support.subjects import task


def test_the_training_set_of_a_task() -> None:
    """All variants see the same; the share of wrong labels is of what is trained on; nothing changes without noise."""
    images = on_device(torch.zeros(2000, 4, 4, 1, dtype=torch.uint8), torch.arange(2000) % 10, [0.0], [1.0], "cpu")
    plain, done = training_set(images, task(), 10)
    assert plain is images
    assert done == {"images": 2000, "flipped_labels": 0.0}
    noise = LabelNoise(kind="symmetric_other", fraction=0.3)
    half = task(label_noise=noise, train_fraction=0.5)
    noisy, done = training_set(images, half, 10)
    again, _ = training_set(images, half, 10)
    assert torch.equal(noisy.labels, again.labels)
    assert len(noisy) == len(noisy.pixels) == done["images"] == 1000
    kept = torch.from_numpy(part_of_each_class(images.labels.numpy(), 0.5, derive(0, "train_fraction")))
    assert (noisy.labels != images.labels[kept]).double().mean().item() == pytest.approx(done["flipped_labels"])
    assert done["flipped_labels"] == pytest.approx(0.3, abs=0.05)
    assert images.labels.tolist() == (torch.arange(2000) % 10).tolist()
    # A smaller part has the same wrong labels as the larger one it lies in.
    small, _ = training_set(images, task(label_noise=noise, train_fraction=0.2), 10)
    smaller = torch.from_numpy(part_of_each_class(images.labels.numpy(), 0.2, derive(0, "train_fraction")))
    at = dict(zip(kept.tolist(), noisy.labels.tolist(), strict=True))
    assert [at[place] for place in smaller.tolist()] == small.labels.tolist()
