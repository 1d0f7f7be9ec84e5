"""Copies of test images that are made when they are scored: as if they were stored, also by other processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normbench.corruptions import corrupt
from normbench.data.batches import on_device
from normbench.evaluation.copies import Copies
from normbench.training.logits import logits, pieces
from tests.support import subjects

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 16, 16, 3), np.uint8)
INDEX = np.array([0, 3, 4, 9, 15, 22])


def make(index: np.ndarray) -> np.ndarray:
    return corrupt(IMAGES[index], "gaussian_noise", 3, 5, index)


def copies(forked: bool = True) -> Copies:
    return Copies(make, INDEX, torch.Size((len(INDEX), 3, 16, 16)), torch.device("cpu"), forked)


def test_they_are_indexed_like_a_tensor() -> None:
    whole = torch.from_numpy(corrupt(IMAGES, "gaussian_noise", 3, 5)[INDEX]).permute(0, 3, 1, 2)
    made = copies()
    assert made.shape == whole.shape
    assert len(made) == 6
    assert torch.equal(made[:], whole)
    assert torch.equal(made[1:3], whole[1:3])
    assert torch.equal(made[torch.tensor([5, 0])], whole[[5, 0]])


@pytest.mark.parametrize("count", ["0", "1", "2", "3"])
@pytest.mark.parametrize("size", [1, 4, 6, 10])
def test_pieces_do_not_depend_on_processes(count: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_WORKERS", count)
    made = copies()
    found = [*pieces(made, size)]
    assert [len(piece) for piece in found] == [len(piece) for piece in made[:].split(size)]
    assert torch.equal(torch.cat(found), made[:])


def test_nothing_is_forked_unless_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, whose process may have threads."""
    monkeypatch.setenv("NORMBENCH_WORKERS", "2")
    monkeypatch.setattr("normbench.data.workers.DataLoader", None)
    assert torch.equal(torch.cat([*copies(forked=False).pieces(4)]), copies()[:])


def test_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_WORKERS", "2")
    images = on_device(torch.from_numpy(IMAGES), torch.zeros(23, dtype=torch.long), [0.5] * 3, [0.25] * 3, "cpu")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    subject = subjects.subject(model, images)
    assert torch.equal(
        logits(subject.model, images, copies(), "float32", 4), logits(subject.model, images, copies()[:], "float32", 4)
    )
