"""Label noise and partial training sets: their definitions, and what a run makes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from normbench.data import corrupt_labels
from normbench.data.labels import part_of_each_class, validation_split
from normbench.system.errors import UserError

LABELS = np.arange(20_000) % 10


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.8, 1.0])
def test_symmetric_noise_may_draw_the_true_class(fraction: float) -> None:
    noisy = corrupt_labels(LABELS, fraction, 10, seed=3)
    assert (noisy != LABELS).mean() == pytest.approx(0.9 * fraction, abs=0.01)
    assert np.bincount(noisy).max() < 1.1 * 2000
    assert noisy.dtype == LABELS.dtype


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_symmetric_noise_without_the_true_class(fraction: float) -> None:
    noisy = corrupt_labels(LABELS, fraction, 10, 3, "symmetric_other")
    assert (noisy != LABELS).sum() == fraction * len(LABELS)
    others = np.bincount((noisy - LABELS)[noisy != LABELS] % 10, minlength=10)
    assert others[0] == 0
    if fraction:
        assert others[1:].min() > 0.8 * others[1:].mean()


def test_asymmetric_noise_takes_similar_classes_for_each_other() -> None:
    noisy = corrupt_labels(LABELS, 0.4, 10, 0, "asymmetric")
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (LABELS, noisy), 1)
    expected = 2000 * np.eye(10, dtype=int)
    for true, taken in ((9, 1), (2, 0), (4, 7)):
        expected[true, true], expected[true, taken] = 1200, 800
    # Cats become dogs first; then, of all that are called dogs by then, a part becomes cats again.
    assert counts[3, 5] + counts[3, 3] == counts[5, 5] + counts[5, 3] == 2000
    assert counts[3, 5] + counts[5, 5] == round(0.6 * 2800)
    assert counts[3, 3] > 1200
    for row in (0, 1, 2, 4, 6, 7, 8, 9):
        assert counts[row].tolist() == expected[row].tolist()


def test_cyclic_noise_takes_each_class_for_the_next() -> None:
    labels = np.arange(300) % 3
    noisy = corrupt_labels(labels, 0.25, 3, 0, "cyclic")
    for label in range(3):
        assert np.bincount(noisy[labels == label], minlength=3)[[label, (label + 1) % 3]].tolist() == [75, 25]


def test_a_seed_decides_and_the_labels_given_stay() -> None:
    before = LABELS.copy()
    first = corrupt_labels(LABELS, 0.3, 10, 1)
    assert np.array_equal(first, corrupt_labels(LABELS, 0.3, 10, 1))
    assert not np.array_equal(first, corrupt_labels(LABELS, 0.3, 10, 2))
    assert np.array_equal(LABELS, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABELS, 0.2, 10, 0, "symetric"), "label noise of kind 'symetric': did you mean 'symmetric'"),
        ((LABELS, 1.2, 10, 0), r"label noise: fraction = 1.2: must be between 0 and 1"),
        ((LABELS, 0.2, 100, 0, "asymmetric"), "is for CIFAR-10, not for 100 classes; try 'cyclic'"),
    ],
)
def test_bad_values_are_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        corrupt_labels(*arguments)


def test_parts_are_nested_and_of_every_class() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    parts = [set(part_of_each_class(labels, fraction, 5).tolist()) for fraction in (0.001, 0.1, 0.3, 1.0)]
    for small, large in itertools.pairwise(parts):
        assert small < large
    assert len(parts[0]) == 7
    assert parts[-1] == set(range(1000))
    found = np.bincount(labels[sorted(parts[2])])
    assert found.tolist() == [int(0.3 * count) for count in np.bincount(labels)]


def test_a_validation_split_parts_every_class() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    kept, held_out = validation_split(labels, 0.2, 5)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(1000))
    counts = np.bincount(labels)
    assert np.bincount(labels[kept]).tolist() == [int(0.8 * count) for count in counts]
    assert all(np.array_equal(a, b) for a, b in zip(validation_split(labels, 0.2, 5), (kept, held_out), strict=True))
    assert not np.array_equal(validation_split(labels, 0.2, 6)[1], held_out)
    assert validation_split(np.arange(3), 0.5, 0)[0].tolist() == [0, 1, 2]
