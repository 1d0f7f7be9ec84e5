"""The source files of the project, read as text: what each module defines, and which definition a name refers to.

Nothing is imported or run. The project is the package `normbench` and, for a file outside of it, also the files that it
can import from its own folder.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from normbench.system.errors import UserError

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "normbench"
INSTALLED = {"site-packages", "dist-packages"}
# Nodes that bind names or have a scope of their own. Others are told apart by a look-up, as matching them takes long.
BINDING = {
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom, ast.Name),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Global, ast.Nonlocal),
    *(ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping),
}


class Place(NamedTuple):
    """The place of a definition: a file and a name in it, or the whole module if the name is None."""

    file: Path
    name: str | None


@dataclass(frozen=True)
class Found:
    """The target of a chain of names such as `a.b.c`.

    label: a name for it that includes no module of the project. place: where the project defines it; None for what is
    installed or built in. rest: the last names of the chain, if they are attributes of the target.
    """

    label: str
    place: Place | None = None
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """The target of an import: a module, or a name in that module. level: the number of leading dots."""

    level: int
    module: tuple[str, ...]
    name: str | None = None


@dataclass
class Bound:
    """The names that statements bind in their own scope, and the names that they declare `global`.

    names: each name with its import, or None if it is not imported.
    """

    names: dict[str, Imported | None] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Module:
    """The contents of one source file.

    names: the statements that define each name, in order. imports: names that are imported and not otherwise defined.
    stars: the modules of star imports. effects: statements that do more than define names. decorated: definitions with
    decorators, some of which may put them into a table. exported: the words in `__all__`.
    """

    file: Path
    names: dict[str, list[ast.stmt]]
    imports: dict[str, Imported]
    stars: list[Imported]
    effects: list[ast.stmt]
    decorated: list[ast.stmt]
    exported: set[str]


def imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Imported]]:
    """Yields each name that an import statement binds, with what it refers to."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            parts = tuple(alias.name.split("."))
            yield (alias.asname, Imported(0, parts)) if alias.asname else (parts[0], Imported(0, parts[:1]))
    elif statement.module != "__future__":
        for alias in statement.names:
            if alias.name != "*":
                yield alias.asname or alias.name, Imported(statement.level, source(statement).module, alias.name)


def source(statement: ast.ImportFrom) -> Imported:
    """Returns the module of a `from ... import` statement."""
    return Imported(statement.level, tuple(statement.module.split(".")) if statement.module else ())


def is_star(statement: ast.stmt) -> bool:
    """Whether a statement is `from ... import *`."""
    return isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"


def children(node: ast.AST) -> list[ast.AST]:
    """Returns the nodes directly below a node, in order, without those that have no fields, such as operators."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [part for part in value if isinstance(part, ast.AST) and part._fields]
        elif isinstance(value, ast.AST) and value._fields:
            found.append(value)
    return found


def bound(nodes: Iterable[ast.AST]) -> Bound:
    """Returns the names that nodes bind in their own scope, without entering functions, classes or comprehensions."""
    found, outer, waiting = Bound(), set(), list(nodes)[::-1]
    while waiting:
        node = waiting.pop()
        if type(node) in BINDING:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.names.setdefault(node.name, None)
                    continue
                case ast.Lambda():
                    continue
                case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                    inner = (part.target for part in ast.walk(node) if isinstance(part, ast.NamedExpr))
                    found.names |= {target.id: None for target in inner}
                    continue
                case ast.Import() | ast.ImportFrom():
                    found.names |= dict(imported(node))
                case ast.Name():
                    if isinstance(node.ctx, ast.Store | ast.Del):
                        found.names.setdefault(node.id, None)
                    continue
                case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                    found.names.setdefault(name, None)
                case ast.MatchMapping(rest=str(name)):
                    found.names.setdefault(name, None)
                case ast.Global():
                    found.globals |= set(node.names)
                case ast.Nonlocal():
                    outer |= set(node.names)
        waiting += children(node)[::-1]
    found.names = {name: value for name, value in found.names.items() if name not in found.globals | outer}
    return found


def never(test: ast.expr) -> bool:
    """Whether a condition is false when the module is imported: `TYPE_CHECKING` or `__name__ == "__main__"`."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            ends = {ast.dump(left), ast.dump(right)}
            return ends == {ast.dump(ast.Name("__name__", ast.Load())), ast.dump(ast.Constant("__main__"))}
    return False


def executed(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements that run when their module is imported."""
    for statement in statements:
        if isinstance(statement, ast.If) and never(statement.test):
            yield from executed(statement.orelse)
        else:
            yield statement


def has_effect(statement: ast.stmt) -> bool:
    """Whether a top-level statement does more than define names."""
    match statement:
        case ast.Expr():
            return not isinstance(statement.value, ast.Constant)
        case ast.AugAssign(target=ast.Name(id="__all__")) | ast.AnnAssign(value=None):
            return False
        case ast.AugAssign() | ast.Delete() | ast.For() | ast.While() | ast.With() | ast.Match():
            return True
        case ast.Assign(targets=targets):
            return any(isinstance(part, ast.Attribute | ast.Subscript) for t in targets for part in unpacked(t))
        case ast.AnnAssign(target=target):
            return not isinstance(target, ast.Name)
        case ast.If() | ast.Try() | ast.TryStar():
            parts = [*statement.body, *statement.orelse, *getattr(statement, "finalbody", [])]
            parts += [part for handler in getattr(statement, "handlers", []) for part in handler.body]
            return any(has_effect(part) for part in executed(parts))
    return is_star(statement)


def unpacked(target: ast.expr) -> Iterator[ast.expr]:
    """Yields the single targets of an assignment target, which may be a tuple or list."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from unpacked(part)
    else:
        yield target.value if isinstance(target, ast.Starred) else target


def parse(file: Path, text: bytes) -> Module:
    """Parses the text of a file. Raises UserError, with the line number, if it is not valid Python."""
    try:
        tree = ast.parse(text, filename=str(file))
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{file}, line 1: {error}") from None
    body = list(executed(tree.body))
    names: dict[str, list[ast.stmt]] = {}
    imports: dict[str, Imported] = {}
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports |= dict(imported(statement))
        else:
            for name in bound([statement]).names:
                names[name] = []
    words = mentioned(tree)
    effects: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom) and not is_star(statement):
            reexports = file.name == "__init__.py" and isinstance(statement, ast.ImportFrom)
            for alias in statement.names:
                one = copy.copy(statement)
                one.names = [alias]
                for name, _ in imported(one):
                    if name in names:  # another statement defines the same name
                        names[name].append(one)
                    elif name not in words and not reexports:  # unused, so it is imported for its effects
                        effects.append(one)
        else:
            for name in bound([statement]).names:
                names[name].append(statement)
        if has_effect(statement):
            effects.append(statement)
    exported = {word for statement in names.get("__all__", []) for word in mentioned(statement)}
    stars = [source(statement) for statement in body if isinstance(statement, ast.ImportFrom) and is_star(statement)]
    decorated = [statement for statement in body if getattr(statement, "decorator_list", [])]
    own = {name: origin for name, origin in imports.items() if name not in names}
    return Module(file, names, own, stars, effects, decorated, exported)


def mentioned(tree: ast.AST) -> set[str]:
    """Returns every name that the tree uses, and every word of its strings, since annotations may be strings.

    Docstrings do not count.
    """
    found: set[str] = set()
    docstrings: set[int] = set()
    waiting = [tree]
    while waiting:  # a parent comes before its children
        node = waiting.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
            continue
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docstrings:
                found |= set(re.findall(r"\w+", node.value))
            continue
        waiting += children(node)
    return found


def import_root(file: Path) -> Path:
    """Returns the folder from which a file is imported: the folder that contains its outermost package."""
    packages = package_files(file)
    return packages[-1].parent.parent if packages else file.parent


def package_files(file: Path) -> list[Path]:
    """Returns the `__init__.py` of each package around a file, the innermost first."""
    found, folder = [], file.parent
    while (folder / "__init__.py").is_file():
        found.append(folder / "__init__.py")
        folder = folder.parent
    return found


_parsed: dict[Path, tuple[tuple[int, int], Module]] = {}


class Tree:
    """The source files as they are now. Parsed files are cached across trees until they change on disk."""

    def __init__(self) -> None:
        self._modules: dict[Path, Module] = {}
        self._files: dict[Path, Path | None] = {}
        self._origins: dict[tuple[Path, int, tuple[str, ...]], Path | None] = {}
        self._under_way: set[tuple[Path, str]] = set()

    def module(self, file: Path) -> Module:
        """Returns the parsed file. Raises UserError if it cannot be read or is not valid Python."""
        if file not in self._modules:
            try:
                stat = file.stat()
                key = stat.st_mtime_ns, stat.st_size
                if file not in _parsed or _parsed[file][0] != key:
                    _parsed[file] = key, parse(file, file.read_bytes())
            except OSError as error:
                raise UserError(f"{file}: {error.strerror}") from None
            self._modules[file] = _parsed[file][1]
        return self._modules[file]

    def find(self, file: Path, name: str, attributes: tuple[str, ...] = ()) -> Found | None:
        """Returns what a top-level name of a module refers to, or None if the module has no such name.

        attributes: the attributes that are read from the name. The chain is followed through modules up to a
        definition; the attributes after it become `rest`.
        """
        module = self.module(file)
        if name in module.names:
            return Found(name, Place(file, name), attributes)
        if (file, name) in self._under_way:  # a package that imports its own submodule of that name
            return None
        self._under_way.add((file, name))
        try:
            if name in module.imports:
                return self.follow(file, module.imports[name], attributes)
            for star in module.stars:
                origin = self._origin(file, star)
                found = self.find(origin, name, attributes) if origin and origin.suffix == ".py" else None
                if found:
                    return found
            return None
        finally:
            self._under_way.discard((file, name))

    def follow(self, file: Path, what: Imported, attributes: tuple[str, ...] = ()) -> Found:
        """Returns what an import in a file refers to, with the attributes that are read from the imported name."""
        chain = ((what.name,) if what.name else ()) + attributes
        origin = self._origin(file, what)
        found = self._inside(origin, chain) if origin else None
        if origin is None or found is None or (found.place is None and origin.suffix != ".py"):
            return Found("external:" + ".".join(what.module + chain))
        return found

    def members(self, file: Path) -> list[Found]:
        """Returns what a whole module stands for: all its definitions, and the imports that it re-exports.

        A package (`__init__.py`) re-exports all its imports, another module those that `__all__` names.
        """
        module = self.module(file)
        handed_on = module.imports if file.name == "__init__.py" else module.imports.keys() & module.exported
        found = (self.find(file, name) for name in sorted({*module.names, *handed_on} - {"__all__"}))
        return [member for member in found if member and member.place]

    def _inside(self, origin: Path, chain: tuple[str, ...]) -> Found:
        """Returns what a chain of attributes of a module refers to.

        origin: the module's file, or the folder of a package without `__init__.py`.
        """
        is_file = origin.suffix == ".py"
        if not chain:
            return Found("module", Place(origin, None)) if is_file else Found("external:")
        found = self.find(origin, chain[0], chain[1:]) if is_file else None
        if found:
            return found
        folder = origin.parent if origin.name == "__init__.py" else None if is_file else origin
        below = self._file(folder / chain[0]) if folder else None
        if below:
            return self._inside(below, chain[1:])
        if is_file and "__getattr__" in self.module(origin).names:
            return Found("__getattr__", Place(origin, "__getattr__"), chain)
        return Found("external:" + ".".join(chain))

    def _origin(self, file: Path, what: Imported) -> Path | None:
        """Returns the file or folder of an imported module, or None if it does not belong to the project."""
        key = file, what.level, what.module
        if key not in self._origins:
            self._origins[key] = self._find_origin(file, what)
        return self._origins[key]

    def _find_origin(self, file: Path, what: Imported) -> Path | None:
        parts = what.module
        if what.level:
            base = file.parents[min(what.level, len(file.parents)) - 1]
            return self._file(base.joinpath(*parts))
        if parts[0] == PACKAGE:
            return self._file(PACKAGE_ROOT.joinpath(*parts))
        if file.is_relative_to(PACKAGE_ROOT / PACKAGE):
            return None
        root = import_root(file)
        if root.name in INSTALLED and file.relative_to(root).parts[0] != parts[0]:
            return None
        beside = self._file(root.joinpath(*parts))
        if beside is None and root == file.parent and root.name == parts[0]:  # a package without `__init__.py`
            return self._file(root.parent.joinpath(*parts))
        return beside

    def _file(self, place: Path) -> Path | None:
        """Returns the file of a module, the folder of a package without `__init__.py`, or None if there is neither."""
        if place not in self._files:
            candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
            files = (candidate for candidate in candidates if candidate.is_file())
            self._files[place] = next(files, place if place.is_dir() else None)
        return self._files[place]
