"""Precision, recall, density and coverage: of points on a line, by the definition, and against torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from normbench.gan.scores import neighbours as module
from normbench.gan.scores.neighbours import Neighbours, neighbours, radii


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None]


def test_points_on_a_line() -> None:
    real, fake = line(0, 1, 3, 10), line(0.5, 2.5, 30)
    # Nearest others of the real points: at 1, 1, 2 and 7. Balls: [-1, 1], [0, 2], [1, 5], [3, 17].
    # Of the generated points: at 2, 2, 27.5. Balls: [-1.5, 2.5], [0.5, 4.5], [2.5, 57.5].
    found = neighbours(fake, real, 1, 1)
    assert found.precision == pytest.approx(2 / 3)  # 0.5 and 2.5
    assert found.recall == pytest.approx(4 / 4)  # 0, 1, 3 and 10, which the ball of the outlier 30 holds
    assert found.density == pytest.approx((2 + 1 + 0) / 3)  # 0.5 lies in two balls, 2.5 in one, 30 in none
    assert found.coverage == pytest.approx(3 / 4)  # all but the ball of 10


def test_the_surface_of_a_ball_counts_for_precision_and_recall_alone() -> None:
    found = neighbours(line(2, 100), line(0, 1), 1, 1)
    # The balls of the real points are [-1, 1] and [0, 2]; 2 is on the surface of the second.
    assert found.precision == 0.5
    assert (found.density, found.coverage) == (0, 0)


def test_images_that_are_all_the_same_and_images_far_away() -> None:
    real = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    far = neighbours(real + 100, real, 3, 5)
    assert far == Neighbours(0, 0, 0, 0)
    same = neighbours(real, real, 3, 5)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    collapsed = neighbours(real[:1].repeat(50, 1), real, 3, 5)
    assert collapsed.precision == 1
    assert collapsed.recall < 0.2
    assert collapsed.coverage < 0.5


@pytest.mark.parametrize("rows", [2000, 13])
def test_the_definition(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    random = np.random.default_rng(1)
    real, fake = random.normal(size=(60, 4)), random.normal(0.4, 0.8, size=(45, 4))
    near, dense = 3, 5

    def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.linalg.norm(one[:, None] - other[None], axis=2)

    def radius(points: np.ndarray, k: int) -> np.ndarray:
        return np.sort(apart(points, points), axis=1)[:, k]  # the first is the point itself

    between = apart(fake, real)
    found = neighbours(torch.from_numpy(fake), torch.from_numpy(real), near, dense)
    assert found.precision == pytest.approx((between <= radius(real, near)[None]).any(1).mean())
    assert found.recall == pytest.approx((between <= radius(fake, near)[:, None]).any(0).mean())
    assert found.density == pytest.approx((between < radius(real, dense)[None]).sum(1).mean() / dense)
    assert found.coverage == pytest.approx((between.min(0) < radius(real, dense)).mean())


def test_the_same_as_torch_fidelity() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(300, 8, generator=generator), 0.9 * torch.randn(200, 8, generator=generator)
    expected = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    found = neighbours(fake, real, 3, 5)
    assert found.precision == pytest.approx(expected["precision"], rel=1e-6)
    assert found.recall == pytest.approx(expected["recall"], rel=1e-6)


def test_radii_leave_out_the_point_itself() -> None:
    assert radii(line(0, 1, 3, 3), 2).tolist() == [[1, 9], [1, 4], [0, 4], [0, 4]]


def test_density_is_about_one_for_the_same_distribution() -> None:
    generator = torch.Generator().manual_seed(3)
    real, fake = (torch.randn(2000, 5, generator=generator) for _ in range(2))
    assert neighbours(fake, real, 3, 5).density == pytest.approx(1, abs=0.05)
