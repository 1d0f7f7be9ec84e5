"""Watches the hooks of a method while a model builds a network, and then each call of the layers that they made."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from normbench.checks.method import HOOKS, described
from normbench.methods.base import ACTIVATIONS, START, ConvSpec, Method, Moment, Role
from normbench.methods.plain import PlainMethod
from normbench.system import blame
from normbench.system.errors import UserError, hint, nearest

PLACES = ("stem", "body", "downsample", "depthwise", "grouped", "projection", "gate", "head", "classifier", "addition")
# A module whose parameters have no shape yet.
Uninitialized = UninitializedParameter | UninitializedBuffer
LAZY = "has no shape before the first batch (a lazy module); the optimizer needs it before"
GROUP_KEYS = ("params", "lr", "weight_decay")
# What is checked of layers: their plain attributes, that each has parameters of its own, and five things of each call.
ASPECTS = frozenset({"attributes", "sharing", "shape", "type", "in place", "finite", "gradient"})


@dataclass
class Layer:
    """A layer that a hook made.

    hook: its name. call: the hook's arguments, as text. size: the shape of its output for an input. place: its code.
    own: whether that is somebody's own.
    """

    module: nn.Module
    hook: str
    call: str
    size: Callable[[Tensor], tuple[int, ...]]
    place: str
    own: bool


@dataclass
class Subject:
    """What is examined: a method in a network, with the ways of the training code to build it and to compute a loss.

    name: in messages, e.g. `variant rms, task digits`. build: the network in training mode, from a fixed seed.
    images: a batch of a size for a network, float32 (N, C, H, W). loss: of a training step with the method's penalty,
    0-d, for a network, its method and images. optimizer: over the method's parameter groups. output: the shape for N
    images. auxiliary: whether the network may return two of these, as one of segmentation does in training for the head
    that helps it. context: that of a forward pass. last: the size of a last batch. own_model: whether the model is the
    user's own. files: the source files of method and model. method_place, model_place: their definitions. place: that
    of the two which a mistake that cannot be placed better is in.
    """

    name: str
    method: Method
    build: Callable[[Method], nn.Module]
    images: Callable[[nn.Module, int], Tensor]
    loss: Callable[[nn.Module, Method, Tensor], Tensor]
    optimizer: Callable[[nn.Module, Method], torch.optim.Optimizer]
    output: Callable[[int], tuple[int, ...]]
    context: Callable[[], contextlib.AbstractContextManager]
    last: int
    own_model: bool
    files: tuple[str, ...]
    method_place: str
    model_place: str
    place: str
    auxiliary: bool = False


@dataclass
class Watch:
    """Notes the layers that a method makes and checks each of their calls; `method` is given to the model.

    aspects: what is checked, some of `ASPECTS`. active: the layers that are being called, the innermost last.
    """

    subject: Subject
    aspects: frozenset[str] = ASPECTS
    layers: list[Layer] = field(default_factory=list)
    active: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.definition = functools.cache(blame.definition)  # It reads the source of what many layers have in common.
        # A copy whose hooks are attributes of its own: inside of the hooks, `self` is the method itself.
        self.method = copy.copy(self.subject.method)
        for hook in HOOKS:
            object.__setattr__(self.method, hook, getattr(self, hook))

    @property
    def real(self) -> Method:
        return self.subject.method

    def place(self, hook: str) -> str:
        """Where a hook is defined, or the method if normbench defines it, as it does for plain classes."""
        if isinstance(self.real, PlainMethod):
            return self.subject.method_place
        found = inspect.getattr_static(type(self.real), hook)
        where = None if found is inspect.getattr_static(Method, hook) else self.definition(found)
        return where or self.subject.method_place

    def located(self, error: BaseException) -> str:
        """Where an exception was raised: in somebody's own code, or in the layer that was being called."""
        if not self.active:
            return blame.place(error, self.subject.files) or self.subject.place
        layer = self.active[-1]
        return blame.place(error, self.subject.files, inside=layer.module) or self.place_of(layer, error)

    def place_of(self, layer: Layer, error: BaseException | None = None) -> str:
        """Where a layer is defined; or where it is called, if somebody's own model has called a layer of normbench."""
        if layer.own or not self.subject.own_model:
            return layer.place
        return (blame.caller() if error is None else blame.place(error)) or self.subject.place

    def fail(self, place: str | None, message: str) -> UserError:
        return UserError(f"{place or self.subject.place}: {message} ({self.subject.name})")

    # --- the hooks ---

    def conv(self, spec: ConvSpec) -> nn.Module:
        if not isinstance(spec, ConvSpec):
            raise self.fail(self.model_line(), f"conv was given {described(spec)}; expected a ConvSpec")
        self.role(spec.role)
        padded = 2 * spec.padding - spec.dilation * (spec.kernel_size - 1) - 1

        def size(x: Tensor) -> tuple[int, ...]:
            return (len(x), spec.out_channels, *((side + padded) // spec.stride + 1 for side in x.shape[2:]))

        return self.made("conv", f"{spec.in_channels} -> {spec.out_channels} channels", size, self.real.conv(spec))

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        self.role(role)
        return self.made("norm", f"{channels} channels", lambda x: tuple(x.shape), self.real.norm(channels, role=role))

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        self.role(role)
        made = self.real.activation(channels, role=role)
        return self.made("activation", f"{channels} channels", lambda x: tuple(x.shape), made)

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        self.role(role)

        def size(x: Tensor) -> tuple[int, ...]:
            return (*x.shape[:-1], out_features)

        call = f"{in_features} -> {out_features} features"
        return self.made("linear", call, size, self.real.linear(in_features, out_features, role=role))

    def initialize(self, model: nn.Module) -> None:
        if any(isinstance(each, Uninitialized) for each in (*model.parameters(), *model.buffers())):
            raise self.fail(self.subject.model_place, f"the network {LAZY}")
        before = dict(model.named_modules())
        returned = self.real.initialize(model)  # type: ignore[func-returns-value]  # it may be wrong
        where = self.place("initialize")
        if isinstance(returned, nn.Module) and returned is not model:
            raise self.fail(where, "initialize returned another network, which is ignored; expected changes in place")
        kept = {id(module) for module in model.modules()}
        lost = next((name for name, module in before.items() if id(module) not in kept), None)
        if lost is not None:
            raise self.fail(where, f"initialize replaced the layer {lost}; make it in conv, norm or linear")

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        value = self.real.penalty(model, moment)
        where = self.place("penalty")
        expected = "expected a 0-d tensor with a gradient, or None"
        if value is None or (isinstance(value, int | float) and value == 0):
            return None
        if not isinstance(value, Tensor):
            raise self.fail(where, f"penalty returned {described(value)}, which has no gradient; {expected}")
        if value.shape != ():
            raise self.fail(where, f"penalty returned {described(value)}; {expected}")
        if not value.isfinite():
            raise self.fail(where, f"penalty returned {value.item()}; expected a finite number")
        if torch.is_grad_enabled() and not value.requires_grad and value != 0:
            raise self.fail(
                where, f"penalty returned {value.item():.4g} without a gradient, so it changes nothing; {expected}"
            )
        return value

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        groups = self.real.param_groups(model, lr, weight_decay)
        where = self.place("param_groups")
        expected = "expected a list of dicts with `params` and, if they differ, `lr` and `weight_decay`"
        if not isinstance(groups, list) or not all(isinstance(group, dict) and "params" in group for group in groups):
            raise self.fail(where, f"param_groups returned {described(groups)}; {expected}")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        seen: set[int] = set()
        for group in groups:
            for key, value in group.items():
                if key not in GROUP_KEYS:
                    close = nearest(key, GROUP_KEYS)
                    near = f"did you mean '{close}'?" if close else expected
                    raise self.fail(where, f"param_groups returned a group with the key {key!r}; {near}")
                if key != "params" and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                    message = f"param_groups returned {key} = {described(value)}; expected a number of at least 0"
                    raise self.fail(where, message)
            if not isinstance(group["params"], list | tuple):
                continue  # a generator; the optimizer shows what it holds
            for parameter in group["params"]:
                if id(parameter) not in names:
                    message = f"param_groups returned {described(parameter)} that is no parameter of the network"
                    raise self.fail(where, message)
                if id(parameter) in seen:
                    raise self.fail(where, f"param_groups returned {names[id(parameter)]} twice; expected it once")
                seen.add(id(parameter))
        return groups

    # --- what they made ---

    def role(self, role: object) -> None:
        if not isinstance(role, Role):
            raise self.fail(self.model_line(), f"role is {described(role)}; expected a Role")
        for name, known in (("place", PLACES), ("activation", ACTIVATIONS)):
            value = getattr(role, name)
            if value not in known:
                raise self.fail(self.model_line(), f"Role.{name} is {value!r}; {hint(value, known)}")

    def model_line(self) -> str | None:
        return blame.caller(self.subject.files) or self.subject.model_place

    def made(self, hook: str, call: str, size: Callable[[Tensor], tuple[int, ...]], module: object) -> nn.Module:
        """Checks and notes what a hook has returned."""
        where = self.place(hook)
        if not isinstance(module, nn.Module):
            advice = "; is a `return` missing?" if module is None else ""
            advice = f"; make an instance, {module.__name__}(...)" if isinstance(module, type) else advice
            raise self.fail(
                where, f"{hook} returned {described(module)} for {call}; expected a torch.nn.Module{advice}"
            )
        if any(isinstance(each, Uninitialized) for each in (*module.parameters(), *module.buffers())):
            raise self.fail(where, f"{hook} returned a {type(module).__name__}, which {LAZY}")
        state = {id(each) for each in (*module.parameters(), *module.buffers())}
        for other in self.layers if "sharing" in self.aspects else ():
            if state & {id(each) for each in (*other.module.parameters(), *other.module.buffers())}:
                again = "the same layer" if other.module is module else "a layer with the same parameters"
                message = f"{hook} returned {again} ({type(module).__name__}) for two places, which would share it"
                raise self.fail(where, f"{message}; make a new one in each call")
        defined = self.definition(inspect.getattr_static(type(self.real), hook)) or where
        own = any(blame.is_own(place.rpartition(":")[0]) for place in (defined, self.module_place(module) or ""))
        self.layers.append(Layer(module, hook, call, size, self.module_place(module) or where, own))
        return module

    def own_class(self, module: nn.Module) -> type | None:
        """The class of a module that is somebody's own or of an examined file, if it has such a class."""
        return next((kind for kind in type(module).__mro__ if _source(kind) and self.is_examined(_source(kind))), None)

    def is_examined(self, file: str) -> bool:
        return file in self.subject.files or blame.is_own(file)

    def module_place(self, module: nn.Module) -> str | None:
        """Where the forward pass of a module, or of the first part of it that is examined, is defined."""
        for part in module.modules():
            kind = self.own_class(part)
            if kind is not None:
                return self.definition(vars(kind).get("forward") or kind)
        return None

    @contextlib.contextmanager
    def calls(self, network: nn.Module) -> Iterator[None]:
        """Checks each call of the network and of each layer while the context is open."""
        handles = [network.register_forward_hook(lambda _, inputs, output: self.check_output(inputs[0], output))]
        given: list[tuple[Any, Tensor | None]] = []

        def before(layer: Layer, inputs: tuple[Any, ...]) -> None:
            self.active.append(layer)
            x = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            given.append((x, None if x is None else x.detach().clone()))

        def after(layer: Layer, output: Any) -> None:
            x, kept = given.pop()
            if x is not None and kept is not None:
                self.check_call(layer, x, kept, output)
            self.active.pop()

        for layer in self.layers:
            handles += [
                layer.module.register_forward_pre_hook(lambda _, inputs, layer=layer: before(layer, inputs)),
                layer.module.register_forward_hook(lambda _, __, output, layer=layer: after(layer, output)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.active.clear()

    def check_output(self, x: Tensor, output: Any) -> None:
        """Checks what the whole network has made of images."""
        where, expected = self.subject.model_place, self.subject.output(len(x))
        if self.subject.auxiliary and isinstance(output, tuple) and len(output) == 2:
            for each in output:
                self.check_output(x, each)
            return
        if not isinstance(output, Tensor) or tuple(output.shape) != expected:
            message = f"the network made {described(output)} of images {tuple(x.shape)}; expected shape {expected}"
            raise self.fail(where, message)
        if not output.is_floating_point():
            raise self.fail(where, f"the network made {_dtype(output)}; expected floating-point numbers")

    def check_call(self, layer: Layer, x: Tensor, kept: Tensor, output: Any) -> None:
        """Checks what a layer has made of its input. kept: the values of the input before the call."""
        what = f"{type(layer.module).__name__}, the {layer.hook} of {layer.call},"
        where, aspects = self.place_of(layer), self.aspects
        expected = layer.size(x) if x.dim() > 1 else tuple(x.shape)
        if not isinstance(output, Tensor):
            raise self.fail(where, f"{what} returned {described(output)}; expected a tensor of shape {expected}")
        if "shape" in aspects and tuple(output.shape) != expected:
            raise self.fail(
                where,
                f"{what} made shape {tuple(output.shape)} of {tuple(x.shape)}; expected {expected}",
            )
        allowed = {x.dtype, torch.float32, torch.bfloat16} if torch.is_autocast_enabled("cpu") else {x.dtype}
        if "type" in aspects and output.dtype not in allowed:
            raise self.fail(where, f"{what} made {_dtype(output)} of {_dtype(x)}; expected the same type")
        if "in place" in aspects and not torch.equal(x.detach(), kept) and bool(kept.isfinite().all()):
            raise self.fail(where, f"{what} changes its input in place; expected a new tensor")
        if "finite" in aspects and kept.isfinite().all() and not output.isfinite().all():
            raise self.fail(where, f"{what} made values that are not finite of ordinary input")
        if torch.is_grad_enabled() and aspects & {"gradient", "finite"}:
            self.check_gradient(layer, what, x, output)

    def check_gradient(self, layer: Layer, what: str, x: Tensor, output: Tensor) -> None:
        """Checks the gradient that a layer passes to its input. what: names the layer."""
        where = self.place_of(layer)
        learns = x.requires_grad or any(p.requires_grad for p in layer.module.parameters())
        if "gradient" in self.aspects and learns and not output.requires_grad:
            raise self.fail(where, f"{what} returned a tensor without a gradient, so that it cannot learn")
        if not (x.requires_grad and output.requires_grad):
            return
        (gradient,) = torch.autograd.grad(output.sum(), x, retain_graph=True, allow_unused=True)
        if gradient is None and "gradient" in self.aspects:
            raise self.fail(layer.place, f"{what} passes no gradient to its input, so that nothing before it learns")
        if gradient is not None and "finite" in self.aspects and not gradient.isfinite().all():
            raise self.fail(where, f"{what} passes a gradient to its input that is not finite")


for _hook in HOOKS:
    getattr(Watch, _hook).__qualname__ = _hook  # the name in Python's messages about missing arguments


@functools.cache
def _source(kind: type) -> str:
    """The source file of a class; an empty text if it has none."""
    try:
        return inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return ""


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
