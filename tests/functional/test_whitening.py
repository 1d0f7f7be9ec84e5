"""What whitening consists of: the moments of patches, and the iteration for the inverse root of a covariance."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from normbench.functional import inverse_sqrt as ways
from normbench.functional import launches, symmetric
from normbench.functional.inverse_sqrt import inverse_sqrt
from normbench.functional.symmetric import symmetric_product
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear
from tests.oracles import layers as oracles
from tests.support.deconv_cases import CASES, Pair, correlated

FORMATS = ["one block", "overlapping by one", "7x7, stride 2", "dilated", "taps on padding alone", "rectangular in all"]
FORMATS += [
    "rectangular in all, grouped",
    "depthwise",
    "261 features",
    *[name for name in CASES if "wide images" in name],
]


@pytest.mark.parametrize("name", FORMATS)
def test_both_memory_formats_give_the_same(name: str) -> None:
    """Whatever the format of the images and of the weight; gradients have the format of what they belong to."""
    case, generator, found = CASES[name], torch.Generator().manual_seed(0), []
    torch.manual_seed(1)
    layer = case.layer()
    x = correlated(generator, case.count, case.inputs, *case.size)
    for of_layer in (torch.contiguous_format, torch.channels_last):
        for of_images in (torch.contiguous_format, torch.channels_last):
            one = copy.deepcopy(layer).to(memory_format=of_layer)
            image = x.contiguous(memory_format=of_images).detach().requires_grad_()
            y = one(image)
            (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
            found.append((y, image.grad, one.weight.grad, one.running_mean, one.running_deconv))
            if of_layer == of_images:
                assert y.is_contiguous(memory_format=of_layer)
                assert image.grad.is_contiguous(memory_format=of_layer)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert oracles.relative_error(a, b) <= 1e-12


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("terms", [40, symmetric.SHORT_SUM])
@pytest.mark.parametrize("features", [1, 127, 255, 256, 257, 300, 513, 600])
def test_a_product_in_blocks_is_the_product(features: int, terms: int, groups: int) -> None:
    rows = torch.randn(groups, features, terms, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = symmetric_product(rows, rows)
    assert oracles.relative_error(found, rows @ rows.mT) <= 1e-13
    if (
        features >= 2 * symmetric.SMALL_BLOCK and terms >= symmetric.SHORT_SUM
    ):  # only one of its halves is multiplied out
        half = features // 2
        assert torch.equal(found[:, :half, half:], found[:, half:, :half].mT)


def test_whitening_of_many_features_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["261 features"]
    split = case.layer()
    whole = copy.deepcopy(split)
    x = correlated(torch.Generator().manual_seed(0), 20, case.inputs, *case.size)
    blocks: list[int] = []

    def counted(a: Tensor, b: Tensor) -> Tensor:
        blocks.append(a.shape[1])
        return original(a, b)

    original = symmetric.symmetric_product
    monkeypatch.setattr(symmetric, "symmetric_product", counted)
    monkeypatch.setattr(symmetric, "SHORT_SUM", 1)
    split(x)
    assert blocks.count(130) == blocks.count(131) > 0
    blocks.clear()
    monkeypatch.setattr(symmetric, "SMALL_BLOCK", 10**6)
    whole(x)
    assert blocks == []
    assert oracles.relative_error(split.running_deconv, whole.running_deconv) <= 1e-11


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [(3, (4, 2, 7, 7)), (3, (4, 2, 7, 18)), (1, (4, 2, 5, 5)), ((1, 20), (1, 2, 1, 20)), ((2, 17), (1, 1, 2, 17))],
)
def test_images_are_left_as_they_are(kernel: int | Pair, shape: tuple[int, ...]) -> None:
    """Centring is done in place, on a copy of the patches; also where the patches lie as the images do."""
    x = correlated(torch.Generator().manual_seed(0), *shape)
    for image in (x, x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        before = image.clone()
        DeconvConv2d(shape[1], 3, kernel, sampling_stride=1).double()(image)
        assert torch.equal(image, before)


# --- the iteration that inverts a root -----------------------------------------------------------------------------------


@pytest.fixture(params=["products", "eigenvalues"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute a root and all around it: on a CPU as a GPU does, and as a CPU does."""
    monkeypatch.setattr(launches, "count", lambda _: request.param == "products")
    monkeypatch.setattr(ways, "MOST_BY_PRODUCTS", 0)
    return request.param


IN_BOTH_WAYS = ["interleaved in two", "interleaved in four", "1x1", "1x1 strided", "grouped", "depthwise", "no bias"]
IN_BOTH_WAYS += ["15 iterations", "1 iteration", "overlapping by one", "rectangular in all", "column kernel"]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", IN_BOTH_WAYS)
def test_a_layer_equals_explicit_whitening_in_both_ways(name: str, last: bool, way: str) -> None:
    """Output and all gradients, as a GPU computes them and as a CPU does, in both memory formats."""
    generator, case = torch.Generator().manual_seed(0), CASES[name]
    form = torch.channels_last if last else torch.contiguous_format
    torch.manual_seed(1)
    layer = case.layer().to(memory_format=form)
    x = correlated(generator, case.count, case.inputs, *case.size).contiguous(memory_format=form).requires_grad_()
    y, (expected, _) = layer(x), case.oracle(x, layer)
    assert oracles.relative_error(y, expected) <= 1e-11
    gy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    inputs = (x, *layer.parameters())
    got, want = (torch.autograd.grad((result * gy).sum(), inputs) for result in (y, expected))
    for a, b in zip(got, want, strict=True):
        assert oracles.relative_error(a, b) <= 1e-10
        assert a.is_contiguous(memory_format=form) or a.dim() == 1


@pytest.mark.parametrize("iterations", [5, 10, 15])
def test_float32_roots_in_both_ways(iterations: int, way: str) -> None:
    """Against float64, for a spectrum as wide as that of images: more iterations amplify rounding errors."""
    factor = torch.randn(2, 27, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = factor * torch.logspace(0, -1.5, 27, dtype=torch.float64)[:, None]
    matrix = factor @ factor.mT / 100
    found = inverse_sqrt(matrix.float(), iterations).double()
    for one, exact in zip(found, matrix, strict=True):
        expected = torch.from_numpy(oracles.newton_schulz_spectral(exact.numpy(), iterations))
        assert oracles.relative_error(one, expected) <= {5: 1e-5, 10: 1e-4, 15: 1e-3}[iterations]


@pytest.mark.parametrize(
    "name", ["one block", "1x1", "depthwise", "grouped", "1x1 grouped", "no bias", "7x7, stride 2"]
)
@pytest.mark.parametrize("last", [True, False])
def test_gradients_have_the_strides_of_their_parameters(name: str, last: bool) -> None:
    """Also of dimensions of one element, where strides mean nothing but fused optimizers compare them."""
    case = CASES[name]
    form = torch.channels_last if last else torch.contiguous_format
    layer = case.layer().to(memory_format=form)
    x = correlated(torch.Generator().manual_seed(0), case.count, case.inputs, *case.size)
    layer(x.contiguous(memory_format=form).requires_grad_()).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("iterations", "variances"),
    [
        (5, {1.0: 1.00, 0.3: 1.00, 0.1: 0.995, 0.03: 0.811, 0.01: 0.434, 0.003: 0.158, 0.001: 0.056, 1e-4: 0.006}),
        (10, {0.01: 1.00, 0.003: 1.000, 0.001: 0.952, 1e-4: 0.280}),
        (15, {0.001: 1.00, 1e-4: 1.00, 1e-5: 0.84}),
    ],
)
def test_newton_schulz_is_not_converged_in_the_published_way(
    iterations: int, variances: dict[float, float], way: str
) -> None:
    """Variance left by the whitening of a direction that holds a share of the Frobenius norm."""
    for share, variance in variances.items():
        matrix = 7.0 * torch.diag(torch.tensor([share, math.sqrt(1 - share**2)], dtype=torch.float64))
        white = inverse_sqrt(matrix, iterations)
        assert abs(7 * share * white[0, 0].item() ** 2 - variance) <= 10 ** -len(str(variance).split(".")[1]), share


def test_newton_schulz_gain_is_capped(way: str) -> None:
    for iterations in (1, 3, 5):
        matrix = torch.diag(torch.tensor([1.0, 1e-14], dtype=torch.float64))
        assert inverse_sqrt(matrix, iterations)[1, 1].item() == pytest.approx(1.5**iterations, rel=1e-10)


@pytest.mark.parametrize("iterations", [1, 2, 5, 30])
def test_newton_schulz_of_a_batch_of_matrices(iterations: int, way: str) -> None:
    """Each matrix over its own Frobenius norm, as a function of its eigenvalues; converged it is the inverse root."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 5, 9, generator=generator, dtype=torch.float64)
    matrices = factors @ factors.mT * torch.tensor([1.0, 1e-3, 1e4], dtype=torch.float64)[:, None, None]
    found = inverse_sqrt(matrices, iterations)
    for matrix, white in zip(matrices, found, strict=True):
        expected = torch.from_numpy(oracles.newton_schulz_spectral(matrix.numpy(), iterations))
        assert oracles.relative_error(white, expected) <= 1e-9
        if iterations == 30:
            assert (white @ matrix @ white - torch.eye(5, dtype=torch.float64)).abs().max() <= 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_newton_schulz_of_what_is_not_finite(value: float, way: str) -> None:
    """NaN, also where only the norm of a matrix is not finite; the other matrices of a batch are not spoilt."""
    matrices = torch.eye(4).repeat(3, 1, 1)
    matrices[1, 0, 0] = value
    found = inverse_sqrt(matrices.requires_grad_(), 5)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
    (gradient,) = torch.autograd.grad(found.sum(), matrices)
    assert gradient[1].isnan().all()
    assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("scale", [1e15, 1e25])
def test_a_covariance_that_overflows_gives_nan(scale: float, way: str) -> None:
    """And not the output of a matrix of zeros, with which a diverging run would go on."""
    x = scale * torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for layer in (DeconvConv2d(4, 3, 3, padding=1), DeconvConv2d(4, 4, 3, groups=4), DeconvConv2d(4, 3, 1)):
        assert layer(x).isnan().all()
    assert DeconvLinear(36, 3, block=4)(x.view(32, 36)).isnan().all()


def test_newton_schulz_gradient_by_finite_differences(way: str) -> None:
    factor = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda f: inverse_sqrt(f @ f.mT + torch.eye(3, dtype=torch.float64), 5), factor.requires_grad_()
    )
