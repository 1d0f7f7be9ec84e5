"""The meaning of statements: their syntax without everything that changes no number, and the definitions they refer to.

Comments, docstrings, annotations, output to the terminal or a log, and the texts of errors are left out. The same
source gives the same result on every version of Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from normbench.system import source_tree
from normbench.system.source_tree import (
    Bound,
    Found,
    Imported,
    Module,
    Place,
    Tree,
    bound,
    imported,
    is_star,
    never,
    source,
)

Dump = tuple[Any, ...]  # nested tuples of strings
NOT_MEANT = {"ctx", "type_comment", "type_params", "kind", "returns", "annotation"}
REGISTERS = {"registers", "registers_arguments"}  # the marks of registering decorators (`normbench.system.plugins`)
PRINTS, PRINTERS = "normbench/system/text.py", {"say", "complain"}  # what prints for the whole package
TYPING = ("external:typing.", "external:typing_extensions.")
KINDS_OF_FIELD = re.compile(r"""['"]?(?:\w+\.)*(ClassVar|InitVar|KW_ONLY)\b""")
WITHOUT_EFFECT = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)


class Scope(Bound):
    """The names that are bound in a function, a comprehension or, with `of_class`, so far in the body of a class."""

    def __init__(self, names: Bound, of_class: bool = False):
        super().__init__(names.names, names.globals)
        self.of_class = of_class


class Meaning:
    """Reads statements of a module. `places` collects the definitions that these statements refer to, each once."""

    def __init__(self, tree: Tree, module: Module):
        self.tree, self.module = tree, module
        self.places: list[Place] = []
        self.scopes: list[Scope] = []

    def block(self, statements: Iterable[ast.stmt]) -> Dump:
        """Returns the dumps of statements, without those that change no number."""
        return tuple(part for statement in statements for part in self.statement(statement))

    def statement(self, statement: ast.stmt) -> Dump:
        """Returns the dumps of one statement: usually one, and none if the statement changes no number."""
        match statement:
            case ast.Import() | ast.ImportFrom():
                return self.importing(statement)
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return ()
            case ast.Expr(value=ast.Call(func=function)) if self.only_tells(function):
                return ()
            case ast.AnnAssign(value=None) if not self.in_class():
                return ()
            case ast.FunctionDef() if any(self.is_typing(made, "overload") for made in statement.decorator_list):
                return ()
            case ast.If(test=test):
                if never(test):
                    return self.block(statement.orelse)
                body, orelse = self.block(statement.body), self.block(statement.orelse)
                if not body and not orelse and all(isinstance(part, WITHOUT_EFFECT) for part in ast.walk(test)):
                    return ()
                return (("If", self.node(test), body, orelse),)
        return (self.node(statement),)

    def importing(self, statement: ast.Import | ast.ImportFrom) -> Dump:
        """Returns a dump of the definitions that an import statement refers to.

        It is empty inside a function, because there each use of the name is resolved where it occurs. For an import
        whose names are never used, it keeps whole modules of the project alone, since only these can have effects.
        """
        if self.scopes and not self.in_class():
            return ()
        if isinstance(statement, ast.ImportFrom) and is_star(statement):
            return (("import", "*", self.referred(self.tree.follow(self.module.file, source(statement)))),)
        whole = {alias.name: Imported(0, tuple(alias.name.split("."))) for alias in statement.names}
        what = whole.values() if isinstance(statement, ast.Import) else dict(imported(statement)).values()
        found = [self.tree.follow(self.module.file, origin) for origin in what]
        if statement in self.module.effects:  # an unused name: only modules of the project can have effects
            found = [one for one in found if one.place and one.place.name is None]
        return tuple(("import", self.referred(one)) for one in found)

    def only_tells(self, function: ast.expr) -> bool:
        """Whether a call only prints, logs or warns."""
        if self.label(function) in ("builtin:print", "external:warnings.warn") or self.prints(function):
            return True
        while isinstance(function, ast.Attribute | ast.Call):
            if self.label(function).startswith("external:logging."):
                return True
            function = function.value if isinstance(function, ast.Attribute) else function.func
        return self.is_logger(function)

    def prints(self, function: ast.expr) -> bool:
        """Whether a call prints by a function of `normbench.system.text`, which print for the whole package."""
        found = self.found(function)
        if found is None or found.place is None or found.rest:
            return False
        return found.place.name in PRINTERS and found.place.file == source_tree.PACKAGE_ROOT / PRINTS

    def is_logger(self, node: ast.expr) -> bool:
        """Whether a top-level name holds the result of `logging.getLogger`."""
        found = self.found(node)
        if found is None or found.place is None or found.place.name is None:
            return False
        module = self.tree.module(found.place.file)
        match module.names[found.place.name]:
            case [ast.Assign(value=ast.Call(func=made)) | ast.AnnAssign(value=ast.Call(func=made))]:
                return Meaning(self.tree, module).label(made) == "external:logging.getLogger"
        return False

    def is_typing(self, node: ast.expr, name: str) -> bool:
        """Whether an expression is the given name of `typing` or `typing_extensions`."""
        return self.label(node) in [prefix + name for prefix in TYPING]

    def decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Dump:
        """Returns the dumps of a definition's decorators, without those that only register it."""
        return tuple(dump for made in node.decorator_list if (dump := self.decorator(made)))

    def decorator(self, made: ast.expr) -> Dump:
        """Returns the dump of one decorator: empty if it only registers, its arguments if they change numbers."""
        called = made.func if isinstance(made, ast.Call) else made
        marks = self.marks(called)
        if not marks:
            return self.node(made)
        if isinstance(made, ast.Call) and "registers_arguments" in marks:
            return "registered", self.value(made.args), self.value(made.keywords)
        return ()

    def is_entered_elsewhere(self, statement: ast.stmt) -> bool:
        """Whether a decorator of the project may keep a definition where it is found by other means than its name.

        Decorators of installed packages are taken to return what they decorate, and those that are marked by
        `REGISTERS` to be looked up by what is in an id.
        """
        for made in getattr(statement, "decorator_list", []):
            called = made.func if isinstance(made, ast.Call) else made
            found = self.found(called)
            if found is not None and found.place is not None and not self.marks(called):
                return True
        return False

    def marks(self, decorator: ast.expr) -> set[str]:
        """Returns the marks in `REGISTERS` that a decorator of the project carries."""
        found = self.found(decorator)
        if found is None or found.rest or found.place is None or found.place.name is None:
            return set()
        module = self.tree.module(found.place.file)
        marked = [
            Meaning(self.tree, module).found(mark)
            for statement in module.names[found.place.name]
            for mark in getattr(statement, "decorator_list", [])
        ]
        return {mark.label for mark in marked if mark is not None and mark.place is not None} & REGISTERS

    # Names

    def lookup(self, name: str) -> str | Imported | None:
        """Returns what a name refers to in the current scopes.

        The result is the name itself if it is a top-level or built-in name, an `Imported` if a function imports it, and
        None if it is local.
        """
        for depth, scope in enumerate(reversed(self.scopes)):
            if name in scope.globals:
                return name
            if name in scope.names and not (scope.of_class and depth):
                return scope.names[name]
        return name

    def found(self, node: ast.expr) -> Found | None:
        """Returns what a name with attributes refers to; None for local names and for other expressions."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        what = self.lookup(node.id) if isinstance(node, ast.Name) else None
        if what is None:
            return None
        if isinstance(what, Imported):
            return self.tree.follow(self.module.file, what, tuple(attributes))
        found = self.tree.find(self.module.file, what, tuple(attributes))
        return found or Found(f"builtin:{what}", rest=tuple(attributes))

    def label(self, node: ast.expr) -> str:
        """Returns the label of an installed or built-in object that an expression names; otherwise an empty string."""
        found = self.found(node)
        return found.label if found and not found.place and not found.rest else ""

    def referred(self, found: Found) -> Dump:
        """Returns the dump of a reference: its label and, for a definition of the project, its index in `places`."""
        dump: Dump = ("reference", found.label)
        if found.place:
            if found.place not in self.places:
                self.places.append(found.place)
            dump = (*dump, str(self.places.index(found.place)))
        for attribute in found.rest:
            dump = ("Attribute", dump, attribute)
        return dump

    @contextmanager
    def scope(self, names: Bound, of_class: bool = False) -> Iterator[Scope]:
        """A context in which names are looked up in one more scope."""
        self.scopes.append(Scope(names, of_class))
        yield self.scopes[-1]
        self.scopes.pop()

    def in_class(self) -> bool:
        """Whether the current statement stands directly in the body of a class."""
        return bool(self.scopes) and self.scopes[-1].of_class

    # Nodes

    def node(self, node: ast.AST) -> Dump:
        """Returns the dump of a syntax node. Methods named `_<type of node>` handle nodes with special rules."""
        special = getattr(self, f"_{type(node).__name__}", None)
        if special:
            return special(node)
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in NOT_MEANT)
        dumps = ((name, self.value(value)) for name, value in fields if value is not None)
        return (type(node).__name__, *((name, dump) for name, dump in dumps if dump != ()))

    def value(self, value: Any) -> Any:
        """Returns the dump of a node's field: of a node, a list of nodes or statements, or a constant."""
        if isinstance(value, ast.AST):
            return self.node(value)
        if isinstance(value, list):
            is_block = bool(value) and isinstance(value[0], ast.stmt)
            return self.block(value) if is_block else tuple(self.value(part) for part in value)
        # Equal on every version of Python: `repr` of a string depends on the version's Unicode tables.
        return type(value).__name__, hex(value) if isinstance(value, int) else ascii(value)

    def _Constant(self, node: ast.Constant) -> Dump:
        return "Constant", self.value(node.value)

    def _JoinedStr(self, node: ast.JoinedStr) -> Dump:
        """Joins adjacent strings inside an f-string, because versions of Python split them in different places."""
        parts: list[Any] = []
        for part in node.values:
            if not isinstance(part, ast.Constant):
                parts.append(self.node(part))
            elif parts and isinstance(parts[-1], str):
                parts[-1] += str(part.value)
            elif part.value:
                parts.append(str(part.value))
        return "JoinedStr", *(self.value(part) if isinstance(part, str) else part for part in parts)

    def _FormattedValue(self, node: ast.FormattedValue) -> Dump:
        spec = self.node(node.format_spec) if node.format_spec else ("JoinedStr",)
        return "FormattedValue", self.node(node.value), str(node.conversion), spec

    def _Name(self, node: ast.Name) -> Dump:
        declared = bool(self.scopes) and node.id in self.scopes[-1].globals
        found = self.found(node) if isinstance(node.ctx, ast.Load) or declared else None
        return self.referred(found) if found else ("Name", node.id)

    def _Attribute(self, node: ast.Attribute) -> Dump:
        found = self.found(node)
        return self.referred(found) if found else ("Attribute", self.node(node.value), node.attr)

    def _Call(self, node: ast.Call) -> Dump:
        if self.is_typing(node.func, "cast") and len(node.args) == 2:
            return self.node(node.args[1])
        return "Call", self.node(node.func), self.value(node.args), self.value(node.keywords)

    def _Raise(self, node: ast.Raise) -> Dump:
        """Keeps only the name of the exception's class, not the text of the error."""
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        match raised:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return "Raise", name
        return ("Raise", self.node(raised)) if raised else ("Raise",)

    def _Assert(self, node: ast.Assert) -> Dump:
        return "Assert", self.node(node.test)

    def _Assign(self, node: ast.Assign) -> Dump:
        return "Assign", self.value(node.targets), self.node(node.value)

    def _AnnAssign(self, node: ast.AnnAssign) -> Dump:
        """Treats an annotated assignment like a plain one; in a class it is a field, whose kind counts too."""
        value = self.node(node.value) if node.value else ()
        if not self.in_class():
            return "Assign", (self.node(node.target),), value
        kind = KINDS_OF_FIELD.match(ast.unparse(node.annotation))
        return "field", kind.group(1) if kind else "", self.node(node.target), value

    def _AugAssign(self, node: ast.AugAssign) -> Dump:
        read = None if self.scopes else self.found(node.target)
        target = self.referred(read) if read else self.node(node.target)
        return "AugAssign", target, self.node(node.op), self.node(node.value)

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Dump:
        outside = self.decorators(node), self.node(node.args)
        with self.scope(_names_of_function(node, node.body)):
            return type(node).__name__, node.name, *outside, self.block(node.body)

    _AsyncFunctionDef = _FunctionDef

    def _Lambda(self, node: ast.Lambda) -> Dump:
        arguments = self.node(node.args)
        with self.scope(_names_of_function(node, [node.body])):
            return "Lambda", arguments, self.node(node.body)

    def _ClassDef(self, node: ast.ClassDef) -> Dump:
        decorators = self.decorators(node)
        parameters = _type_parameters(node)
        with self.scope(parameters) if parameters.names else nullcontext():
            bases = self.value(node.bases), self.value(node.keywords)
        body: list[Any] = []
        with self.scope(parameters), self.scope(Bound(globals=bound(node.body).globals), True) as scope:
            for statement in node.body:
                body += self.statement(statement)
                if not hasattr(statement, "body") or hasattr(statement, "name"):  # a block may leave names unbound
                    scope.names |= bound([statement]).names
        return "ClassDef", node.name, decorators, *bases, tuple(body)

    def _comprehension(self, node: Any) -> Dump:
        """Reads the first iterable in the enclosing scope, and the rest in the scope of the comprehension."""
        first = self.node(node.generators[0].iter)
        with self.scope(bound(generator.target for generator in node.generators)):
            parts = [self.value(getattr(node, name)) for name in ("elt", "key", "value") if hasattr(node, name)]
            for number, generator in enumerate(node.generators):
                parts.append(self.node(generator.target))
                parts.append(self.node(generator.iter) if number else first)
                parts += [self.value(generator.ifs), str(generator.is_async)]
        return type(node).__name__, *parts

    _ListComp = _SetComp = _DictComp = _GeneratorExp = _comprehension


def _names_of_function(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, body: list[Any]) -> Bound:
    arguments = node.args
    names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = bound(body)
    found.names |= {argument.arg: None for argument in names if argument} | _type_parameters(node).names
    return found


def _type_parameters(node: ast.AST) -> Bound:
    return Bound({parameter.name: None for parameter in getattr(node, "type_params", [])})
