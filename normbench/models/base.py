"""The definition of a model: its entry in the table of models, and the decorators that register it.

A model is a function with one of the three decorators, in a file of this folder or in a file of the user's own. It
builds a network through the hooks of a method. Its options are its other arguments, which have defaults:

    @register_classifier(least_size=32)
    def my_net(method: Method, channels: int, classes: int, *, width: int = 64) -> nn.Module: ...

    @register_segmenter(least_size=32)
    def my_segmenter(method: Method, channels: int, classes: int, *, width: int = 64) -> nn.Module: ...

    @register_gan(least_size=8, divisor=4)
    def my_gan(method: Method, channels: int, size: int, latent: int, *, width: int = 64): ...

In params.yaml, `model: my_net` refers to a model of this folder, which needs no entry elsewhere, and
`model: my_models/net.py:my_net` to a model of the user's own. There the decorator may be left out, and a
`torch.nn.Module` class with these arguments is a model too: a classifier, or a GAN by the names of its arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from torch import nn

from normbench.system.blame import definition
from normbench.system.errors import UserError, hint
from normbench.system.plugins import Table, imported, is_place, registers
from normbench.system.schema import LARGEST, MOST

Kind = Literal["classifier", "segmenter", "gan"]
Networks = nn.Module | tuple[nn.Module, nn.Module]
Function = TypeVar("Function", bound=Callable[..., Networks])

# The arguments of a model function of each kind, in this order, before its options.
TAKES: dict[Kind, tuple[str, ...]] = {
    "classifier": ("method", "channels", "classes"),
    "segmenter": ("method", "channels", "classes"),
    "gan": ("method", "channels", "size", "latent"),
}
# What the function of a GAN may take besides, by keyword, with None as the default: the number of classes, whose labels
# then are the second argument of both networks, and a method whose hooks build the generator.
MAY_TAKE: dict[Kind, tuple[str, ...]] = {
    "classifier": (),
    "segmenter": (),
    "gan": ("classes", "generator_method"),
}
OPTION_TYPES = (bool, int, float, str)


@dataclass(frozen=True)
class Model:
    """A registered model.

    name: the name of its function, and of the model in params.yaml. kind: `classifier`, `segmenter` or `gan`.
    function: builds the network, before the method initialises it (see `normbench.models.build`). least_size: the
    smallest side of images that it accepts, in pixels. divisor: a number by which each side must be divisible.
    """

    name: str
    kind: Kind
    function: Callable[..., Any]
    least_size: int = 1
    divisor: int = 1

    def options(self) -> dict[str, Any]:
        """The options and their defaults: the arguments of the function after those of its kind, in order."""
        parameters = inspect.signature(self.function).parameters.values()
        others = (*TAKES[self.kind], *MAY_TAKE[self.kind])
        return {p.name: p.default for p in parameters if p.name not in others}

    def takes(self, name: str) -> bool:
        """Whether the function has an argument that functions of its kind may have (see `MAY_TAKE`)."""
        return name in MAY_TAKE[self.kind] and name in inspect.signature(self.function).parameters

    def typed(self, options: dict[str, Any]) -> dict[str, Any]:
        """Valid options in the types of their defaults: a whole number for a float becomes one."""
        defaults = self.options()
        return {
            name: float(value) if type(defaults.get(name)) is float and type(value) is int else value
            for name, value in options.items()
        }

    def choices(self, name: str) -> tuple[str, ...]:
        """The values of an option that is annotated with a Literal of texts; none for another option."""
        try:
            kind = inspect.signature(self.function, eval_str=True).parameters[name].annotation
        except Exception:  # An annotation may be anybody's, and need not mean anything outside of type checkers.
            return ()
        found = get_args(kind) if get_origin(kind) is Literal else ()
        return tuple(value for value in found if isinstance(value, str))

    def option_problem(self, name: str, value: object) -> str | None:
        """A message about an invalid option or value, or None if it is valid.

        A value must have the type of the default, or be one of those that a Literal lists. An int must be at least 1,
        and a float at least 0 and finite.
        """
        defaults = self.options()
        if name not in defaults:
            return f"unknown option of {self.name}; {hint(name, defaults)}"
        listed = self.choices(name)
        if listed:
            return None if value in listed else f"unknown; {hint(value, listed)}"
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted is int:
            if type(value) is int and value > MOST:
                return f"must be at most {MOST}"
            return None if type(value) is int and value > 0 else "must be a positive int"
        if wanted is float:
            fits = type(value) is float and 0 <= value <= LARGEST
            return None if fits else "must be a number of at least 0"
        return None if type(value) is wanted else f"must be a {wanted.__name__}"

    def size_problem(self, height: int, width: int) -> str | None:
        """A message if the model does not accept images of a size in pixels, or None if it does.

        A GAN accepts square images only, because its function is given one side.
        """
        fits = all(side >= self.least_size and side % self.divisor == 0 for side in (height, width))
        square = self.kind != "gan" or height == width
        if fits and square:
            return None
        needed = "" if square else "square images, "
        needed += f"at least {self.least_size} pixels a side"
        needed += f", divisible by {self.divisor}" if self.divisor > 1 else ""
        return f"does not fit images of {height} x {width}; it needs {needed}"

    @property
    def source(self) -> tuple[Path, str]:
        """The file that defines the model's function, and the function's name."""
        return Path(inspect.getfile(self.function)), self.function.__name__


MODELS: Table[Model] = Table("normbench.models", "model")


@registers
def register_classifier(*, least_size: int = 1, divisor: int = 1) -> Callable[[Function], Function]:
    """Decorator that registers `function(method, channels, classes, *, options) -> network` under its name.

    The network maps images (N, channels, H, W) to logits (N, classes). least_size, divisor: see `Model`.
    """
    return _registers("classifier", least_size, divisor)


@registers
def register_segmenter(*, least_size: int = 1, divisor: int = 1) -> Callable[[Function], Function]:
    """Decorator that registers `function(method, channels, classes, *, options) -> network` under its name.

    The network maps images (N, channels, H, W) to logits of their pixels (N, classes, H, W). In training mode it may
    return two of these, its own and those of an auxiliary head. least_size, divisor: see `Model`.
    """
    return _registers("segmenter", least_size, divisor)


@registers
def register_gan(*, least_size: int = 1, divisor: int = 1) -> Callable[[Function], Function]:
    """Decorator for `function(method, channels, size, latent, *, options) -> (generator, discriminator)`.

    It registers the function under its name. The generator maps noise (N, latent) to images (N, channels, size, size)
    in -1..1, the discriminator images in -1..1 to scores (N,). Only the discriminator is built through the hooks of the
    method, unless the function takes `generator_method`, which is a method or None. If it takes `classes`, a number or
    None, both networks have labels, int64 (N,), as their second argument where that is a number. least_size, divisor:
    see `Model`.
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
    """Raises TypeError if a model's function has the wrong arguments for its kind or an unusable option.

    An option must have a default that is a bool, int, float or str.
    """
    parameters = inspect.signature(model.function).parameters.values()
    taken = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is p.empty)
    if taken != TAKES[model.kind]:
        wanted = ", ".join(TAKES[model.kind])
        raise TypeError(f"{model.name} takes ({', '.join(taken)}); a {model.kind} takes ({wanted}, *, options)")
    for option, default in model.options().items():
        if type(default) not in OPTION_TYPES:
            raise TypeError(f"option {option} of {model.name} needs a default that is a bool, int, float or str")


def names(kind: Kind | None = None) -> list[str]:
    """The names of the models in this folder, of one kind, or of all if `kind` is None."""
    return [name for name in MODELS.names() if kind is None or MODELS.entries[name].kind == kind]


def get(reference: str, kind: Kind | None = None) -> Model:
    """The model with a name, or with a reference `path/to/file.py:function` or `package.module:function`.

    Raises UserError if there is none, or if it is not of the given kind.
    """
    if not is_place(reference) and reference not in names(kind):
        raise UserError(f"unknown model; {hint(reference, names(kind))}")
    model = _plain(reference) or MODELS.get(reference)
    if kind is not None and model.kind != kind:
        raise UserError(f"{reference} is registered as a {model.kind}; what is needed here is a {kind}")
    return model


def _plain(reference: str) -> Model | None:
    """The model of a function or class of the user's own without a decorator; None for any other reference.

    It is a classifier or a GAN by the names of its arguments. Raises UserError if they are those of neither.
    """
    place, _, name = reference.partition(":")
    found = getattr(imported(place), name, None) if is_place(reference) and name else None
    if not callable(found) or MODELS.has(name, found.__module__):
        return None
    given = inspect.signature(found).parameters
    kind: Kind = "gan" if {*TAKES["gan"]} <= {*given} else "classifier"
    model = Model(name, kind, found)
    try:
        _check(model)
    except TypeError as error:
        raise UserError(f"{definition(found) or place}: {error}") from None
    return model


def own(file: Path) -> list[str]:
    """References to the models in a file of the user's own, with a decorator or without.

    Raises UserError if it cannot be imported.
    """
    module = imported(str(file))
    found = {name for name, where in MODELS.everything() if where == module.__name__}
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__ and callable(value):
            given = tuple(inspect.signature(value).parameters)
            found |= {name} if any(given[: len(taken)] == taken for taken in TAKES.values()) else set()
    return [f"{file}:{name}" for name in sorted(found)]


def source_file(reference: str) -> Path:
    """The file that defines a model. reference: see `get`. Raises UserError if there is no such model."""
    return get(reference).source[0]
