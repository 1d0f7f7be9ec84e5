"""What a model is: its entry in the table of models, and the decorators that put it there.

A model is a function under one of the two decorators, in a file of this folder or in one of the user's own. It builds a
network through the hooks of a method; its options are its keyword-only arguments:

    @register_classifier(least_size=32)
    def my_net(method: Method, channels: int, classes: int, *, width: int = 64) -> nn.Module: ...

    @register_gan(least_size=8, divisor=4)
    def my_gan(method: Method, channels: int, size: int, latent: int, *, width: int = 64): ...

A file of this folder needs no entry elsewhere: `model: my_net` names it. `model: my_models/net.py:my_net` names a model
of the user's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from normbench.system.errors import UserError, hint
from normbench.system.plugins import Table, registers

Kind = Literal["classifier", "gan"]
Networks = nn.Module | tuple[nn.Module, nn.Module]
Function = TypeVar("Function", bound=Callable[..., Networks])

# What a function of each kind takes before its options, in this order.
TAKES: dict[Kind, tuple[str, ...]] = {
    "classifier": ("method", "channels", "classes"),
    "gan": ("method", "channels", "size", "latent"),
}
OPTION_TYPES = (bool, int, float, str)


@dataclass(frozen=True)
class Model:
    """A model of the table.

    name: that of its function, and in params.yaml. kind: `classifier` or `gan`. function: builds the network without
    initialising it: see `normbench.models.build`. least_size: the least pixels a side of the square images that it
    takes. divisor: what their number must be divisible by.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    least_size: int = 1
    divisor: int = 1

    def options(self) -> dict[str, Any]:
        """The options and their defaults: the keyword-only arguments of the function, in its order."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def option_problem(self, name: str, value: object) -> str | None:
        """What is wrong with a value for an option, or None.

        A value has the type of the default, whole numbers are at least 1 and others at least 0.
        """
        defaults = self.options()
        if name not in defaults:
            return f"unknown option of {self.name}; {hint(name, defaults)}"
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is int:
            return None if type(value) is int and value > 0 else "must be a positive int"
        if wanted is float:
            fits = type(value) is float and 0 <= value < float("inf")
            return None if fits else "must be a number of at least 0"
        return None if type(value) is wanted else f"must be a {wanted.__name__}"

    def size_problem(self, size: int) -> str | None:
        """What is wrong with square images of `size` pixels a side for this model, or None."""
        if size >= self.least_size and size % self.divisor == 0:
            return None
        needed = f"at least {self.least_size} pixels a side"
        needed += f", divisible by {self.divisor}" if self.divisor > 1 else ""
        return f"does not fit images of {size} x {size}; it needs {needed}"

    @property
    def source(self) -> tuple[Path, str]:
        """The file of the function and the function's name in it: the code behind the model."""
        return Path(inspect.getfile(self.function)), self.function.__name__


MODELS: Table[Model] = Table("normbench.models", "model")


@registers
def register_classifier(*, least_size: int = 1, divisor: int = 1) -> Callable[[Function], Function]:
    """Registers `function(method, channels, classes, *, options) -> network` under its name.

    The network maps images (N, channels, H, W) to logits (N, classes). least_size, divisor: of the images, see `Model`.
    """
    return _registers("classifier", least_size, divisor)


@registers
def register_gan(*, least_size: int = 1, divisor: int = 1) -> Callable[[Function], Function]:
    """Registers `function(method, channels, size, latent, *, options) -> (generator, discriminator)` under its name.

    The generator maps noise (N, latent) to images (N, channels, size, size) in -1..1, the discriminator such images to
    scores (N,). Only the discriminator is built through the hooks of the method. least_size, divisor: see `Model`.
    """
    return _registers("gan", least_size, divisor)


def _registers(kind: Kind, least_size: int, divisor: int) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        model = Model(function.__name__, kind, function, least_size, divisor)
        _check(model)
        MODELS.add(model.name, function.__module__, model)
        return function

    return register


def _check(model: Model) -> None:
    """Raises TypeError where a function does not take what a model of its kind is given."""
    parameters = inspect.signature(model.function).parameters.values()
    taken = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    if taken != TAKES[model.kind]:
        wanted = ", ".join(TAKES[model.kind])
        raise TypeError(f"{model.name} takes ({', '.join(taken)}); a {model.kind} takes ({wanted}, *, options)")
    for option, default in model.options().items():
        if type(default) not in OPTION_TYPES:
            raise TypeError(f"option {option} of {model.name} needs a default that is a bool, int, float or str")


def names(kind: Kind | None = None) -> list[str]:
    """The names of the models in this folder, of one kind or of both."""
    return [name for name in MODELS.names() if kind is None or MODELS.entries[name].kind == kind]


def get(reference: str, kind: Kind | None = None) -> Model:
    """The model of a name, or of a reference `path/to/file.py:function` or `package.module:function`.

    Raises UserError where there is none, or where it is not of that kind.
    """
    if ":" not in reference and reference not in names(kind):
        raise UserError(f"unknown model; {hint(reference, names(kind))}")
    model = MODELS.get(reference)
    if kind is not None and model.kind != kind:
        raise UserError(f"{reference} is registered as a {model.kind}; what is needed here is a {kind}")
    return model


def source_file(reference: str) -> Path:
    """The file that a model is in. Raises UserError where there is none."""
    return get(reference).source[0]
