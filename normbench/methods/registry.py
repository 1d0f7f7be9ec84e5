"""From the `method` and `options` of a variant to a method object."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from normbench.methods.base import Method
from normbench.system.errors import UserError, hint, nearest

FOLDER = Path(__file__).parent
NOT_METHODS = {"__init__", "base", "registry"}


def names() -> list[str]:
    """The methods of the package: the names of the files in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_METHODS)


def source_file(reference: str) -> Path:
    """The file that a method is in. `reference`: a name, `path/to/file.py:Class` or `package.module:Class`."""
    place, colon, _ = reference.partition(":")
    if not colon:
        if place not in names():
            raise UserError(f"unknown method; {hint(place, names())}")
        return FOLDER / f"{place}.py"
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            near = nearest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else None
            raise UserError(f"no such file {place}" + (f"; did you mean '{path.parent / near}'?" if near else ""))
        return path
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    except (Exception, SystemExit) as error:  # the package around the module is the user's code too
        raise UserError(f"{place} cannot be imported: {_one_line(error)}") from error
    if spec is None or spec.origin is None:
        raise UserError(f"no module named {place} can be imported")
    return Path(spec.origin)


def method_class(reference: str) -> type[Method]:
    """The class behind a reference; UserError where there is none."""
    path = source_file(reference)
    place, colon, name = reference.partition(":")
    try:
        module = _module_of(path) if place.endswith(".py") else importlib.import_module(_module_name(place, colon))
    except (Exception, SystemExit) as error:  # a method file is the user's code: whatever it raises is theirs to see
        raise UserError(f"{path} cannot be imported: {_one_line(error)}") from error
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Method) and value is not Method
    }
    if not colon:
        (found,) = [value for value in classes.values() if value.__module__ == module.__name__]
        return found
    if name not in classes:
        if name in vars(module):
            raise UserError(f"{name} in {path} is not a subclass of normbench.methods.base.Method")
        raise UserError(f"{path} has no class {name}; {hint(name, classes)}")
    return classes[name]


def build(reference: str, options: dict[str, Any]) -> Method:
    """The method with its options, which were validated when `params.yaml` was resolved."""
    return method_class(reference)(**options)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _module_name(place: str, colon: str) -> str:
    return place if colon else f"normbench.methods.{place}"


def _module_of(path: Path) -> ModuleType:
    """Imports a file under a name of its own; files beside it can be imported by it."""
    name = f"normbench_method_{path.resolve().stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
