"""Spectral norms of convolutions against dense matrices, and against frequencies by NumPy's transform."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import spectral
from normbench.spectral.kernels import top_eigenvectors
from tests.oracles import layers as oracles

properties = settings(max_examples=50, deadline=None, derandomize=True, database=None)
ROUNDING = 1e-9

# One call of every function, for a weight and its groups.
EVERY: dict[str, Callable[..., Tensor]] = {
    "bounds": spectral.bounds,
    "fantastic_four": spectral.fantastic_four,
    "grid_bound": lambda weight, **options: spectral.grid_bound(weight, 9, **options),
    "gram_bound": lambda weight, **options: spectral.gram_bound(weight, 5, **options),
    "exact_norm": lambda weight, **options: spectral.exact_norm(weight, (5, 4), **options),
    "conv_bound": spectral.conv_bound,
    "conv_bound, strided": lambda weight, **options: spectral.conv_bound(weight, 2, **options),
    "zero_padded_norm": lambda weight, **options: spectral.zero_padded_norm(weight, 6, **options),
}
ON_EACH = pytest.mark.parametrize("function", EVERY.values(), ids=EVERY.keys())


# --- Kernels ---------------------------------------------------------------------------------------------------------


def random_kernel(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rank_one(*shape: int, seed: int = 0) -> Tensor:
    """A channel matrix times a column times a row."""
    outputs, inputs, height, width = shape
    matrix, column, row = (random_kernel(*s, seed=seed) for s in ((outputs, inputs), (height,), (width,)))
    return torch.einsum("oi,p,q->oipq", matrix, column, row)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Positive, with a bell over the taps: the largest norm is at frequency zero."""
    bells = [torch.exp(-((torch.arange(k, dtype=torch.float64) - (k - 1) / 2) ** 2)) for k in shape[2:]]
    return random_kernel(*shape, seed=seed).abs() * torch.outer(*bells)


def sparse(*shape: int, seed: int = 0) -> Tensor:
    """Entries -1, 0 and 1, half of them 0: symbols that vanish, and many singular values that are equal."""
    return random_kernel(*shape, seed=seed).round().clamp(-1, 1)


def turning(angles: tuple[float, float], taps: tuple[Tensor, Tensor]) -> Tensor:
    """Rotations by p*angle + q*angle' times the taps: (2, 2, kh, kw), with singular values of the taps' transforms.

    They are those at the frequencies shifted by plus and by minus the angles, so that the peak can be put anywhere.
    """
    p, q = (torch.arange(len(t), dtype=torch.float64) for t in taps)
    angle = p[:, None] * angles[0] + q * angles[1]
    rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return rotation * torch.outer(*taps)


def peaked(*shape: int, seed: int = 0) -> Tensor:
    """Two channels whose largest norm lies at frequencies anywhere; the number of channels asked for is not kept."""
    numbers = random_kernel(2 + shape[2] + shape[3], seed=seed)
    angles = (10 * numbers[0].item(), 10 * numbers[1].item())
    return turning(angles, (numbers[2 : 2 + shape[2]], numbers[2 + shape[2] :]))


KINDS = (random_kernel, rank_one, smooth, sparse, peaked)
sizes = st.integers(1, 3)


@st.composite
def kernels(draw: st.DrawFn, largest: int = 4) -> Tensor:
    taps = st.integers(1, largest)
    shape = (draw(sizes), draw(sizes), draw(taps), draw(taps))
    return draw(st.sampled_from(KINDS))(*shape, seed=draw(st.integers(0, 10**6)))


# --- Oracles ---------------------------------------------------------------------------------------------------------


def circular_matrix_norm(kernel: Tensor, height: int, width: int, stride: int = 1) -> float:
    """Norm of the circular convolution, its matrix filled in tap by tap; the stride divides the sizes."""
    outputs, inputs, rows, columns = kernel.shape
    matrix = np.zeros((outputs, height // stride, width // stride, inputs, height, width))
    for y in range(height // stride):
        for x in range(width // stride):
            for p in range(rows):
                for q in range(columns):
                    place = (slice(None), y, x, slice(None), (stride * y + p) % height, (stride * x + q) % width)
                    matrix[place] += kernel[:, :, p, q].numpy()
    return np.linalg.norm(matrix.reshape(-1, inputs * height * width), 2)


def zero_padded_matrix_norm(
    kernel: Tensor, size: int, stride: int, padding: int | tuple[int, int], groups: int = 1, dilation: int = 1
) -> float:
    """Norm of the zero-padded convolution, its matrix by applying it to every basis image."""
    inputs = kernel.shape[1] * groups
    basis = torch.eye(inputs * size * size, dtype=torch.float64).view(-1, inputs, size, size)
    columns = torch.nn.functional.conv2d(
        basis, kernel, stride=stride, padding=padding, groups=groups, dilation=dilation
    )
    return np.linalg.norm(columns.flatten(1).numpy(), 2)


def symbols(kernel: Tensor, points: int) -> np.ndarray:
    """The symbol on a grid of frequencies, (points, points, out, in)."""
    return np.fft.fft2(kernel.numpy(), s=(points, points)).transpose(2, 3, 0, 1)


def supremum(kernel: Tensor, stride: int = 1, points: int = 192) -> float:
    """Norm over all frequencies, up to those of a dense grid; for a stride, of the aliases side by side."""
    points -= points % stride
    symbol = symbols(kernel, points)
    part = points // stride
    aliases = [
        symbol[part * r : part * (r + 1), part * s : part * (s + 1)] for r in range(stride) for s in range(stride)
    ]
    return np.linalg.norm(np.concatenate(aliases, 3), 2, axis=(2, 3)).max() / stride


def missed(kernel: Tensor, points: int = 192) -> float:
    """At most by this factor a dense grid misses the supremum: second-order Bernstein along both axes."""
    return 1 + sum((math.pi * (k - 1) / 2 / (points - 2)) ** 2 for k in kernel.shape[2:])


# --- Upper bounds are above --------------------------------------------------------------------------------------------


def upper_bounds(kernel: Tensor) -> list[float]:
    points = max(kernel.shape[2:])
    return [
        *spectral.bounds(kernel).tolist(),
        spectral.fantastic_four(kernel).item(),
        *(spectral.grid_bound(kernel, n).item() for n in (points, points + 1, 8, 16)),
        spectral.conv_bound(kernel).item(),
    ]


@properties
@given(kernel=kernels())
def test_upper_bounds_are_above_the_norm_at_every_frequency(kernel: Tensor) -> None:
    assert min(upper_bounds(kernel)) >= supremum(kernel) * (1 - ROUNDING)


@properties
@given(kernel=kernels(3), size=st.integers(3, 6), stride=st.integers(1, 3), padding=st.integers(0, 3))
def test_upper_bounds_are_above_dense_matrices(kernel: Tensor, size: int, stride: int, padding: int) -> None:
    norm = zero_padded_matrix_norm(kernel, size, stride, padding)
    circular = circular_matrix_norm(kernel, size * stride, 2 * stride, stride)
    assert min(*upper_bounds(kernel), *upper_bounds(spectral.polyphase(kernel, stride))) >= norm * (1 - ROUNDING)
    assert spectral.conv_bound(kernel, stride).item() >= max(norm, circular) * (1 - ROUNDING)


def test_upper_bounds_are_above_dilated_convolutions() -> None:
    kernel = random_kernel(2, 3, 3, 3)
    for padding in (0, 2):
        norm = zero_padded_matrix_norm(kernel, 7, 1, padding, dilation=2)
        assert min(upper_bounds(kernel)) >= norm * (1 - ROUNDING)


@properties
@given(kernel=kernels(7), stride=st.integers(1, 3))
def test_certificate_is_within_five_per_cent(kernel: Tensor, stride: int) -> None:
    exact, bound = supremum(kernel, stride), spectral.conv_bound(kernel, stride).item()
    assert exact * (1 - ROUNDING) <= bound <= 1.05 * exact * missed(kernel) + 1e-12
    own = spectral.conv_bound(kernel).item()
    assert bound <= 1.05 * own * (1 + ROUNDING), "a stride leaves out rows of the matrix"


def test_certificate_is_within_five_per_cent_of_wide_kernels() -> None:
    for kernel in (random_kernel(4, 3, 7, 7), smooth(16, 16, 3, 3), random_kernel(16, 16, 3, 3), peaked(2, 2, 7, 1)):
        exact = supremum(kernel, points=96)
        assert exact <= spectral.conv_bound(kernel).item() <= 1.05 * exact * missed(kernel, 96)


def test_certificate_takes_fantastic_four_where_that_is_less() -> None:
    """A 2x2 kernel of ones has the norm 4, at frequency zero, and all four bounds are exact."""
    kernel = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert spectral.conv_bound(kernel).item() == pytest.approx(4, rel=1e-12)
    assert spectral.grid_bound(kernel, 8).item() > 4.1


@pytest.mark.parametrize("points", [3, 8, 12, 15, 16])
def test_grid_factor_is_attained(points: int) -> None:
    """Ends alone, with the peak in the middle between grid points: no smaller factor would be an upper bound."""
    ends = torch.tensor([1.0, 0, 1], dtype=torch.float64)
    kernel = turning((math.pi / points, math.pi / points), (ends, ends))
    on_the_grid = np.linalg.norm(symbols(kernel, points), 2, axis=(2, 3)).max()
    assert spectral.grid_bound(kernel, points).item() == pytest.approx(
        on_the_grid / math.cos(math.pi / points) ** 2, rel=1e-12
    )
    # The ends have a second peak on the other side of the circle, which lies on the grid if that is odd.
    assert points % 2 or spectral.grid_bound(kernel, points).item() == pytest.approx(4, rel=1e-12)


def test_ratios_of_random_kernels() -> None:
    """Bounds over the norm at all frequencies, as they were measured for kernels with independent normal entries."""
    table = {(64, 64, 3, 3): (1.70, 1.68, 1.97, 1.95), (64, 3, 7, 7): (2.54, 2.50, 1.94, 5.61)}
    for shape, expected in table.items():
        kernel = random_kernel(*shape)
        ratios = spectral.bounds(kernel) / spectral.exact_norm(kernel, 64)
        assert ratios.tolist() == pytest.approx(expected, rel=0.05)


# --- Values ----------------------------------------------------------------------------------------------------------


@properties
@given(kernel=kernels())
def test_four_bounds_by_singular_values(kernel: Tensor) -> None:
    scale = math.sqrt(kernel.shape[2] * kernel.shape[3])
    expected = [scale * np.linalg.norm(matrix, 2) for matrix in oracles.four_matrices(kernel.numpy())]
    assert spectral.bounds(kernel).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert spectral.fantastic_four(kernel).item() == pytest.approx(min(expected), rel=1e-9, abs=1e-12)
    assert spectral.bounds(kernel.float()).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_four_bounds_of_special_kernels() -> None:
    """All are equal for kernels of rank one over the taps, and exact for 1x1 kernels and matrices."""
    values = spectral.bounds(rank_one(3, 4, 3, 2))
    assert values.tolist() == pytest.approx([values[0].item()] * 4, rel=1e-12)
    matrix = random_kernel(3, 5)
    norm = np.linalg.norm(matrix.numpy(), 2)
    for function in EVERY.values():
        assert function(matrix).flatten().tolist() == pytest.approx([norm] * function(matrix).numel(), rel=1e-3)
        assert torch.equal(function(matrix), function(matrix[:, :, None, None]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 5), (6, 4), (1, 7)])
@pytest.mark.parametrize("kind", [random_kernel, sparse])
def test_exact_norm_by_the_circular_matrix(shape: tuple[int, int], kind: Callable[..., Tensor]) -> None:
    """Images smaller than the kernel included, around which it wraps."""
    for channels in ((3, 2), (1, 4), (2, 2)):
        kernel = kind(*channels, 3, 4)
        expected = circular_matrix_norm(kernel, *shape)
        assert spectral.exact_norm(kernel, shape).item() == pytest.approx(expected, rel=1e-10)
        for iterations in (0, 1, 6):
            bound = spectral.gram_bound(kernel, shape, iterations).item()
            excess = min(channels) ** (1 / 2 ** (iterations + 1))
            assert expected * (1 - ROUNDING) <= bound <= expected * excess * (1 + ROUNDING)


def test_one_number_means_square_images() -> None:
    kernel = random_kernel(2, 3, 3, 3)
    assert torch.equal(spectral.exact_norm(kernel, 6), spectral.exact_norm(kernel, (6, 6)))
    assert spectral.exact_norm(kernel, 6).item() == pytest.approx(oracles.circular_norm(kernel.numpy(), 6), rel=1e-10)
    assert torch.equal(spectral.gram_bound(kernel, 6), spectral.gram_bound(kernel, (6, 6)))
    assert torch.equal(spectral.zero_padded_norm(kernel, 6), spectral.zero_padded_norm(kernel, (6, 6), 1, (1, 1)))


@pytest.mark.parametrize("chunk", [1, 7, 100, 10**6])
def test_the_search_in_parts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequencies are passed over where a factorization shows that they are lower than the best before them."""
    monkeypatch.setattr("normbench.spectral.frequencies.CHUNK", chunk)
    for kind in KINDS:
        for shape in ((4, 4, 3, 3), (6, 3, 3, 3), (6, 4, 2, 3)):
            kernel, groups = kind(*shape), 2
            expected = max(oracles.circular_norm(part.numpy(), 5) for part in kernel.chunk(groups))
            assert spectral.exact_norm(kernel, 5, groups=groups).item() == pytest.approx(expected, rel=1e-10)


@properties
@given(kernel=kernels(), stride=st.integers(1, 3), size=st.integers(1, 3))
def test_polyphase_kernel_is_the_strided_convolution(kernel: Tensor, stride: int, size: int) -> None:
    phases = spectral.polyphase(kernel, stride)
    height, width = (-(-k // stride) for k in kernel.shape[2:])
    assert phases.shape == (kernel.shape[0], kernel.shape[1] * stride**2, height, width)
    expected = circular_matrix_norm(kernel, size * stride, 3 * stride, stride)
    assert spectral.exact_norm(phases, (size, 3)).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [((4, 3), 1), ((4, 3), 2), ((3, 1), 3)])
def test_polyphase_kernel_runs_on_the_sub_images(channels: tuple[int, int], groups: int) -> None:
    for taps, stride in ((3, 2), (4, 2), (3, 3), (1, 2), (2, 3)):
        weight, x = random_kernel(*channels, taps, taps), random_kernel(2, channels[1] * groups, 12, 12, seed=1)
        phases = spectral.polyphase(weight, stride)
        found = torch.nn.functional.conv2d(torch.nn.functional.pixel_unshuffle(x, stride), phases, groups=groups)
        expected = torch.nn.functional.conv2d(x, weight, stride=stride, groups=groups)
        rows = found.shape[-1]
        assert oracles.relative_error(found, expected[..., :rows, :rows]) <= 1e-12


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, (0, 2)), (3, 2), (1, None)])
def test_zero_padded_norm_by_the_dense_matrix(stride: int, padding: int | tuple[int, int] | None) -> None:
    for kernel in (random_kernel(2, 3, 3, 3), smooth(3, 2, 3, 5), random_kernel(2, 1, 4, 2)):
        pad = (kernel.shape[2] // 2, kernel.shape[3] // 2) if padding is None else padding
        expected = zero_padded_matrix_norm(kernel, 6, stride, pad)
        estimates = [
            spectral.zero_padded_norm(kernel, 6, stride, padding, iterations=n).item() for n in (0, 3, 100, 1000)
        ]
        assert all(b >= a * (1 - ROUNDING) for a, b in itertools.pairwise(estimates))
        assert estimates[-1] <= expected * (1 + ROUNDING)
        assert estimates[2] >= 0.99 * expected
        assert estimates[3] >= 0.9999 * expected


@pytest.mark.parametrize("stride", [1, 2])
def test_affine_norm_by_the_dense_matrix(stride: int) -> None:
    """It grows with the iterations towards the norm of the linear part, and the constant part is nothing to it."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, stride, 1, padding_mode="circular").double().requires_grad_(False)
    layer.bias.fill_(100.0)
    x = torch.zeros(1, 3, 6, 7, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(layer, x).flatten(4).flatten(0, 3)
    exact = torch.linalg.matrix_norm(matrix, 2).item()
    found = [spectral.affine_norm(layer, x, iterations=n).item() for n in (0, 3, 30, 1000)]
    assert found == sorted(found)
    assert found[0] < 0.9 * exact
    assert found[-1] == pytest.approx(exact, rel=1e-9)
    assert spectral.affine_norm(layer, x).item() == pytest.approx(exact, rel=2e-2)


def test_zero_padded_norm_is_repeatable_and_leaves_the_generator_alone() -> None:
    kernel = random_kernel(2, 3, 3, 3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = spectral.zero_padded_norm(kernel, 8, iterations=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(spectral.zero_padded_norm(kernel, 8, iterations=2), first)


# --- Groups ------------------------------------------------------------------------------------------------------------


@ON_EACH
@pytest.mark.parametrize(("channels", "groups"), [((4, 3), 2), ((6, 1), 6), ((6, 1), 3), ((6, 2), 3)])
def test_groups_are_bounded_one_by_one(function: Callable[..., Tensor], channels: tuple[int, int], groups: int) -> None:
    for seed in range(3):
        weight = random_kernel(*channels, 3, 3, seed=seed)
        parts = torch.stack([function(part) for part in weight.chunk(groups)])
        # Power iteration starts at another point for each group.
        rel = 2e-2 if function is EVERY["zero_padded_norm"] else 1e-12
        assert function(weight, groups=groups).tolist() == pytest.approx(parts.amax(0).tolist(), rel=rel)


def test_power_iteration_of_a_group_is_its_own() -> None:
    """A larger group beside it would otherwise leave it no digits."""
    parts = random_kernel(2, 3, 3, 3), 0.99 * random_kernel(2, 3, 3, 3, seed=1)
    silent = torch.zeros_like(parts[0])
    both, first, second = (
        spectral.zero_padded_norm(torch.cat(pair), 6, groups=2, iterations=3)
        for pair in (parts, (parts[0], silent), (silent, parts[1]))
    )
    assert both.item() == pytest.approx(max(first.item(), second.item()), rel=1e-12)


@properties
@given(data=st.data(), groups=st.integers(2, 4), stride=st.integers(1, 2))
def test_certificate_of_grouped_convolutions(data: st.DataObject, groups: int, stride: int) -> None:
    seed, kind = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from(KINDS[:4]))
    weight = kind(groups * data.draw(sizes), data.draw(sizes), 3, data.draw(sizes), seed=seed)
    exact = max(supremum(part, stride, 96) for part in weight.chunk(groups))
    bound = spectral.conv_bound(weight, stride, groups=groups).item()
    assert exact * (1 - ROUNDING) <= bound <= 1.05 * exact * missed(weight, 96) + 1e-12
    assert bound >= zero_padded_matrix_norm(weight, 4, stride, 1, groups) * (1 - ROUNDING)


# --- Without a wait ----------------------------------------------------------------------------------------------------


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device whose results the host should not look at, as CUDA is."""
    monkeypatch.setattr("normbench.spectral.kernels.keeps_going", lambda _: True)


class Read(TorchDispatchMode):
    """Notes the operations whose result, or the size of it, the host has to read before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        masks = name.startswith("index") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masks or name in ("_local_scalar_dense", "nonzero", "_linalg_eigh", "_linalg_svd", "_linalg_check_errors"):
            self.found.append(name)
        return operation(*args, **(kwargs or {}))


@ON_EACH
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gets_the_same_without_a_wait(
    function: Callable[..., Tensor], kind: Callable[..., Tensor], request: pytest.FixtureRequest
) -> None:
    cases = [(kind(*shape, seed=1), groups) for shape in ((4, 4, 3, 3), (6, 3, 3, 2)) for groups in (1, 2)]
    expected = [
        (function(weight, groups=groups), gradient(function, weight, groups=groups)) for weight, groups in cases
    ]
    request.getfixturevalue("queued")
    for (weight, groups), (value, slope) in zip(cases, expected, strict=True):
        with Read() as read:
            found = function(weight, groups=groups)
            found_slope = gradient(function, weight, groups=groups)
        assert read.found == []
        assert found.tolist() == pytest.approx(value.tolist(), rel=1e-11)
        # Where several matrices or frequencies attain the norm, any of their gradients is one.
        if kind is random_kernel:
            assert oracles.relative_error(found_slope, slope) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-13, 1e-11, 1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("size", [2, 7, 40])
def test_eigenvectors_by_squaring(size: int, gap: float, dtype: torch.dtype) -> None:
    """However near the largest eigenvalues are to each other, and at every scale."""
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(size, size, dtype=dtype)).Q
    values = (1 - gap * torch.arange(size, dtype=torch.float64)).clamp_min(0)
    for scale in (1e-100, 1.0, 1e100):
        gram = scale * (turn * values) @ turn.mH
        vector = top_eigenvectors(gram)
        assert vector.norm().item() == pytest.approx(1, rel=1e-12)
        assert (vector.mH @ gram @ vector).real.item() == pytest.approx(scale, rel=1e-11)


def test_squaring_of_zeros_and_of_what_is_not_finite() -> None:
    gram = torch.eye(3, dtype=torch.float64).expand(3, 3, 3).clone()
    gram[0] = 0
    gram[1, 0, 1] = math.nan
    found = top_eigenvectors(gram)
    assert not found[0].any()
    assert found[1].isnan().any()
    assert found[2].norm() == 1


@ON_EACH
def test_on_a_gpu_the_norm_of_what_is_not_finite_is_nan(function: Callable[..., Tensor], queued: None) -> None:
    for value in (math.nan, math.inf):
        weight = random_kernel(2, 2, 3, 3)
        weight[1, 0, 1, 1] = value
        assert function(weight).isnan().all()


# --- Gradients ---------------------------------------------------------------------------------------------------------


def gradient(function: Callable[..., Tensor], weight: Tensor, **options: int) -> Tensor:
    (result,) = torch.autograd.grad(function(weight.requires_grad_(), **options).sum(), (weight,))
    weight.requires_grad_(False)
    return result


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (2, 5, 3, 2), (6, 2, 1, 1), (3, 1, 5, 2), (9, 1, 3, 3), (1, 9, 3, 3)])
def test_gradient_of_the_four_bounds_is_an_outer_product(shape: tuple[int, ...]) -> None:
    weight = random_kernel(*shape)
    root = math.sqrt(shape[2] * shape[3])
    # The same arrangement of the entries' numbers tells where each of them went.
    places = oracles.four_matrices(np.arange(1.0, weight.numel() + 1).reshape(shape))
    norms, expected = [], []
    for matrix, place in zip(oracles.four_matrices(weight.numpy()), places, strict=True):
        left, values, right = np.linalg.svd(matrix)
        norms.append(values[0])
        flat = np.zeros(weight.numel())
        flat[place.astype(int).ravel() - 1] = root * np.outer(left[:, 0], right[0]).ravel()
        expected.append(torch.from_numpy(flat.reshape(shape)))
    for index in range(4):
        found = gradient(lambda kernel, index=index: spectral.bounds(kernel)[index], weight)
        assert oracles.relative_error(found, expected[index]) <= 1e-8
    least = expected[int(np.argmin(norms))]
    assert oracles.relative_error(gradient(spectral.fantastic_four, weight), least) <= 1e-8
    single = gradient(spectral.fantastic_four, weight.float())
    assert single.dtype == torch.float32
    assert oracles.relative_error(single.double(), least) <= 1e-6


@ON_EACH
@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_by_finite_differences(function: Callable[..., Tensor], groups: int) -> None:
    kind = random_kernel
    if function is EVERY["zero_padded_norm"]:  # whose gradient is that of a converged iteration
        function, kind = partial(spectral.zero_padded_norm, size=4, iterations=1000), smooth
    weight, direction, step = kind(4, 3, 3, 3), random_kernel(4, 3, 3, 3, seed=1), 1e-6
    moved = [function(weight + sign * step * direction, groups=groups).sum() for sign in (1, -1)]
    slope = (moved[0] - moved[1]).item() / (2 * step)
    found = gradient(function, weight, groups=groups)
    assert (found * direction).sum().item() == pytest.approx(slope, rel=1e-5)


DEGENERATE = {
    "zero": torch.zeros(2, 2, 3, 3),
    "rank one": rank_one(2, 2, 3, 3),
    "rank one in the channels too": torch.ones(2, 2, 3, 3),
    "1, 0, -1": torch.tensor([1.0, 0, -1])[None, None, None, :].expand(2, 2, 3, 3).clone(),
    "1, 0, -1, depth-wise": torch.tensor([1.0, 0, -1])[None, None, :, None].expand(2, 1, 3, 1).clone(),
    "one tap": torch.eye(9)[4].view(1, 1, 3, 3),
    "identity": torch.eye(3)[:, :, None, None],
    "zero outputs": random_kernel(2, 2, 3, 3) * torch.tensor([1.0, 0])[:, None, None, None],
    "tiny": random_kernel(2, 2, 3, 3) * 1e-30,
    "huge": random_kernel(2, 2, 3, 3) * 1e30,
}


@ON_EACH
@pytest.mark.parametrize("kernel", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite(function: Callable[..., Tensor], kernel: Tensor, dtype: torch.dtype) -> None:
    for groups in {1, len(kernel)}:
        weight = kernel.to(dtype)
        value, slope = function(weight, groups=groups), gradient(function, weight, groups=groups)
        assert value.dtype == slope.dtype == dtype
        assert value.isfinite().all()
        assert slope.isfinite().all()
        if kernel.any():
            assert value.min() > 0
            # The norm of a multiple is the multiple of the norm, so that the slope along the kernel is the norm.
            assert (slope * weight).sum().item() == pytest.approx(value.sum().item(), rel=1e-5)
        else:
            assert not value.any()
            assert not slope.any()


@ON_EACH
def test_gradient_does_not_change_the_value(function: Callable[..., Tensor]) -> None:
    weight = random_kernel(4, 3, 3, 3).float()
    with torch.no_grad():
        plain = function(weight)
    assert function(weight.requires_grad_()).tolist() == pytest.approx(plain.tolist(), rel=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(weight).tolist() == pytest.approx(plain.tolist(), rel=1e-7)


# --- Margins -----------------------------------------------------------------------------------------------------------


def test_margin_radius() -> None:
    logits = torch.tensor([[3.0, 1, 2], [3, 1, 2], [0, 0, -1], [-5, -2, -9]])
    radii = spectral.margin_radius(logits, torch.tensor([0, 2, 0, 1]), 2.0)
    assert radii.tolist() == pytest.approx([1 / (2 * math.sqrt(2)), 0, 0, 3 / (2 * math.sqrt(2))])


def test_margin_radius_is_below_the_distance_to_the_boundary() -> None:
    """A linear classifier's is known: the difference of two logits over the norm of the difference of their rows."""
    rows, x = random_kernel(5, 8), random_kernel(20, 8, seed=1)
    logits = x @ rows.T
    labels = logits.argmax(1)
    radii = spectral.margin_radius(logits, labels, np.linalg.norm(rows.numpy(), 2))
    assert (radii > 0).all()
    for n, label in enumerate(labels.tolist()):
        for other in set(range(5)) - {label}:
            assert radii[n] <= (logits[n, label] - logits[n, other]) / (rows[label] - rows[other]).norm()
    # Two opposite rows attain it.
    pair = torch.tensor([[1.0, 2], [-1, -2]])
    radius = spectral.margin_radius(torch.tensor([[1.0, 0]]) @ pair.T, torch.tensor([0]), math.sqrt(10))
    assert radius.item() == pytest.approx(1 / math.sqrt(5))


def test_margin_radius_by_pairs_is_the_distance_to_the_boundary_of_a_linear_classifier() -> None:
    rows, x = random_kernel(5, 8), random_kernel(20, 8, seed=1)
    logits = x @ rows.T
    labels = logits.argmax(1)
    radii = spectral.margin_radius(logits, labels, (rows[:, None] - rows).norm(dim=2))
    for n, label in enumerate(labels.tolist()):
        distances = [
            (logits[n, label] - logits[n, other]) / (rows[label] - rows[other]).norm()
            for other in set(range(5)) - {label}
        ]
        assert radii[n].item() == pytest.approx(min(distances).item(), rel=1e-12)
    assert (radii > spectral.margin_radius(logits, labels, np.linalg.norm(rows.numpy(), 2))).all()
    assert (spectral.margin_radius(logits, (labels + 1) % 5, (rows[:, None] - rows).norm(dim=2)) == 0).all()
    # Two logits that differ by a constant never change places.
    same = torch.zeros(2, 2, dtype=torch.float64)
    assert spectral.margin_radius(torch.tensor([[1.0, 0]]), torch.tensor([0]), same).tolist() == [math.inf]


# --- Interface ---------------------------------------------------------------------------------------------------------


def test_mistakes_are_told() -> None:
    weight = random_kernel(4, 3, 3, 5)
    for function in EVERY.values():
        with pytest.raises(ValueError, match=r"shape \(4, 3, 3\)"):
            function(weight[..., 0])
        with pytest.raises(ValueError, match="4 output channels do not divide into 3 groups"):
            function(weight, groups=3)
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match="NaN or infinity"):
                function(torch.full((2, 2, 3, 3), value))
    with pytest.raises(ValueError, match="4 points do not bound a 3x5 kernel: at least 5 do"):
        spectral.grid_bound(weight, 4)
    for size in (0, (3, 0), (-1, 3)):
        with pytest.raises(ValueError, match="both numbers must be at least 1"):
            spectral.exact_norm(weight, size)
    with pytest.raises(ValueError, match=r"a 3x5 kernel is larger than 4x4 images with padding \(0, 0\)"):
        spectral.zero_padded_norm(weight, 4, padding=0)
    for lipschitz in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected more than 0"):
            spectral.margin_radius(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), lipschitz)
