"""Statistics of the test batch: mixed as the definition says, layer by layer, without an effect on what comes next."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from normbench.evaluation.batch_statistics import (
    BatchStatistics,
    batch_layers,
    batch_statistics,
    with_batch_statistics,
)
from normbench.methods import registry
from normbench.models import registry as models
from tests.support.subjects import corrupted_subject


def trained(name: str, network: str = "resnet8", **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = models.classifier(network, {"width": 4}, registry.build(name, options), 3, 5)
    for _ in range(5):
        model(torch.randn(16, 3, 16, 16))
    return model.eval()


def test_a_batch_norm_mixes_training_and_test_statistics() -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=0.1)
    layer(torch.randn(50, 3, 4, 4) * 2 + 1)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(12, 3, 4, 4) * 3 - 2
    y = with_batch_statistics(layer, 4.0)(x)
    share = 12 / (4 + 12)
    mean = (1 - share) * before["running_mean"] + share * x.mean((0, 2, 3))
    variance = (1 - share) * before["running_var"] + share * x.var((0, 2, 3))
    expected = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    assert torch.allclose(y, expected, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "name", ["batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four"]
)
def test_no_call_has_an_effect_on_the_next(name: str) -> None:
    model = trained(name)
    assert batch_layers(model)
    before = copy.deepcopy(model.state_dict())
    adapted = with_batch_statistics(model, 16.0)
    x, other = torch.randn(10, 3, 16, 16), torch.randn(7, 3, 16, 16) * 5
    with torch.inference_mode():
        first = adapted(x)
        adapted(other)
        assert torch.equal(adapted(x), first)
        assert not torch.allclose(first, model(x))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if torch.is_tensor(v))
    assert not model.training
    # A prior that outweighs every batch is the network as it was trained.
    with torch.inference_mode():
        assert torch.allclose(with_batch_statistics(model, 1e12)(x), model(x), atol=1e-4)


def test_without_batch_statistics_there_is_nothing_to_mix() -> None:
    assert not batch_layers(trained("group_norm"))
    assert not batch_layers(trained("no_norm"))


def test_statistics_of_the_batch_repair_a_shift() -> None:
    """Inputs brighter and flatter than in training: with statistics of the batch the outputs are as before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
    x = torch.randn(200, 3, 16, 16)
    for _ in range(50):
        model(x)
    model.eval()
    shifted = 0.3 * x + 2
    with torch.inference_mode():
        plain = (model(shifted) - model(x)).norm()
        adapted = (with_batch_statistics(model, 0.0)(shifted) - with_batch_statistics(model, 0.0)(x)).norm()
    assert adapted < 0.01 * plain


def test_the_score_is_the_accuracy_under_these_statistics(tmp_path: Path) -> None:
    """In batches of the test images in their order; of the corrupted ones, those that are scored."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    given = corrupted_subject(model, tmp_path, examples=25)
    images, settings = given.images, BatchStatistics(prior=4.0, batch_size=10)
    found = batch_statistics(given, settings)
    metric, labels = found.metrics["batch_statistics"], images.labels

    @torch.no_grad()
    def predicted(pixels: torch.Tensor) -> np.ndarray:
        parts = [with_batch_statistics(model, 4.0)(images.normalized(part)).argmax(1) for part in pixels.split(10)]
        return torch.cat(parts).numpy()

    assert (metric["prior"], metric["batch_size"]) == (4.0, 10)
    assert metric["clean_accuracy"] == pytest.approx((predicted(images.pixels) == labels.numpy()).mean())
    means = []
    for row, name in enumerate(("fog", "frost")):
        stored = torch.from_numpy(np.load(tmp_path / f"{name}.npy")).permute(0, 3, 1, 2)
        for level in range(2):
            expected = predicted(stored[level * 40 :][:40][given.index])
            np.testing.assert_array_equal(found.predictions["batch_statistics"][row, level], expected)
            means.append((expected == labels[given.index].numpy()).mean())
            assert metric["corruption_accuracy"][name][level] == pytest.approx(means[-1])
    assert found.columns == {
        "batch_clean_accuracy": metric["clean_accuracy"],
        "batch_corruption_accuracy": pytest.approx(np.mean(means)),
    }


def test_a_network_without_running_statistics_has_no_such_score(tmp_path: Path) -> None:
    found = batch_statistics(
        corrupted_subject(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), tmp_path), BatchStatistics()
    )
    assert found.metrics == found.columns == found.predictions == {}


def test_one_value_a_channel_keeps_the_statistics_of_training() -> None:
    """It has no variance. The variance of an image of more pixels is that of its pixels."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3)
    layer(torch.randn(50, 3, 4, 4) * 2 + 1)
    layer.eval()
    adapted = with_batch_statistics(layer, 0.0)
    one = torch.randn(1, 3, 1, 1)
    assert torch.equal(adapted(one), layer(one))
    x = torch.randn(1, 3, 4, 4)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(adapted(x), expected, atol=1e-5)
    assert torch.equal(adapted(one), layer(one)), "what came before does not stay"


@pytest.mark.parametrize(
    "name", ["batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four"]
)
@pytest.mark.parametrize("side", [4, 16])
def test_batches_of_one_image(name: str, side: int) -> None:
    """At a side of 4, the last layers of the network have one pixel."""
    adapted = with_batch_statistics(trained(name), 16.0)
    for _ in range(2):
        assert adapted(torch.randn(1, 3, side, side)).isfinite().all()


def test_the_score_takes_batches_of_one_image(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)).eval()
    given = corrupted_subject(model, tmp_path, examples=25)
    found = batch_statistics(given, BatchStatistics(batch_size=1)).metrics["batch_statistics"]
    expected = model(given.images.normalized(given.images.pixels)).argmax(1)
    assert found["clean_accuracy"] == pytest.approx(float((expected == given.images.labels).double().mean()))
