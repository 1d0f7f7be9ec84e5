"""IoU and accuracy, against counting sets of pixels one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normbench.data.pixels import IGNORED
from normbench.segmentation.confusion import confusion, scores
from normbench.segmentation.protocol import Protocol

STANDARD, AUTHORS = (Protocol(4, void, 9, 11) for void in (False, True))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks with an ignored part, and predictions of them that are often right; class 3 occurs in neither."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, (5, 9, 11)).astype(np.uint8)
    predicted = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, 3, truth.shape)).astype(np.uint8)
    truth[:, 2:4] = IGNORED
    return truth, predicted


def by_hand(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[list[float | None], float]:
    pixels = [(t, p) for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True) if t != IGNORED]
    iou: list[float | None] = []
    for label in range(classes):
        of_truth = {place for place, (t, _) in enumerate(pixels) if t == label}
        given = {place for place, (_, p) in enumerate(pixels) if p == label}
        iou.append(len(of_truth & given) / len(of_truth | given) if of_truth | given else None)
    return iou, sum(t == p for t, p in pixels) / len(pixels)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_sets_of_pixels(seed: int) -> None:
    truth, predicted = drawn(seed)
    found = scores(confusion(truth, predicted, 4), STANDARD)
    iou, accuracy = by_hand(truth, predicted, 4)
    assert found.iou[3] is None
    assert found.iou == [None if each is None else pytest.approx(each, abs=1e-15) for each in iou]
    assert found.mean_iou == pytest.approx(sum(each for each in iou if each is not None) / 3)
    assert found.pixel_accuracy == pytest.approx(accuracy)


def test_the_matrix_of_a_set_is_the_sum_over_its_images() -> None:
    """So the scores are not means over images, which would give each class another weight in each image."""
    truth, predicted = drawn(5)
    whole = confusion(truth, predicted, 4)
    parts = [confusion(t, p, 4) for t, p in zip(truth, predicted, strict=True)]
    np.testing.assert_array_equal(whole, np.sum(parts, axis=0))
    assert whole.sum() == (truth != IGNORED).sum()
    means = np.mean([scores(part, STANDARD).mean_iou for part in parts])
    assert not math.isclose(scores(whole, STANDARD).mean_iou, means, rel_tol=1e-3)


def test_a_row_is_the_truth() -> None:
    matrix = confusion(np.array([1, 1, 1, 0], np.uint8), np.array([2, 2, 1, 0], np.uint8), 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 0]]


def test_the_authors_count_every_class_and_add_to_denominators() -> None:
    truth, predicted = drawn(1)
    matrix = confusion(truth, predicted, 4)
    found = scores(matrix, AUTHORS)
    union = [matrix[c].sum() + matrix[:, c].sum() - matrix[c, c] for c in range(4)]
    expected = [matrix[c, c] / (union[c] + 1e-5) for c in range(4)]
    assert found.iou == pytest.approx(expected, abs=1e-12)
    assert found.iou[3] == 0
    assert found.mean_iou == pytest.approx(sum(expected) / 4)
    assert found.pixel_accuracy == pytest.approx(np.trace(matrix) / (matrix.sum() + 1e-5))


def test_nothing_that_counts() -> None:
    empty = confusion(np.full((2, 2), IGNORED, np.uint8), np.zeros((2, 2), np.uint8), 3)
    assert scores(empty, STANDARD).iou == [None] * 3
    assert (scores(empty, STANDARD).mean_iou, scores(empty, STANDARD).pixel_accuracy) == (0, 0)


def test_the_most_classes_that_a_mask_can_have() -> None:
    truth = np.arange(255, dtype=np.uint8)
    assert np.array_equal(confusion(truth, truth, 255), np.eye(255, dtype=np.int64))
