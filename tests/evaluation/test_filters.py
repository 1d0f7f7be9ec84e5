"""The score `filters`: against covariances of patches that loops gather, on natural images, and by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, on_device
from normbench.evaluation import filters as module
from normbench.evaluation.filters import Filters, filters, first_whitening, shape_of, sparsity
from normbench.evaluation.registry import SCORES
from normbench.methods import registry as methods
from normbench.methods.network_deconvolution import DeconvConv2d
from normbench.models.build import build_classifier
from tests.support.shared import cifar_test_images
from tests.support.subjects import subject

Array = np.ndarray


def images_of(pixels: Array, mean: float | list[float] = 0.45, std: float | list[float] = 0.25) -> Images:
    """Images uint8 (N, H, W, C)."""
    each = [value if isinstance(value, list) else [value] * pixels.shape[3] for value in (mean, std)]
    return on_device(torch.from_numpy(pixels), torch.zeros(len(pixels), dtype=torch.long), *each, "cpu")


def network(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def measured(layer: nn.Module, images: Images, **settings: Any) -> dict[str, Any]:
    found = filters(subject(network(layer), images), Filters(**settings))
    assert SCORES.get("filters").problem(found) is None
    assert found.columns == found.predictions == found.missing == {}
    return found.metrics["filters"]


def natural(count: int, side: int, channels: int, seed: int = 0) -> Array:
    """Fields like natural images: neighbours and channels are alike, and amplitudes fall with a power of the frequency.

    Of natural images the power is about 1; 1.3 is that of smoother ones, such as those that were made small.
    """
    chance = np.random.default_rng(seed)
    rows, columns = (np.fft.fftfreq(2 * side) for _ in range(2))
    falling = np.hypot(rows[:, None], columns).clip(1 / (2 * side)) ** -1.3
    own, common = (chance.normal(size=(count, size, 2 * side, 2 * side)) for size in (channels, 1))
    # Of a field that repeats itself, a quarter, so that opposite edges are not neighbours.
    field = np.fft.ifft2(np.fft.fft2(common + 0.3 * own) * falling).real[..., :side, :side]
    field = 128 + 50 * field / field.std()
    return field.clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture(scope="session")
def cifar() -> Array:
    """The first 400 test images of CIFAR-10."""
    return np.ascontiguousarray(cifar_test_images()[:400])


# An oracle in numpy, by loops


def gathered(x: Array, kernel: tuple[int, int], step: int, padding: int) -> Array:
    """The patches of images (N, C, H, W) that begin every `step` pixels: (M, C * kh * kw)."""
    count, channels, height, width = x.shape
    rows, columns = kernel
    found = []
    for number in range(count):
        for top in range(-padding, height + padding - rows + 1, step):
            for left in range(-padding, width + padding - columns + 1, step):
                patch = []
                for channel, row, column in itertools.product(range(channels), range(rows), range(columns)):
                    y, z = top + row, left + column
                    inside = 0 <= y < height and 0 <= z < width
                    patch.append(float(x[number, channel, y, z]) if inside else 0.0)
                found.append(patch)
    return np.array(found)


def root(patches: Array, eps: float, iterations: int | None) -> Array:
    """The inverse square root of the covariance: exact, or what Newton's iteration makes of each eigenvalue."""
    centred = patches - patches.mean(0)
    matrix = np.array([[(a * b).mean() for b in centred.T] for a in centred.T]) + eps * np.eye(patches.shape[1])
    values, vectors = np.linalg.eigh(matrix)
    if iterations is None:
        return vectors @ np.diag(values**-0.5) @ vectors.T
    norm = math.sqrt((matrix**2).sum())
    y, z = values / norm, np.ones_like(values)
    for _ in range(iterations):
        t = 1.5 - 0.5 * z * y
        y, z = y * t, t * z
    return vectors @ np.diag(z / math.sqrt(norm)) @ vectors.T


def moments(values: Array) -> tuple[float, float]:
    """Excess kurtosis and share near zero, means over the columns."""
    kurtosis, near = [], []
    for column in values.T:
        mean, deviation = column.mean(), column.std()
        units = [(value - mean) / deviation for value in column]
        kurtosis.append(sum(unit**4 for unit in units) / len(units) - 3)
        near.append(sum(abs(unit) < 0.1 for unit in units) / len(units))
    return float(np.mean(kurtosis)), float(np.mean(near))


LAYERS = {
    "3x3": (3, {"kernel_size": 3, "padding": 1, "eps": 1e-3}, 3),
    "3x3, grey, no padding": (1, {"kernel_size": 3}, 3),
    "5x5, stride 2": (3, {"kernel_size": 5, "padding": 2, "stride": 2, "eps": 1e-3}, 6),
    "4x4, every pixel": (1, {"kernel_size": 4, "padding": 1, "sampling_stride": 1}, 1),
    "1x3": (3, {"kernel_size": (1, 3), "padding": 1}, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_filters_and_sparsity_against_patches_gathered_by_loops(name: str) -> None:
    channels, options, step = LAYERS[name]
    layer = DeconvConv2d(channels, 4, **options, iterations=7)
    images = images_of(natural(24, 13, channels))
    found = measured(layer, images, iterations=[5, 15, 100])
    rows, columns = layer.kernel_size
    x = images.normalized(images.pixels).double().numpy()
    patches = gathered(x, layer.kernel_size, step, layer.padding[0])
    assert found["own_iterations"] == 7
    assert (found["version"], found["examples"], found["patches"]) == (1, 24, len(patches))
    assert [after["iterations"] for after in found["after"]] == [5, 7, 15, 100]
    middle = [channel * rows * columns + rows // 2 * columns + columns // 2 for channel in range(channels)]
    centred = patches - patches.mean(0)
    before = moments(centred[:, middle])
    assert (found["pixels"]["kurtosis"], found["pixels"]["near_zero"]) == pytest.approx(before, abs=1e-9)
    for after in found["after"]:
        for iterations in [after["iterations"]] + [None] * (after["iterations"] == 100):
            matrix = root(patches, layer.eps, iterations)
            expected = matrix[middle].reshape(channels, channels, rows, columns)
            assert np.abs(np.array(after["weights"]) - expected).max() < 1e-9 * np.abs(expected).max()
            responses = moments(centred @ matrix[:, middle])
            assert after["responses"]["kurtosis"] == pytest.approx(responses[0], abs=1e-7)
            assert after["responses"]["near_zero"] == pytest.approx(responses[1], abs=1e-3)
            assert (after["others"] is None) == (channels == 1)
            for key, value in numbers(expected).items():
                assert after[key] == pytest.approx(value, abs=1e-9, rel=1e-9), key


def numbers(weights: Array) -> dict[str, float]:
    """The numbers of filters (C, C, kh, kw), pixel by pixel."""
    channels, _, rows, columns = weights.shape
    found: dict[str, list[float]] = {"centre": [], "ring": [], "others": [], "sum": []}
    for channel in range(channels):
        own, row, column = weights[channel, channel], rows // 2, columns // 2
        centre = own[row, column]
        beside = [own[y, x] for y in range(rows) for x in range(columns) if abs(y - row) + abs(x - column) == 1]
        found["centre"].append(centre)
        found["ring"].append(sum(beside) / len(beside) / centre)
        found["others"] += [weights[channel, c, row, column] / centre for c in range(channels) if c != channel]
        found["sum"].append(sum(own.flatten()) / centre)
    return {key: float(np.mean(values)) for key, values in found.items() if values}


# By hand


def test_the_sparsity_of_columns_by_hand() -> None:
    """Of -1 and 1 the fourth power is 1; of -2, 2 and six zeros the variance is 1 and the fourth power 32/8."""
    flat, sparse = [-1.0, 1.0] * 4, [-2.0, 2.0] + [0.0] * 6
    for column, expected in ((flat, (-2.0, 0.0)), (sparse, (1.0, 0.75))):
        for scale, shift in ((1, 0), (0.5, 8), (1000, -3)):
            found = sparsity(scale * torch.tensor(column, dtype=torch.float64)[:, None] + shift)
            assert (found["kurtosis"], found["near_zero"]) == pytest.approx(expected, abs=1e-12)
    both = sparsity(torch.tensor([flat, sparse], dtype=torch.float64).T)
    assert (both["kurtosis"], both["near_zero"]) == pytest.approx((-0.5, 0.375))


def test_a_tenth_of_a_deviation_is_near_zero() -> None:
    values = torch.tensor([1.0, -1.0] * 50 + [0.099, -0.099] + [0.101, -0.101], dtype=torch.float64)
    deviation = float(values.square().mean().sqrt())
    found = sparsity(torch.cat([values[:100], values[100:] * deviation])[:, None])
    assert found["near_zero"] == pytest.approx(2 / 104)


def test_normal_and_laplace_values_have_the_known_sparsity() -> None:
    chance = np.random.default_rng(0)
    for values, kurtosis, near in (
        (chance.normal(size=400_000), 0, math.erf(0.1 / math.sqrt(2))),
        (chance.laplace(size=400_000), 3, 1 - math.exp(-0.1 * math.sqrt(2))),
    ):
        found = sparsity(torch.from_numpy(values)[:, None])
        assert found["kurtosis"] == pytest.approx(kurtosis, abs=0.15)
        assert found["near_zero"] == pytest.approx(near, abs=0.002)


def test_without_variance_there_is_no_sparsity() -> None:
    """The filters are there: without covariance they are the points that eps leaves."""
    found = measured(DeconvConv2d(1, 2, 3), images_of(np.full((4, 9, 9, 1), 77, np.uint8)))
    nothing = {"kurtosis": None, "near_zero": None}
    assert found["pixels"] == nothing
    assert [after["responses"] for after in found["after"]] == [nothing, nothing]
    assert found["after"][1]["centre"] == pytest.approx(1e-5**-0.5, rel=1e-6)
    assert found["after"][1]["ring"] == pytest.approx(0, abs=1e-9)
    assert found["after"][1]["sum"] == pytest.approx(1, abs=1e-9)


def test_the_numbers_of_two_filters_by_hand() -> None:
    own = [[[9.0, -1, 9], [-2, 4, -3], [9, -2, 9]], [[0, 0, 0], [0, 2, -1], [0, 0, 0]]]
    weights = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    weights[0, 0], weights[1, 1] = torch.tensor(own, dtype=torch.float64)
    weights[0, 1, 1, 1], weights[1, 0, 1, 1] = -1, 1
    expected = {"centre": 3, "ring": (-0.5 - 0.125) / 2, "others": (-0.25 + 0.5) / 2, "sum": (8 + 0.5) / 2}
    assert shape_of(weights) == pytest.approx(expected)


# Which networks have such filters


def classifier(model: str, method: str, **options: Any) -> nn.Module:
    return build_classifier(model, {}, methods.build(method, options), 3, 10, seed=0).eval()


@pytest.mark.parametrize(
    ("model", "method", "options", "iterations"),
    [
        ("resnet8", "network_deconvolution", {}, 5),
        ("resnet8", "network_deconvolution", {"iterations": 2}, 2),
        ("lenet", "network_deconvolution", {}, 15),
        ("lenet", "network_deconvolution", {"authors_settings": False}, 5),
    ],
)
def test_the_layer_is_the_one_that_sees_the_images(model: str, method: str, options: Any, iterations: int) -> None:
    made = classifier(model, method, **options)
    layer = first_whitening(made, torch.randn(1, 3, 32, 32))
    assert isinstance(layer, DeconvConv2d)
    assert layer is next(each for each in made.modules() if isinstance(each, DeconvConv2d))
    assert layer.iterations == iterations
    assert all(not each._forward_pre_hooks for each in made.modules())


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("resnet8", "batch_norm", {}),
        ("resnet8", "iter_norm", {}),  # which whitens channels alone
        ("resnet8", "switchable_whitening", {}),
        ("resnet8", "network_deconvolution", {"block": 1}),  # whose statistics mix parts of patches
        ("resnext29_32x4d", "network_deconvolution", {}),  # whose first layer is 1x1
        ("mlp", "network_deconvolution", {}),
    ],
)
def test_other_networks_have_none(model: str, method: str, options: Any) -> None:
    images = images_of(natural(4, 32, 3))
    found = filters(subject(classifier(model, method, **options), images), Filters())
    assert (found.metrics, found.columns, found.missing) == ({}, {}, {})


def test_a_later_layer_does_not_count() -> None:
    later = nn.Sequential(nn.ReLU(), DeconvConv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert first_whitening(later, torch.randn(1, 1, 8, 8)) is None
    assert first_whitening(nn.Sequential(nn.Identity(), *later[1:]).eval(), torch.randn(1, 1, 8, 8)) is later[1]


class Own(nn.Module):
    """A layer of somebody's own, which offers what a layer that whitens patches does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = DeconvConv2d(1, 2, 3, padding=1)
        self.sampling, self.iterations, self.eps = self.conv.sampling, 5, 1e-5
        del self.conv.eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight)


def test_a_layer_of_ones_own_is_known_by_what_it_offers() -> None:
    images = images_of(natural(20, 12, 1))
    assert measured(Own(), images) == measured(DeconvConv2d(1, 5, 3, padding=1), images)


# Natural images


def test_weights_and_seeds_change_nothing_and_few_patches_little(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(natural(200, 16, 3))
    whole = measured(DeconvConv2d(3, 8, 3, padding=1), images)
    assert whole == measured(DeconvConv2d(3, 2, 3, padding=1), images)
    assert whole["patches"] == 200 * 36  # 6 x 6 patches an image
    monkeypatch.setattr(module, "MOST_PATCHES", 2000)
    some = measured(DeconvConv2d(3, 8, 3, padding=1), images)
    assert some == measured(DeconvConv2d(3, 8, 3, padding=1), images)
    assert some["patches"] == 2000
    for one, other in zip(some["after"], whole["after"], strict=True):
        assert one["weights"] != other["weights"]
        assert one["ring"] == pytest.approx(other["ring"], abs=0.03)
        assert one["sum"] == pytest.approx(other["sum"], abs=0.03)
    few = measured(DeconvConv2d(3, 8, 3, padding=1), images, examples=50)
    assert (few["examples"], few["patches"]) == (50, 1800)


def check_shapes(five: dict[str, Any], fifteen: dict[str, Any]) -> None:
    """Nearly points after five steps, and after fifteen a centre with an opposite surround that adds up to nothing."""
    for after in (five, fifteen):
        weights = np.array(after["weights"])
        for channel, each in enumerate(weights):
            middle = (channel, each.shape[1] // 2, each.shape[2] // 2)
            assert np.unravel_index(np.abs(each).argmax(), each.shape) == middle
            assert each[middle] > 0
    rest = [
        np.abs(np.delete(each.flatten(), np.abs(each).argmax())).max() / each.max()
        for each in np.array(five["weights"])
    ]
    assert max(rest) < 0.12
    assert five["sum"] > 0.3
    for channel, each in enumerate(np.array(fifteen["weights"])):
        own, (row, column) = each[channel], (each.shape[1] // 2, each.shape[2] // 2)
        centre = own[row, column]
        ring = [own[row - 1, column], own[row + 1, column], own[row, column - 1], own[row, column + 1]]
        assert max(ring) < -0.15 * centre
        assert abs(own.sum()) < 0.1 * centre
        assert max(each[c, row, column] for c in range(len(each)) if c != channel) < -0.1 * centre  # opponent colours
    assert fifteen["ring"] < 3 * five["ring"] < 0


def test_filters_of_fields_like_natural_images_have_a_surround_after_fifteen_steps() -> None:
    found = measured(DeconvConv2d(3, 8, 3, padding=1), images_of(natural(300, 24, 3)))
    check_shapes(*found["after"])


def test_filters_of_real_images_have_a_surround_after_fifteen_steps(cifar: Array) -> None:
    images = images_of(cifar, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    found = measured(DeconvConv2d(3, 8, 3, padding=1), images)
    five, fifteen = found["after"]
    check_shapes(five, fifteen)
    assert found["pixels"]["kurtosis"] < 0 < five["responses"]["kurtosis"] < 2
    assert fifteen["responses"]["kurtosis"] > 5
    assert found["pixels"]["near_zero"] < five["responses"]["near_zero"] < fifteen["responses"]["near_zero"]


@pytest.mark.parametrize(
    ("iterations", "neighbours", "red", "total"),
    [(5, -0.060, -0.06, 0.59), (10, -0.163, -0.30, 0.11), (15, -0.344, -0.43, 0.03)],
)
def test_the_filter_of_green_is_the_one_that_was_found_before(
    cifar: Array, iterations: int, neighbours: float, red: float, total: float
) -> None:
    """The numbers of ../shared/spec/networks.md, section 5, of patches without padding."""
    images = images_of(cifar, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    found = measured(DeconvConv2d(3, 8, 3), images, iterations=[iterations])
    after = next(each for each in found["after"] if each["iterations"] == iterations)
    green = np.array(after["weights"])[1]
    own = green[1] / green[1, 1, 1]
    assert np.mean([own[0, 1], own[2, 1], own[1, 0], own[1, 2]]) == pytest.approx(neighbours, abs=0.01)
    assert green[0, 1, 1] / green[1, 1, 1] == pytest.approx(red, abs=0.02)
    assert own.sum() == pytest.approx(total, abs=0.02)
