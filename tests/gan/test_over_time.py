"""The KID of the samples of a history: against pairs of images one by one, and what it says of known images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normbench.gan import over_time
from normbench.gan.over_time import kids
from tests.gan.scores.test_kernel import pair_by_pair


class Plain:
    """An extractor whose features are the first six pixels, as numbers around 0."""

    dimensions, batch, resize = 6, 3, "none"

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = pixels.flatten(1)[:, :6].float() / 128 - 1
        return features, features


def images(count: int, top: int, seed: int) -> Tensor:
    return torch.randint(0, top, (count, 1, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_each_time_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor, real = Plain(), images(20, 256, 0)
    samples = torch.stack([images(8, 100, 1), images(8, 256, 2)])
    features, _ = extractor(real)
    expected = [pair_by_pair(extractor(each)[0].double().numpy(), features.double().numpy()) for each in samples]
    assert kids(extractor, features, samples) == pytest.approx(expected, rel=1e-9)
    assert expected[0] > 10 * abs(expected[1])  # Dark images are further from the real ones.
    monkeypatch.setattr(over_time, "MOST", 11)
    some = pair_by_pair(extractor(samples[0])[0].double().numpy(), features[:11].double().numpy())
    assert kids(extractor, features, samples)[0] == pytest.approx(some, rel=1e-9)


def test_it_has_no_bias() -> None:
    """Samples of the real distribution have a KID of 0 on average, however few they are."""
    extractor = Plain()
    real, _ = extractor(images(2000, 256, 0))
    found = torch.tensor(kids(extractor, real, images(400 * 10, 256, 1).view(400, 10, 1, 3, 3)))
    assert abs(found.mean()) < 4 * found.std() / 20
    assert found.min() < 0 < found.max()


def test_what_has_no_kid() -> None:
    extractor, samples = Plain(), images(8, 256, 0).view(2, 4, 1, 3, 3)
    real, _ = extractor(images(5, 256, 1))
    assert kids(extractor, real[:1], samples) == [None, None]
    assert kids(extractor, real, samples[:, :1]) == [None, None]
    assert kids(extractor, torch.full_like(real, torch.nan), samples) == [None, None]
