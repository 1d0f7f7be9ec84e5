"""Registration of plugins: entries in the files of a package, and entries in the user's own files or modules."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import threading
import tokenize
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from normbench.system import blame, files
from normbench.system.errors import UserError, hint, nearest
from normbench.system.text import complain

SLOW = 10.0  # seconds after which the import of a file of the user's own is mentioned

Entry = TypeVar("Entry")
_imported: set[str] = set()  # the names of the modules that references have named
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

    def has(self, name: str, module: str) -> bool:
        """Whether the code of a module registers an entry of that name."""
        return (name, module) in self._modules

    def everything(self) -> list[tuple[str, str]]:
        """Name and module of all entries so far, those of the user's own included."""
        return list(self._modules)

    def names(self) -> list[str]:
        """Returns the names that the package registers, in the order of the files and of the definitions in a file."""
        self._read()
        modules = {name: module for name, module in self._modules if module.startswith(f"{self.package}.")}
        return sorted(self.entries, key=modules.__getitem__)  # A file may have been imported before the table was read.

    def get(self, reference: str) -> Entry:
        """Returns the entry with a name or reference. Raises UserError, with a suggestion, if there is none."""
        place, _, name = reference.partition(":")
        if not is_place(reference):
            self._read()
            if reference not in self.entries:
                raise UserError(f"unknown {self.noun}; {hint(reference, self.entries)}")
            return self.entries[reference]
        module = imported(place)
        found = {entry: value for (entry, where), value in self._modules.items() if where == module.__name__}
        if not name:
            raise UserError(nameless(place, self.noun, found))
        if name not in found:
            raise UserError(f"{place} registers no {self.noun} {name}; {hint(name, found)}")
        return found[name]

    def _read(self) -> None:
        if not self._complete:
            folder = importlib.import_module(self.package)
            for found in sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name):
                importlib.import_module(f"{self.package}.{found.name}")
            self._complete = True


def is_place(reference: str) -> bool:
    """Whether a text refers to a file or a module, with or without a name in it, and not to an entry of a package."""
    return any(mark in reference for mark in ":./\\")


def nameless(place: str, noun: str, found: Iterable[str]) -> str:
    """Returns the message for a file or module that is named without the entry that is meant.

    found: the names of the entries there.
    """
    names = sorted(found)
    if not names:
        return f"{place} has no {noun}"
    written = f"{place}:{names[0]}" if len(names) == 1 else f"{place}:NAME, where NAME is one of {', '.join(names)}"
    return f"it does not say which {noun} of the file is meant: write {written}"


def source_file(place: str) -> Path:
    """Returns the source file of the part of a reference before its colon: `path/to/file.py` or `package.module`.

    Raises UserError if there is no such file or module.
    """
    if not place:
        raise UserError("no file or module stands before the ':'")
    if place.endswith(".py") or "/" in place or "\\" in place:
        path = Path(place)
        if not (path.is_file() and place.endswith(".py")):
            near = nearest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else None
            raise UserError(f"no such file {place}" + (f"; did you mean '{path.parent / near}'?" if near else ""))
        return path
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        spec = None
    except (Exception, SystemExit) as error:  # Importing the parent package runs the user's code.
        raise UserError(_not_imported(Path(place), error)) from error
    if spec is None or spec.origin is None:
        raise UserError(f"no module named {place} can be imported")
    return Path(spec.origin)


def imported(place: str) -> ModuleType:
    """Imports `path/to/file.py` or `package.module` and returns the module. Raises UserError if the import fails."""
    path = source_file(place)
    load: Callable[[], ModuleType] = (
        (lambda: _of_file(path)) if place.endswith(".py") else (lambda: importlib.import_module(place))
    )
    slow = threading.Timer(SLOW, complain, [f"{path}: its import takes more than {SLOW:g} s"])
    slow.daemon = True
    slow.start()
    try:
        # Where a command prints JSON, nothing else may be printed.
        with contextlib.redirect_stdout(sys.stderr), blame.torch_settings_kept() as changed:
            module = load()
            if changed():
                raise UserError(f"{path}: its import changes torch's default type, device or gradient mode")
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # The user's code may raise anything.
        raise UserError(_not_imported(path, error)) from error
    finally:
        slow.cancel()
    _imported.add(module.__name__)
    return module


def place_of(error: BaseException) -> str | None:
    """The file and line of an exception in which a file of the user's own took part, or None."""
    frames = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return blame.place(error) if any(name in _imported for name in frames) else None


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


def _not_imported(path: Path, error: BaseException) -> str:
    """The message about a file that cannot be imported, with the line of the mistake in it or in what it imports."""
    if isinstance(error, SyntaxError):
        _check_encoding(Path(error.filename) if error.filename and Path(error.filename).is_file() else path)
    where = blame.place(error) or ""
    file, _, line = where.rpartition(":")
    if file == blame.shown(path):
        return f"{where} cannot be imported: {blame.one_line(error)}"
    return f"{path} cannot be imported: {f'{where}: ' if line else ''}{blame.one_line(error)}"


def _check_encoding(path: Path) -> None:
    """Raises UserError, with the place of the byte at fault, for a source file in UTF-8 that is not valid."""
    try:
        declared = tokenize.detect_encoding(iter(path.read_bytes().splitlines(keepends=True)).__next__)[0]
    except (SyntaxError, UnicodeDecodeError):
        declared = "utf-8"
    if declared.startswith("utf-8"):
        files.text_of(path.read_bytes(), Path(blame.shown(path)))
