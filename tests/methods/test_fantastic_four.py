"""Fantastic Four against singular value decompositions of the four matrices, written out entry by entry."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from normbench.methods.base import Role
from normbench.methods.fantastic_four import FantasticFour
from normbench.models import registry
from normbench.spectral.fantastic_four import reshapings
from tests.oracles import layers as oracles
from tests.support.dispatch import same_strides

KERNELS = [(4, 3, 3, 3), (2, 5, 3, 3), (6, 2, 1, 1), (3, 4, 2, 5), (3, 1, 5, 2), (1, 1, 3, 3)]


def network(*kernels: tuple[int, int, int, int], seed: int = 0) -> nn.Sequential:
    """Convolutions with the kernels given, one after another, in float64; they are never run."""
    torch.manual_seed(seed)
    return nn.Sequential(*[nn.Conv2d(i, o, (h, w), bias=False) for o, i, h, w in kernels]).double()


def tracked(model: nn.Module, iterations: int = 0, **options: object) -> FantasticFour:
    """The method, initialised on the model and followed for a number of steps; coefficient 1."""
    method = FantasticFour(coefficient=1.0, **options)
    method.initialize(model)
    with torch.no_grad():
        for _ in range(iterations):
            method.penalty(model)
    return method


def kernel_of(layer: nn.Module) -> np.ndarray:
    return layer.weight.detach().double().numpy()


def expected_gradient(kernel: np.ndarray) -> np.ndarray:
    """sqrt(hw) v u^T of the arg-min matrix, each entry put back where it came from."""
    matrices = oracles.four_matrices(kernel)
    # The same arrangement of the entries' numbers tells where each of them went.
    places = oracles.four_matrices(np.arange(1.0, kernel.size + 1).reshape(kernel.shape))
    best = int(np.argmin([np.linalg.norm(matrix, 2) for matrix in matrices]))
    left, _, right = np.linalg.svd(matrices[best])
    outer = np.outer(left[:, 0], right[0])
    gradient = np.zeros(kernel.size)
    gradient[places[best].astype(int).ravel() - 1] = outer.ravel()
    return math.sqrt(kernel.shape[2] * kernel.shape[3]) * gradient.reshape(kernel.shape)


@pytest.mark.parametrize("shape", KERNELS)
def test_reshapings(shape: tuple[int, int, int, int]) -> None:
    kernels = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = reshapings(kernels)
    for index in range(2):
        for matrices, expected in zip(found, oracles.four_matrices(kernels[index].numpy()), strict=True):
            assert np.array_equal(matrices[index].numpy(), expected)


@pytest.mark.parametrize("shape", KERNELS)
def test_followed_bound_converges_to_the_decomposition(shape: tuple[int, int, int, int]) -> None:
    """The value, and a gradient that is the outer product of the arg-min matrix and of no other."""
    model = network(shape)
    method = tracked(model, iterations=150)
    penalty = method.penalty(model)
    assert penalty.item() == pytest.approx(oracles.four_bound(kernel_of(model[0])), rel=1e-9)
    penalty.backward()
    expected = torch.from_numpy(expected_gradient(kernel_of(model[0])))
    assert oracles.relative_error(model[0].weight.grad, expected) <= 1e-5


@pytest.mark.parametrize(
    ("which", "shape"), [(0, (3, 3, 3, 2)), (1, (3, 3, 2, 3)), (2, (9, 1, 3, 3)), (3, (1, 9, 3, 3))]
)
def test_each_of_the_four_matrices_can_be_the_least(which: int, shape: tuple[int, int, int, int]) -> None:
    """Kernels that make R, S, T or U the smallest, so that none of them is there for show."""
    for seed in range(50):
        model = network(shape, seed=seed)
        norms = [np.linalg.norm(matrix, 2) for matrix in oracles.four_matrices(kernel_of(model[0]))]
        if int(np.argmin(norms)) == which and sorted(norms)[1] > 1.02 * min(norms):
            break
    else:
        pytest.fail("no such kernel among the seeds")
    penalty = tracked(model, iterations=150).penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(math.sqrt(shape[2] * shape[3]) * min(norms), rel=1e-7)
    expected = torch.from_numpy(expected_gradient(kernel_of(model[0])))
    assert oracles.relative_error(model[0].weight.grad, expected) <= 1e-3


@pytest.mark.parametrize("shape", KERNELS)
def test_converged_bound_is_above_the_norm_of_the_convolution(shape: tuple[int, int, int, int]) -> None:
    model = network(shape)
    bound = tracked(model, iterations=150).penalty(model).item()
    for size in (5, 6, 8):
        assert bound >= oracles.circular_norm(kernel_of(model[0]), size) * (1 - 1e-9)
    basis = torch.eye(shape[1] * 36, dtype=torch.float64).view(-1, shape[1], 6, 6)
    for stride, padding in ((1, 0), (1, 2), (2, 1)):
        with torch.no_grad():
            matrix = nn.functional.conv2d(basis, model[0].weight, stride=stride, padding=padding).flatten(1)
        assert bound >= torch.linalg.matrix_norm(matrix, 2).item() * (1 - 1e-9)


def test_start_is_fifty_iterations_in() -> None:
    """A bound that has not converged is too small; 50 iterations bring random kernels within a few per cent."""
    model = network((8, 8, 3, 3), (16, 4, 3, 3))
    start = tracked(model).penalty(model).item()
    exact = sum(oracles.four_bound(kernel_of(layer)) for layer in model[:2])
    assert 0.97 * exact <= start <= exact * (1 + 1e-9)


def vectors_of(model: nn.Sequential, member: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The left and the right vectors of the four matrices of a layer, from the buffers of the method."""
    taps = model[member].weight.shape[2:]
    alike = [k for k, layer in enumerate(model) if isinstance(layer, nn.Conv2d) and layer.weight.shape[2:] == taps]
    place = model.fantastic_four.layers.index([str(k) for k in alike])
    buffers, before = model.fantastic_four.vectors[place], alike[: alike.index(member)]
    (o, i), (h, w) = model[member].weight.shape[:2], taps
    sides = []
    for side, (buffer, length) in enumerate(((buffers.outputs, o), (buffers.inputs, i))):
        first = sum(model[k].weight.shape[side] for k in before)
        columns = [h, w, 1, h * w] if side == 0 else [w, h, h * w, 1]
        parts = np.split(buffer[first : first + length].clone().numpy(), np.cumsum(columns)[:-1], axis=1)
        sides.append([part.ravel() for part in parts])
    outputs, inputs = sides
    return [*outputs[:3], inputs[3]], [*inputs[:3], outputs[3]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_iteration_a_step_and_the_gradient_of_fixed_vectors(memory_format: torch.memory_format) -> None:
    """Kernels with the same taps together against a loop over kernels and matrices, while the weights move."""
    shapes = [(4, 3, 3, 3), (2, 3, 3, 3), (4, 3, 3, 3), (6, 2, 1, 1), (3, 5, 3, 3), (2, 4, 3, 2), (1, 3, 1, 1)]
    model = network(*shapes).to(memory_format=memory_format)
    method = tracked(model)
    for step in range(4):
        with torch.no_grad():
            for layer in model[: len(shapes)]:
                layer.weight.add_(
                    torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(step)), alpha=0.3
                )
        before = [vectors_of(model, member) for member in range(len(shapes))]
        model.zero_grad()
        penalty = method.penalty(model)
        penalty.backward()
        total = 0.0
        for member in range(len(shapes)):
            kernel = kernel_of(model[member])
            values, gradients = [], []
            places = oracles.four_matrices(np.arange(1.0, kernel.size + 1).reshape(kernel.shape))
            found_lefts, found_rights = vectors_of(model, member)
            for m, matrix in enumerate(oracles.four_matrices(kernel)):
                left = matrix @ before[member][1][m]
                left /= np.linalg.norm(left)
                right = matrix.T @ left
                right /= np.linalg.norm(right)
                values.append(left @ matrix @ right)
                gradient = np.zeros(kernel.size)
                gradient[places[m].astype(int).ravel() - 1] = np.outer(left, right).ravel()
                gradients.append(gradient.reshape(kernel.shape))
                assert np.allclose(found_lefts[m], left, rtol=1e-9, atol=1e-12)
                assert np.allclose(found_rights[m], right, rtol=1e-9, atol=1e-12)
            root = math.sqrt(kernel.shape[2] * kernel.shape[3])
            total += root * min(values)
            expected = torch.from_numpy(root * gradients[int(np.argmin(values))])
            assert oracles.relative_error(model[member].weight.grad, expected) <= 1e-9
            assert model[member].weight.grad.is_contiguous(memory_format=memory_format)
        assert penalty.item() == pytest.approx(total, rel=1e-10)
    assert {name for name in model.state_dict() if "fantastic_four" in name} == {
        f"fantastic_four.vectors.{size}.{side}" for size in range(3) for side in ("outputs", "inputs")
    }


def test_a_product_that_is_zero_keeps_its_vector() -> None:
    """The right vectors of U may be orthogonal to a kernel; once the kernel moves they are followed again."""
    model = network((4, 3, 3, 3))
    method = tracked(model, iterations=150)
    kernel = model[0].weight.detach().clone()
    expected = oracles.four_bound(kernel.numpy())
    with torch.no_grad():
        model[0].weight[:, :, 0] = 0
        vectors = model.fantastic_four.vectors[0]
        start = vectors.outputs[:, 7:].clone()
        vectors.outputs[:, 10:] = 0  # U's right vector is on the first row of taps alone, where the kernel is zero
        before = vectors.outputs.clone(), vectors.inputs.clone()
        penalty = method.penalty(model)
        assert penalty.item() == 0
        assert torch.equal(vectors.outputs[:, 7:], before[0][:, 7:])
        assert torch.equal(vectors.inputs[:, -1], before[1][:, -1])
        vectors.outputs[:, 7:] = start
        model[0].weight.copy_(kernel)
        for _ in range(150):
            method.penalty(model)
    assert method.penalty(model).item() == pytest.approx(expected, rel=1e-7)


def test_the_penalty_does_not_follow_autocast() -> None:
    """Neither its value, nor its vectors, nor its gradient may be rounded to bfloat16."""
    model = network((4, 3, 3, 3), (6, 2, 1, 1)).float()
    method = tracked(model)
    other = copy.deepcopy(model)
    expected = method.penalty(other)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = method.penalty(model)
        found.backward()
    assert torch.equal(found, expected)
    for a, b in zip([*model.buffers(), *model.parameters()], [*other.buffers(), *other.parameters()], strict=True):
        assert torch.equal(a, b)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_gradient_by_finite_differences() -> None:
    """Once converged, the gradient is that of the bound itself."""
    model = network((3, 2, 3, 3))
    method = tracked(model, iterations=150)
    method.penalty(model).backward()
    kernel, step = kernel_of(model[0]), 1e-6
    for index in [(0, 0, 0, 0), (1, 1, 2, 0), (2, 0, 1, 1), (0, 1, 0, 2)]:
        moved = [kernel.copy(), kernel.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        slope = (oracles.four_bound(moved[0]) - oracles.four_bound(moved[1])) / (2 * step)
        assert model[0].weight.grad[index].item() == pytest.approx(slope, abs=1e-5)


def test_log_form_and_coefficient() -> None:
    model = network((4, 3, 3, 3), (2, 5, 3, 3))
    tracked(model, iterations=150)
    bounds = [oracles.four_bound(kernel_of(layer)) for layer in model[:2]]
    total = FantasticFour(coefficient=0.25).penalty(model)
    assert total.item() == pytest.approx(0.25 * sum(bounds), rel=1e-9)
    total.backward()
    plain = [layer.weight.grad.clone() for layer in model[:2]]
    model.zero_grad()
    logarithm = FantasticFour(coefficient=0.25, form="log").penalty(model)
    assert logarithm.item() == pytest.approx(0.25 * sum(map(math.log, bounds)), rel=1e-9)
    logarithm.backward()
    for layer, gradient, bound in zip(model[:2], plain, bounds, strict=True):
        assert oracles.relative_error(layer.weight.grad, gradient / bound) <= 1e-6


def test_layers_option() -> None:
    """`conv` leaves linear layers and batch norms alone; `all` takes a weight matrix by its spectral norm."""

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3)
        ).double()

    conv, every = model(), model()
    bound = oracles.four_bound(kernel_of(conv[0]))
    norms = [np.linalg.norm(kernel_of(conv[k]), 2) for k in (3, 4)]
    penalty = tracked(conv, iterations=150).penalty(conv)
    penalty.backward()
    assert penalty.item() == pytest.approx(bound, rel=1e-9)
    assert [name for name, parameter in conv.named_parameters() if parameter.grad is not None] == ["0.weight"]
    penalty = tracked(every, iterations=300, layers="all").penalty(every)
    penalty.backward()
    assert penalty.item() == pytest.approx(bound + sum(norms), rel=1e-9)
    assert {name for name, parameter in every.named_parameters() if parameter.grad is not None} == {
        "0.weight",
        "3.weight",
        "4.weight",
    }
    assert every[3].weight.grad.shape == (5, 16)


def test_vectors_are_saved_with_the_network() -> None:
    """After a round trip the next penalty is the same bit for bit, where a new start would differ."""
    model, fresh = network((4, 3, 3, 3), (4, 3, 3, 3), (2, 5, 3, 3)), network(*KERNELS[:1] * 2, KERNELS[1], seed=1)
    method = tracked(model, iterations=2)
    tracked(fresh)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for name, buffer in model.named_buffers():
        assert torch.equal(fresh.get_buffer(name), buffer), name
    copied = copy.deepcopy(model)
    for _ in range(3):
        expected = method.penalty(model)
        assert torch.equal(method.penalty(fresh), expected)
        assert torch.equal(method.penalty(copied), expected)


def test_vectors_are_constants_without_a_graph() -> None:
    model = network((4, 3, 3, 3))
    method = tracked(model)
    parameters = set(dict(model.named_parameters()))
    first = method.penalty(model)
    second = method.penalty(model)  # moves the vectors before the first backward pass
    (first + second).backward()
    assert parameters == {"0.weight"}
    assert all(not buffer.requires_grad for buffer in model.buffers())


def test_every_convolution_of_a_network_is_counted() -> None:
    torch.manual_seed(0)
    method = FantasticFour(coefficient=1.0)
    model = registry.classifier("resnet8", {"width": 4}, method, 1, 10)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 9
    exact = sum(oracles.four_bound(kernel_of(layer)) for layer in convolutions)
    assert 0.95 * exact <= method.penalty(model).item() <= exact * (1 + 1e-5)
    assert type(method.norm(4, role=Role("body"))) is nn.BatchNorm2d


def test_penalty_lowers_the_bound() -> None:
    model = network((4, 3, 3, 3))
    method = tracked(model)
    before = oracles.four_bound(kernel_of(model[0]))
    for _ in range(30):
        (gradient,) = torch.autograd.grad(method.penalty(model), (model[0].weight,))
        with torch.no_grad():
            model[0].weight.sub_(gradient, alpha=0.01)
    assert oracles.four_bound(kernel_of(model[0])) < 0.9 * before


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", [*FORMATS, None])
def test_a_grouped_convolution_is_bounded_by_its_largest_group(memory_format: torch.memory_format | None) -> None:
    """In both formats, and with one weight in each of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 9, 3, groups=3, bias=False), nn.Conv2d(9, 9, 3, groups=9, bias=False)).double()
    model[0].to(memory_format=memory_format or torch.channels_last)
    model[1].to(memory_format=memory_format or torch.contiguous_format)
    penalty = tracked(model, iterations=150).penalty(model)
    exact = 0.0
    for layer, groups in ((model[0], 3), (model[1], 9)):
        exact += max(oracles.four_bound(part) for part in np.split(kernel_of(layer), groups))
    assert penalty.item() == pytest.approx(exact, rel=1e-7)
    penalty.backward()
    assert (model[0].weight.grad.flatten(1).norm(dim=1) > 0).sum() == 3  # only the largest group has a gradient
    largest = {id(layer): np.split(kernel_of(layer), groups) for layer, groups in ((model[0], 3), (model[1], 9))}
    for layer in model[:2]:
        parts = largest[id(layer)]
        best = int(np.argmax([oracles.four_bound(part) for part in parts]))
        found = layer.weight.grad.chunk(len(parts))[best]
        assert oracles.relative_error(found, torch.from_numpy(expected_gradient(parts[best]))) <= 1e-4
        assert same_strides(layer.weight.grad, layer.weight)


def test_phases_of_a_dilated_convolution_are_not_taken() -> None:
    """The bound ignores its stride, and holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 2, dilation=2, bias=False)).double()
    found = [tracked(model, iterations=150, polyphase=each).penalty(model).item() for each in (True, False)]
    assert found[0] == found[1]
    basis = torch.eye(3 * 64, dtype=torch.float64).view(-1, 3, 8, 8)
    assert torch.linalg.matrix_norm(model[0](basis).detach().flatten(1), 2).item() <= found[0]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (4, 2), (3, 3), (1, 2)])
def test_a_strided_convolution_is_bounded_by_its_phases(kernel: int, stride: int) -> None:
    """Tighter than without, and still above the norm of the strided convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, kernel, stride=stride, bias=False)).double()
    whole = tracked(model, iterations=150).penalty(model).item()
    penalty = tracked(model, iterations=150, polyphase=True).penalty(model)
    basis = torch.eye(3 * 144, dtype=torch.float64).view(-1, 3, 12, 12)
    with torch.no_grad():
        matrix = nn.functional.conv2d(basis, model[0].weight, stride=stride, padding=kernel // 2).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() * (1 - 1e-9) <= penalty.item() <= whole * (1 + 1e-9)
    penalty.backward()
    step, gradient = 1e-6, model[0].weight.grad[1, 2, 0, 0].item()
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved[0].weight[1, 2, 0, 0] += sign * step
        values.append(tracked(moved, iterations=300, polyphase=True).penalty(moved).item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient, abs=1e-4)


def test_kernels_scaled_by_the_batch_norm_behind_them() -> None:
    """Pairs are found through the forward pass; the gain has a gradient, and the kernel's own scale has no effect."""
    torch.manual_seed(0)
    method = FantasticFour(coefficient=1.0, batch_norm=True)
    model = registry.classifier("resnet8", {"width": 4}, method, 1, 10).double()
    assert model.fantastic_four.batch_norms["conv"] == "norm"
    assert model.fantastic_four.batch_norms["stages.1.0.shortcut.0"] == "stages.1.0.shortcut.1"
    assert len(model.fantastic_four.batch_norms) == 9
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(-2, 2)
                layer.running_var.uniform_(0.5, 2)
        for _ in range(200):
            method.penalty(model)
    penalty, exact = method.penalty(model), 0.0
    for name, norm in model.fantastic_four.batch_norms.items():
        gain = model.get_submodule(norm).weight / (model.get_submodule(norm).running_var + 1e-5).sqrt()
        scaled = model.get_submodule(name).weight * gain[:, None, None, None]
        exact += oracles.four_bound(scaled.detach().numpy())
    assert penalty.item() == pytest.approx(exact, rel=1e-3)
    penalty.backward()
    assert model.norm.weight.grad.abs().sum() > 0
    assert model.norm.bias.grad is None


def test_a_zero_kernel_keeps_its_vectors_and_gives_no_nan() -> None:
    model = network((4, 3, 3, 3))
    method = tracked(model)
    kernel = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.zero_()
    penalty = method.penalty(model)
    penalty.backward()
    assert penalty.item() == 0
    assert torch.isfinite(model[0].weight.grad).all()
    with torch.no_grad():
        model[0].weight.copy_(kernel)
        for _ in range(150):
            method.penalty(model)
    assert method.penalty(model).item() == pytest.approx(oracles.four_bound(kernel.numpy()), rel=1e-7)
