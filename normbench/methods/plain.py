"""Makes a method of a plain `torch.nn.Module` class, as norms are usually written: `MyNorm(num_features, eps=1e-5)`."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin

from torch import nn

from normbench.functional.convolution import Conv2d
from normbench.methods.base import ConvSpec, Method, Role
from normbench.system.errors import UserError
from normbench.system.schema import SCALARS, is_expressible
from normbench.system.source_tree import INSTALLED

CHANNELS = ("num_features", "num_channels", "channels")  # what the number of channels may be called, beside the first
PLACED = {
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
}  # arguments of a convolution that its place in the network decides
SWITCH = "apply_act"  # an argument that switches an activation off which a norm contains, as in timm
ELSEWHERE = {"device", "dtype"}  # arguments that are not the method's business
HOOKS = {name for name, value in vars(Method).items() if inspect.isfunction(value) and not name.startswith("_")}
UNTYPED: Any = bool | int | float | str | None | list


@dataclass(frozen=True)
class PlainMethod(Method):
    """A method that builds layers of a plain class; `adapted` makes its subclasses, whose fields are the options.

    unset: options whose default in the class cannot be written in params.yaml, such as a class. None stands for it.
    """

    layer: ClassVar[type[nn.Module]]
    unset: ClassVar[frozenset[str]]

    def options(self) -> dict[str, Any]:
        """The options by name, as keyword arguments of the class."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None or name not in self.unset}


@dataclass(frozen=True)
class PlainNorm(PlainMethod):
    """A plain class takes the place of every norm.

    first: the argument that takes the number of channels. contains: whether the class contains its activation.
    switch: whether it has an argument `apply_act`. Where no activation follows the norm in the architecture, that is
    False; a class without it is used as it is.
    """

    first: ClassVar[str]
    contains: ClassVar[bool]
    switch: ClassVar[bool]

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        options = {self.first: channels} | self.options()
        if self.switch and not role.activation:
            options[SWITCH] = False
        return self.layer(**options)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        inside = self.contains and self.options().get(SWITCH, True)
        return nn.Identity() if inside and role.place != "addition" else super().activation(channels, role=role)


@dataclass(frozen=True)
class PlainConv(PlainMethod):
    """A plain class takes the place of every convolution that has a norm; batch norms follow, so that it has no bias.

    accepted: which of stride, padding, dilation, groups and bias the class takes.
    """

    accepted: ClassVar[frozenset[str]]

    def conv(self, spec: ConvSpec) -> nn.Module:
        if spec.without_norm:
            return super().conv(spec)
        placed = {name: getattr(spec, name) for name in ("stride", "padding", "dilation", "groups")} | {"bias": False}
        for name, value in placed.items():
            # A class without `bias` decides itself; one without the others cannot build what is asked for.
            if (
                name not in self.accepted
                and name != "bias"
                and value != inspect.signature(Conv2d).parameters[name].default
            ):
                raise ValueError(
                    f"{self.layer.__name__} takes no {name}, and a layer of this network has {name}={value}"
                )
        given = {name: value for name, value in placed.items() if name in self.accepted}
        return self.layer(spec.in_channels, spec.out_channels, spec.kernel_size, **given, **self.options())


@functools.cache
def adapted(layer: type[nn.Module]) -> type[PlainMethod]:
    """A method class for a plain class of layers, with the same name.

    A class that has an argument `kernel_size` among its first three, after the numbers of input and output channels,
    takes the place of convolutions. Any other one takes the place of norms: its argument num_features, num_channels or
    channels, or else its first, is the number of channels. All other arguments are options, with the types of their
    annotations or defaults, except those that params.yaml cannot express.
    Raises UserError if there is no argument for the channels, or one without a default that cannot be an option.
    """
    parameters = _parameters(layer)
    names = list(parameters)
    facts: dict[str, Any] = {"layer": layer, "tunable": getattr(layer, "tunable", {})}
    if "kernel_size" in names[:3]:
        base: type[PlainMethod] = PlainConv
        accepted = frozenset(PLACED & {*names})
        facts["accepted"], taken = accepted, {*names[:3]} | accepted
    else:
        base, first = PlainNorm, next((name for name in CHANNELS if name in names), names[0] if names else None)
        if first is None:
            raise UserError(
                f"{layer.__name__} takes no arguments; the first argument of a norm is the number of channels"
            )
        switch = SWITCH in names
        facts |= {"first": first, "switch": switch, "contains": switch or _says_so(layer)}
        taken = {first}
    types_of = _hints(layer)
    fields, unset = [], set()
    for name, parameter in parameters.items():
        if name in taken:
            continue
        kind = None if name in HOOKS or name.startswith("_") else _option_type(parameter, types_of)
        if kind is not None and parameter.default is not parameter.empty:
            default = parameter.default
            if not isinstance(default, SCALARS):
                unset.add(name)
                kind, default = kind | None, None
            fields.append((name, kind, dataclasses.field(default=default, kw_only=True)))
        elif kind is not None:
            fields.append((name, kind, dataclasses.field(kw_only=True)))
        elif parameter.default is parameter.empty:
            raise UserError(f"{layer.__name__} needs {name}, which cannot be given in params.yaml; give it a default")
    facts |= {
        "unset": frozenset(unset),
        "__module__": layer.__module__,
        "__doc__": layer.__doc__,
        "__qualname__": layer.__qualname__,
    }
    return dataclasses.make_dataclass(layer.__name__, fields, bases=(base,), namespace=facts, frozen=True)


def taken_for(kind: type[Method]) -> str | None:
    """In words, what a plain class was taken for; None for a class that is a method itself."""
    if issubclass(kind, PlainConv):
        return f"{kind.__name__} is taken for a convolution, because it has an argument kernel_size"
    if not issubclass(kind, PlainNorm):
        return None
    activation = "; it contains its activation" if kind.contains else ""
    return f"{kind.__name__} is taken for a norm whose number of channels is {kind.first}{activation}"


def installed_version(kind: type[Method]) -> str | None:
    """The name and version of the installed package that defines a plain class; None for any other class.

    The digest of such a method has this version in the place of the package's code.
    """
    if not issubclass(kind, PlainMethod):
        return None
    package = kind.__module__.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None or not INSTALLED & {*Path(file).parts}:
        return None
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # It is distributed under another name.
        owners = importlib.metadata.packages_distributions().get(package, [])
        return " ".join([package, *(f"{owner} {importlib.metadata.version(owner)}" for owner in sorted({*owners}))])


def _says_so(layer: type[nn.Module]) -> bool:
    return bool(getattr(layer, "includes_activation", False))


def _parameters(layer: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The arguments of a class that can be given by name, in order, except `device` and `dtype`."""
    parameters = inspect.signature(layer).parameters.values()
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: p for p in named if p.name not in ELSEWHERE}


def _hints(layer: type[nn.Module]) -> dict[str, Any]:
    """The evaluated annotations of the arguments; those that cannot be evaluated are missing."""
    try:
        return typing.get_type_hints(layer.__init__, include_extras=True)
    except Exception:  # An annotation may be any expression.
        return {}


def _option_type(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    """The type of an option, or None if its values cannot be written in params.yaml.

    Of a union, what can be written is allowed. Without a usable annotation the default tells the type; a whole number
    as default allows any number.
    """
    default, hint = parameter.default, hints.get(parameter.name)
    if hint is None and parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str):
        return None
    if hint is None:
        of_default = {bool: bool, int: int | float, float: float, str: str}
        known = default is None or default is parameter.empty
        return UNTYPED if known else of_default.get(type(default))
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    allowed = [member for member in members if is_expressible(member)]
    if not [member for member in allowed if member is not type(None)]:
        return None
    if default is None:
        allowed.append(type(None))
    return Union[tuple(allowed)]  # noqa: UP007  # The members are known only now.
