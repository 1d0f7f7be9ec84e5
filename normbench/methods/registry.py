"""Creates a method object from the `method` and `options` of a variant."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from normbench.methods.base import Method
from normbench.methods.plain import adapted
from normbench.system import blame, plugins
from normbench.system.errors import UserError, hint

FOLDER, OWN = Path(__file__).parent, Path("my_methods")
NOT_METHODS = {"__init__", "base", "plain", "registry"}
METHOD = "normbench.methods.base.Method"


def names() -> list[str]:
    """The methods of the package: the names of the files in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_METHODS)


def own(file: Path) -> list[str]:
    """References to the methods in a file of the user's own: its methods, or else its plain layers.

    Raises UserError if it cannot be imported.
    """
    module = plugins.imported(str(file))
    found = [_defined(module, base) for base in (Method, nn.Module)]
    return [f"{file}:{name}" for name in found[0] or found[1]]


def source_file(reference: str) -> Path:
    """The file that defines a method. Raises UserError if there is no method of that name.

    reference: a name, `path/to/file.py:Class` or `package.module:Class`.
    """
    place, _, _ = reference.partition(":")
    if plugins.is_place(reference):
        return plugins.source_file(place)
    if place not in names():
        raise UserError(f"unknown method; {hint(place, names())}")
    return FOLDER / f"{place}.py"


def method_class(reference: str) -> type[Method]:
    """The class of a method, which `plain.adapted` makes of a plain `torch.nn.Module` class.

    reference: see `source_file`. Raises UserError if there is no such class.
    """
    path = source_file(reference)
    place, _, name = reference.partition(":")
    if not plugins.is_place(reference):
        module = importlib.import_module(f"normbench.methods.{place}")
        (found,) = [value for value in _classes(module, Method).values() if value.__module__ == module.__name__]
        return found
    module = plugins.imported(place)
    methods, layers = _classes(module, Method), _classes(module, nn.Module)
    if not name:
        raise UserError(plugins.nameless(place, "class", _defined(module, Method) or _defined(module, nn.Module)))
    if name in methods:
        return methods[name]
    if name in layers:
        return adapted(layers[name])
    if name in vars(module):
        where = blame.definition(vars(module)[name]) or path
        raise UserError(f"{where}: {name} in {path} is a subclass neither of torch.nn.Module nor of {METHOD}")
    raise UserError(f"{path} has no class {name}; {hint(name, methods | layers)}")


def _classes(module: ModuleType, base: type) -> dict[str, Any]:
    """The subclasses of a class that a module has, by name."""
    return {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


def _defined(module: ModuleType, base: type) -> list[str]:
    """The names of the subclasses of a class that a module defines itself."""
    return [name for name, value in _classes(module, base).items() if value.__module__ == module.__name__]


def build(reference: str, options: dict[str, Any]) -> Method:
    """A method object with the given options, which were validated when params.yaml was resolved."""
    return method_class(reference)(**options)
