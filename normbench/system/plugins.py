"""Registration of plugins: entries in the files of a package, and entries in the user's own files or modules."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from normbench.system.errors import UserError, hint, nearest

Entry = TypeVar("Entry")
Decorator = TypeVar("Decorator", bound=Callable[..., Any])


def registers(decorator: Decorator) -> Decorator:
    """Marks a decorator, or a decorator factory, that registers a function or class and returns it unchanged.

    The digest of code (`normbench.system.fingerprint`) ignores a decorator that is marked so, and its arguments,
    because the way in which something is looked up changes no number.
    """
    return decorator


def registers_arguments(decorator: Decorator) -> Decorator:
    """Like `registers`, for a decorator whose arguments change numbers: the digest of code includes these arguments."""
    return decorator


class Table(Generic[Entry]):
    """A registry: what the files of a package register by name, such as models or data sources.

    To add an entry, add a file to the package's folder: all its files are imported when the table is first read, in the
    order of their names. `get` also accepts a reference to an entry of the user's own, `path/to/file.py:name` or
    `package.module:name`, which that file or module registers in the same way.

    package: the dotted name of the package. noun: what error messages call an entry, e.g. `model`.
    """

    def __init__(self, package: str, noun: str):
        self.package, self.noun = package, noun
        self.entries: dict[str, Entry] = {}
        self._modules: dict[tuple[str, str], Entry] = {}
        self._complete = False

    def add(self, name: str, module: str, entry: Entry) -> None:
        """Registers an entry; registering decorators call it.

        module: the `__module__` of the code that defines the entry. An entry from outside the package can be found only
        by its reference, so that its name cannot clash with one of the package. Raises ValueError if two files of the
        package register the same name.
        """
        if module.startswith(f"{self.package}."):
            if (name, module) not in self._modules and name in self.entries:
                raise ValueError(f"two files register the {self.noun} {name!r}")
            self.entries[name] = entry
        self._modules[name, module] = entry

    def names(self) -> list[str]:
        """Returns the names that the package registers, in the order of the files and of the definitions in a file."""
        self._read()
        modules = {name: module for name, module in self._modules if module.startswith(f"{self.package}.")}
        return sorted(self.entries, key=modules.__getitem__)  # A file may have been imported before the table was read.

    def get(self, reference: str) -> Entry:
        """Returns the entry with a name or reference. Raises UserError, with a suggestion, if there is none."""
        place, colon, name = reference.partition(":")
        if not colon:
            self._read()
            if reference not in self.entries:
                raise UserError(f"unknown {self.noun}; {hint(reference, self.entries)}")
            return self.entries[reference]
        module = imported(place)
        found = {entry: value for (entry, where), value in self._modules.items() if where == module.__name__}
        if name not in found:
            raise UserError(f"{place} registers no {self.noun} {name}; {hint(name, found)}")
        return found[name]

    def _read(self) -> None:
        if not self._complete:
            folder = importlib.import_module(self.package)
            for found in sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name):
                importlib.import_module(f"{self.package}.{found.name}")
            self._complete = True


def source_file(place: str) -> Path:
    """Returns the source file of the part of a reference before its colon: `path/to/file.py` or `package.module`.

    Raises UserError if there is no such file or module.
    """
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
    except (Exception, SystemExit) as error:  # Importing the parent package runs the user's code.
        raise UserError(f"{place} cannot be imported: {_one_line(error)}") from error
    if spec is None or spec.origin is None:
        raise UserError(f"no module named {place} can be imported")
    return Path(spec.origin)


def imported(place: str) -> ModuleType:
    """Imports `path/to/file.py` or `package.module` and returns the module. Raises UserError if the import fails."""
    path = source_file(place)
    load: Callable[[], ModuleType] = (
        (lambda: _of_file(path)) if place.endswith(".py") else (lambda: importlib.import_module(place))
    )
    try:
        return load()
    except (Exception, SystemExit) as error:  # The user's code may raise anything.
        raise UserError(f"{path} cannot be imported: {_one_line(error)}") from error


def _of_file(path: Path) -> ModuleType:
    """Imports a file under a unique module name. The file can import the files beside it."""
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]  # two folders may have files of equal names
    name = f"normbench_own_{path.stem}_{place}"
    if name in sys.modules:
        return sys.modules[name]
    spec: Any = importlib.util.spec_from_file_location(name, path.resolve())
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


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
