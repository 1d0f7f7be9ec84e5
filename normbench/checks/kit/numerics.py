"""Checks of numbers: types, memory formats, precision, devices, and gradients against finite differences."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from normbench.checks.kit.case import Case, Fail, Warn, difference, gradients, kinds_of_layers
from normbench.checks.network import listed
from normbench.functional import placement
from normbench.training.optimization import autocast

SAME_FORMAT = 1e-2  # relative difference of outputs and gradients between the two memory formats
NEAR = 0.1  # relative difference of outputs between bfloat16 and float32
# Steps of the finite differences, relative to the size of what is changed: a right gradient agrees with one of them.
# The larger is for layers that compute in float32 inside, the smaller for those with kinks, such as ReLU.
STEPS = 1e-3, 1e-6
OFF = 2e-2  # relative error of a gradient
DIRECTIONS = 3


def float64(case: Case) -> str:
    """A float64 network computes in float64: each layer returns the type of its input."""
    with case.watched("type", double=True) as network:
        network(case.images().double()).sum().backward()
        network.eval()(case.images().double())
    return "layers of float64 return float64"


def bfloat16(case: Case) -> str:
    """Under autocast to bfloat16, layers train, stay finite, and are close to float32."""
    outputs, x = [], case.images(2 * len(case.images()))
    for precision in ("float32", "bfloat16"):
        network = case.network()
        with autocast(precision, "cpu"):
            output = network(x)
        output.float().square().mean().backward()
        bad = [name for name, gradient in gradients(network).items() if not gradient.isfinite().all()]
        if bad or not output.isfinite().all():
            what = f"the gradient of {listed(bad)} is" if bad else "the outputs are"
            raise Fail(f"in {precision}, {what} not finite", "compute statistics in float32: x.float()")
        outputs.append(output.detach())
    found = difference(*outputs)
    if not found < NEAR:
        seen = f"the outputs differ from float32 by {found:.2g}, above {NEAR:g}"
        raise Warn(seen, "compute statistics in float32: x.float(); matrices and deep networks lose more by nature")
    return f"finite, and {found:.2g} from float32"


def channels_last(case: Case) -> str:
    """Outputs and gradients are the same in channels_last as in contiguous memory.

    A method that draws random numbers in training is compared in evaluation mode, as it may draw them as the memory
    lies.
    """
    results, training = [], not case.draws
    for name in placement.FORMATS:
        network = placement.placed(case.network(), "cpu", name)
        x = case.images(2 * len(case.images())).contiguous(memory_format=placement.FORMATS[name]).requires_grad_()
        output = network.train(training)(x)
        output.square().mean().backward()
        found = torch.cat([gradient.flatten() for gradient in gradients(network).values()])
        given = torch.zeros_like(x) if x.grad is None else x.grad
        results.append({"outputs": output.detach(), "gradients of images": given, "gradients of parameters": found})
    for part, value in results[0].items():
        off = difference(value, results[1][part])
        if not off < SAME_FORMAT:
            seen = f"{part} differ by {off:.2g} between channels_last and contiguous"
            raise Fail(seen, "use reshape, not view, and rely on no strides")
    return "outputs and gradients are those of contiguous memory"


def device(case: Case) -> str:
    """No forward pass makes tensors on the CPU for an input elsewhere; tried on torch's device `meta`."""
    examination = case.examination()
    problem = examination.device_problem(case.network())
    if problem:
        raise Warn(f"cannot be tried without a GPU: {problem}", "run it once on a GPU")
    return "no tensor is made on the CPU for an input elsewhere"


def finite_differences(case: Case) -> str:
    """Gradients of layers are those of finite differences in float64, with respect to inputs and parameters."""
    layers = kinds_of_layers(case, double=True)
    compared = 0
    doubtful = ""
    for layer, x in layers:
        for training in (True, False):
            where = f"{type(layer.module).__name__}, a {layer.hook}, in {'training' if training else 'evaluation'}"
            for what, found in _errors(layer.module.train(training), x).items():
                compared += 1
                if found < OFF:
                    continue
                seen = f"{where}: the gradient of {what} is off by {found:.2g} from finite differences in float64"
                if what == "its input" or layer.hook in ("norm", "activation"):
                    advice = "let the gradient pass through all of it: no detach, no_grad or .data on the way"
                    raise Fail(seen, f"{advice}; or correct the backward pass of an autograd.Function")
                doubtful = doubtful or seen
    if doubtful:
        advice = "by nature, if a norm of the weight is a constant for the gradient, or a step of an iteration"
        raise Warn(doubtful, advice)
    return f"{compared} gradients of {len(layers)} kinds of layers are those of finite differences"


def _errors(module: nn.Module, x: Tensor) -> dict[str, float]:
    """The relative error of the gradient with respect to the input and to the parameters of a layer."""

    def value(x: Tensor, part: nn.Module) -> Tensor:
        torch.manual_seed(0)  # for layers that draw random numbers, which they may do otherwise without gradients
        output = part(x)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        return (output * weights).sum()

    def moved(direction: Tensor | list[Tensor], size: float) -> float:
        part = copy.deepcopy(module)
        if isinstance(direction, Tensor):
            return value((x + size * direction).requires_grad_(), part).item()
        with torch.no_grad():
            for parameter, change in zip(learned(part), direction, strict=True):
                parameter.add_(size * change)
        return value(x.clone().requires_grad_(), part).item()

    def learned(part: nn.Module) -> list[nn.Parameter]:
        return [parameter for parameter in part.parameters() if parameter.requires_grad]

    def error(directions: list, products: list[float]) -> float:
        errors = []
        for size in STEPS:
            differences = [(moved(each, size) - moved(each, -size)) / (2 * size) for each in directions]
            largest = max(map(abs, [*differences, *products]))
            off = max(abs(one - other) for one, other in zip(differences, products, strict=True))
            errors.append(off / (largest + 1e-30))
        return min(errors)

    generator = torch.Generator().manual_seed(2)
    # Zeros, as behind another activation, would be where a ReLU has no derivative.
    x = x + 0.1 * x.square().mean().sqrt() * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    module = copy.deepcopy(module)
    with torch.no_grad():  # and a parameter may begin at the end of its range, such as 1
        for parameter in learned(module):
            parameter.mul_(1 - 0.1 * torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype))
    part = copy.deepcopy(module)
    leaf = x.clone().requires_grad_()
    parameters = learned(part)
    found = torch.autograd.grad(value(leaf, part), [leaf, *parameters], allow_unused=True)
    given = [torch.zeros_like(at) if one is None else one for one, at in zip(found, [leaf, *parameters], strict=True)]

    def drawn(like: Tensor) -> Tensor:
        size = like.detach().square().mean().sqrt() + 1e-3
        return size * torch.randn(like.shape, generator=generator, dtype=like.dtype)

    along = [drawn(x) for _ in range(DIRECTIONS)]
    errors = {"its input": error(along, [(given[0] * each).sum().item() for each in along])}
    if parameters:
        ways = [[drawn(each) for each in parameters] for _ in range(DIRECTIONS)]
        products = [sum((g * d).sum().item() for g, d in zip(given[1:], way, strict=True)) for way in ways]
        errors["its parameters"] = error(ways, products)
    return errors
