"""Creates a method object from the `method` and `options` of a variant."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from normbench.methods.base import Method
from normbench.system import blame, plugins
from normbench.system.errors import UserError, hint

FOLDER = Path(__file__).parent
NOT_METHODS = {"__init__", "base", "registry"}


def names() -> list[str]:
    """The methods of the package: the names of the files in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_METHODS)


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
    """The class of a method. reference: see `source_file`. Raises UserError if there is no such class."""
    path = source_file(reference)
    place, _, name = reference.partition(":")
    own = plugins.is_place(reference)
    module = plugins.imported(place) if own else importlib.import_module(f"normbench.methods.{place}")
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Method) and value is not Method
    }
    if not own:
        (found,) = [value for value in classes.values() if value.__module__ == module.__name__]
        return found
    if not name:
        own_classes = [key for key, value in classes.items() if value.__module__ == module.__name__]
        raise UserError(plugins.nameless(place, "class", own_classes))
    if name not in classes:
        if name in vars(module):
            where = blame.definition(vars(module)[name]) or path
            raise UserError(f"{where}: {name} in {path} is not a subclass of normbench.methods.base.Method")
        raise UserError(f"{path} has no class {name}; {hint(name, classes)}")
    return classes[name]


def build(reference: str, options: dict[str, Any]) -> Method:
    """A method object with the given options, which were validated when params.yaml was resolved."""
    return method_class(reference)(**options)
