"""Checks of how a network is built with a method, and of its forward and backward passes."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from normbench.checks.kit.case import COUNT, Case, Fail, Warn, evaluate, gradients, kinds_of_layers
from normbench.checks.method import problems
from normbench.checks.network import listed
from normbench.methods.base import ConvSpec, Role
from normbench.system import blame
from normbench.system.errors import UserError

CONSTANT, MAPS = 0.5, 1000.0  # for all pixels of images, and of the maps that a layer is given
TINY, HUGE = 1e-8, 1e4  # factors on noise of variance 1
# Convolutions of the registered architectures, apart from those of the three networks.
GEOMETRIES = {
    "depth-wise convolutions": ConvSpec(8, 8, 3, Role("depthwise"), padding=1, groups=8),
    "strided depth-wise convolutions": ConvSpec(8, 8, 3, Role("depthwise"), stride=2, padding=1, groups=8),
    "grouped convolutions": ConvSpec(16, 8, 3, Role("grouped"), padding=1, groups=4),
    "dilated convolutions": ConvSpec(8, 8, 3, Role("body"), padding=2, dilation=2),
    "1x1 convolutions to more channels": ConvSpec(8, 48, 1, Role("body")),
    "1x1 convolutions to fewer channels": ConvSpec(48, 8, 1, Role("projection", last_in_block=True, expansion=6)),
}


def building(case: Case) -> str:
    """The class is in order, and two networks from one seed are equal; the optimizer holds every parameter."""
    lines = problems(type(case.method))
    if lines:
        raise Fail("; ".join(lines))
    examination = case.examination()
    network = examination.built()
    examination.built_again(network)
    examination.optimizer(network)
    return "two networks from one seed are equal, and every parameter is in the optimizer"


def sharing(case: Case) -> str:
    """Layers and networks have parameters and buffers of their own."""
    examination = case.examination(["sharing"])
    examination.built_again(examination.built())
    return "no two layers or networks have a parameter or buffer in common"


def shapes(case: Case) -> str:
    """Each layer returns a tensor of the right shape, in training and evaluation, and the loss has a gradient."""
    with case.watched("shape") as network:
        loss = case.loss(network, case.images())
        if not loss.requires_grad:
            raise Fail("the loss has no gradient, so that nothing would be learned")
        loss.backward()
        evaluate(network, case.images())
    return "forward and backward passes, and evaluation, keep the shapes that the network expects"


def backward(case: Case) -> str:
    """Each layer passes a gradient on to its input, and has one itself."""
    with case.watched("gradient") as network:
        case.loss(network, case.images()).backward()
    return "each layer passes a gradient to its input"


def parameters(case: Case) -> str:
    """Every parameter receives a gradient, within three steps, as some are zero at first by design."""
    network = case.network()
    optimizer = case.optimizer(network)
    reached, moved = set[str](), set[str]()
    for number in range(3):
        case.step(network, optimizer, case.images(seed=number))
        found = gradients(network)
        reached |= set(found)
        moved |= {name for name, gradient in found.items() if gradient.any()}
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    unused = [name for name in names if name not in reached]
    if unused:
        raise Fail(f"no gradient reaches {listed(unused)}", "use it in forward, or do not make it a parameter")
    still = [name for name in names if name not in moved]
    if still:
        raise Warn(f"the gradient of {listed(still)} is exactly 0 in three steps", "see whether it has any effect")
    return f"each of {len(names)} receives a gradient"


def in_place(case: Case) -> str:
    """No layer changes its input in place, which others may use too."""
    with case.watched("in place") as network:
        case.loss(network, case.images()).backward()
        evaluate(network, case.images())
    return "no layer changes its input in place"


def finite(case: Case) -> str:
    """Outputs and gradients are finite for ordinary, constant, tiny and huge images, and for one image."""
    x = case.images()
    batches = {
        "ordinary images": x,
        f"constant images, {CONSTANT:g}": torch.full_like(x, CONSTANT),
        "images of zeros": torch.zeros_like(x),
        f"tiny images, {TINY:g}": TINY * x,
        f"huge images, {HUGE:g}": HUGE * x,
        "the first image four times": x[:1].expand(COUNT, -1, -1, -1).clone(),
    }
    for what, batch in batches.items():
        advice = "add a small number to what is divided by, inside of the root"
        try:
            with case.watched("finite") as network:
                problem = _not_finite(case, network, batch)
        except UserError as error:
            raise Fail(f"{what}: {error}".removesuffix(f" ({case.model})"), advice) from error
        if problem:
            raise Fail(f"{what}: {problem}", advice)
    for layer, given in kinds_of_layers(case):
        # Another one in each channel, and with all digits, as some squares of round numbers are exact.
        constants = MAPS * (1 + torch.rand(given.shape[1], generator=torch.Generator().manual_seed(0)))
        constants = constants.view(-1, *[1] * (given.dim() - 2))
        for what, maps in {
            f"constant maps, around {MAPS:g}": torch.zeros_like(given) + constants,
            f"almost constant maps, around {MAPS:g}": 1e-3 * given + constants,
            f"tiny maps, {TINY:g}": TINY * given,
            f"huge maps, {HUGE:g}": HUGE * given,
        }.items():
            leaf = maps.requires_grad_()
            output = layer.module(leaf)
            if output.requires_grad:
                output.square().mean().backward()
            if not (output.isfinite().all() and (leaf.grad is None or leaf.grad.isfinite().all())):
                of_what = f"{type(layer.module).__name__}, a {layer.hook},"
                raise Fail(f"{what}: {of_what} makes values or gradients that are not finite", advice)
    return "outputs and gradients are finite for ordinary, constant, tiny and huge images and maps"


def _not_finite(case: Case, network: nn.Module, x: torch.Tensor) -> str | None:
    """What is not finite in a training step on images and in evaluation after it, or None."""
    x = x.clone().requires_grad_()
    network.zero_grad()
    loss = case.loss(network.train(), x)
    if not loss.isfinite():
        return f"the loss is {loss.item()}"
    loss.backward()
    for name, gradient in {**gradients(network), "the images": x.grad}.items():
        if gradient is not None and not gradient.isfinite().all():
            return f"the gradient of {name} is not finite"
    if not evaluate(network, x.detach()).isfinite().all():
        return "the outputs in evaluation are not finite"
    return None


def one_image(case: Case) -> str:
    """A last batch of one image trains, and one image can be evaluated."""
    network, x = case.trained(), case.images(1)
    try:
        output = evaluate(network, x)
    except Exception as error:  # The layers may be anybody's.
        raise Fail(
            f"evaluation of one image: {_said(case, error)}", "in evaluation, take no batch statistics"
        ) from error
    if not output.isfinite().all():
        raise Fail("evaluation of one image makes values that are not finite", "take no batch statistics in evaluation")
    advice = "by nature, if it takes statistics over the batch: set `drop_last: true` in recipes"
    try:
        problem = _not_finite(case, network, x)
    except Exception as error:
        raise Warn(f"a last batch of one image cannot be trained: {_said(case, error)}", advice) from error
    if problem:
        raise Warn(f"a last batch of one image: {problem}", advice)
    return "a last batch of one image trains, and one image is evaluated"


def one_pixel(case: Case) -> str:
    """Maps of one pixel, as in the last stage for small images, train: in batches, and for one image."""
    side = case.side if case.model == "vgg11" else {"resnet8": 4, "preact_resnet18": 8}[case.model]
    for count in (COUNT, 1):
        what = f"{count} image{'s' * (count > 1)} with maps of one pixel"
        advice = "by nature, if it takes statistics over such maps: use it where maps are larger"
        network = case.network()
        try:
            problem = _not_finite(case, network, case.images(count, side))
        except Exception as error:  # The layers may be anybody's.
            raise Warn(f"{what}: {_said(case, error)}", advice) from error
        if problem:
            raise Warn(f"{what}: {problem}", advice)
    return "maps of one pixel train, in batches and for one image"


def sizes(case: Case) -> str:
    """After training, other numbers and sizes of images can be evaluated and trained, without new parameters."""
    network = case.trained()
    before = set(network.state_dict())
    larger = case.side + 8 if case.model != "vgg11" else 64
    for count, side in ((2 * COUNT, case.side), (COUNT + 2, larger)):
        what = f"{count} images of {side} x {side} after {COUNT} of {case.side} x {case.side}"
        try:
            evaluate(network, case.images(count, side))
            problem = _not_finite(case, network, case.images(count, side))
            network.zero_grad()
            problem = problem or _not_finite(case, network, case.images())
        except Exception as error:  # The layers may be anybody's.
            raise Fail(f"{what}: {_said(case, error)}", "keep no size of a batch in the layer") from error
        if problem:
            raise Fail(f"{what}: {problem}", "keep no size of a batch in the layer")
    new = sorted(before ^ set(network.state_dict()))
    if new:
        raise Fail(f"another size of images changes what is stored: {listed(new)}", "make all of it in __init__")
    return f"other numbers of images and other sizes, {larger} x {larger}, work after training"


def geometries(case: Case) -> str:
    """The convolutions of all architectures: depth-wise, grouped, dilated, 1x1; each followed by its norm."""
    for what, spec in GEOMETRIES.items():
        scale = case.width // 8
        spec = dataclasses.replace(
            spec,
            in_channels=spec.in_channels * scale,
            out_channels=spec.out_channels * scale,
            groups=spec.groups * scale if spec.groups > 1 else 1,
        )
        x = torch.randn(COUNT, spec.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        size = 8 // spec.stride
        expected = (COUNT, spec.out_channels, size, size)
        try:
            y = case.method.conv(spec)(x)
            z = case.method.norm(spec.out_channels, role=spec.role)(y)
        except Exception as error:  # The layers may be anybody's.
            raise Warn(f"{what}: {_said(case, error)}", "architectures with such layers cannot be trained") from error
        for made in (y, z):
            if tuple(made.shape) != expected:
                raise Fail(f"{what}: shape {tuple(made.shape)}; expected {expected}", "use all of ConvSpec")
    return "depth-wise, grouped, dilated and 1x1 convolutions give the right shapes"


def _said(case: Case, error: Exception) -> str:
    """An exception in one line, with the place in somebody's own code."""
    where = case.place(error)
    return f"{where}: {blame.one_line(error)}" if where else blame.one_line(error)
