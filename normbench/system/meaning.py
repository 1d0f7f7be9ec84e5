"""What statements mean: their syntax without all that changes no number, and the definitions that they refer to.

Left out are comments, docstrings, annotations, what is printed or logged, and the words of errors. The same source
gives the same on every version of Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

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

Dump = tuple[Any, ...]  # of texts and of further ones
NOT_MEANT = {"ctx", "type_comment", "type_params", "kind", "returns", "annotation"}
REGISTERS = {"registers", "registers_arguments"}  # marks of decorators that only register (`normbench.system.plugins`)
TYPING = ("external:typing.", "external:typing_extensions.")
KINDS_OF_FIELD = re.compile(r"""['"]?(?:\w+\.)*(ClassVar|InitVar|KW_ONLY)\b""")
WITHOUT_EFFECT = (
    *(ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)


class Scope(Bound):
    """The names of a function, a comprehension or, as `of_class`, of the body of a class so far."""

    def __init__(self, names: Bound, of_class: bool = False):
        super().__init__(names.names, names.globals)
        self.of_class = of_class


class Meaning:
    """Reads statements of a module. `places` are the definitions that those read so far refer to, each once."""

    def __init__(self, tree: Tree, module: Module):
        self.tree, self.module = tree, module
        self.places: list[Place] = []
        self.scopes: list[Scope] = []

    def block(self, statements: Iterable[ast.stmt]) -> Dump:
        return tuple(part for statement in statements for part in self.statement(statement))

    def statement(self, statement: ast.stmt) -> Dump:
        """One dump, or none where the statement changes no number."""
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
        """In a function nothing, as the uses of a name say what it is; elsewhere what is imported."""
        if self.scopes and not self.in_class():
            return ()
        if isinstance(statement, ast.ImportFrom) and is_star(statement):
            return (("import", "*", self.referred(self.tree.follow(self.module.file, source(statement)))),)
        whole = {alias.name: Imported(0, tuple(alias.name.split("."))) for alias in statement.names}
        what = whole.values() if isinstance(statement, ast.Import) else dict(imported(statement)).values()
        found = [self.tree.follow(self.module.file, origin) for origin in what]
        if statement in self.module.effects:  # no one uses the name: of that, modules of the project have effects
            found = [one for one in found if one.place and one.place.name is None]
        return tuple(("import", self.referred(one)) for one in found)

    def only_tells(self, function: ast.expr) -> bool:
        """Whether a call prints, logs or warns."""
        if self.label(function) in ("builtin:print", "external:warnings.warn"):
            return True
        while isinstance(function, ast.Attribute | ast.Call):
            if self.label(function).startswith("external:logging."):
                return True
            function = function.value if isinstance(function, ast.Attribute) else function.func
        return self.is_logger(function)

    def is_logger(self, node: ast.expr) -> bool:
        """Whether a name of a module is what `logging.getLogger` gave."""
        found = self.found(node)
        if found is None or found.place is None or found.place.name is None:
            return False
        module = self.tree.module(found.place.file)
        match module.names[found.place.name]:
            case [ast.Assign(value=ast.Call(func=made)) | ast.AnnAssign(value=ast.Call(func=made))]:
                return Meaning(self.tree, module).label(made) == "external:logging.getLogger"
        return False

    def is_typing(self, node: ast.expr, name: str) -> bool:
        return self.label(node) in [prefix + name for prefix in TYPING]

    def decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Dump:
        """The decorators of a definition, without those that only put it into a table."""
        return tuple(dump for made in node.decorator_list if (dump := self.decorator(made)))

    def decorator(self, made: ast.expr) -> Dump:
        called = made.func if isinstance(made, ast.Call) else made
        marks = self.marks(called)
        if not marks:
            return self.node(made)
        if isinstance(made, ast.Call) and "registers_arguments" in marks:
            return "registered", self.value(made.args), self.value(made.keywords)
        return ()

    def marks(self, decorator: ast.expr) -> set[str]:
        """Those of `REGISTERS` that a decorator of the project is itself marked with."""
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
        """The name where it is one of the module or built in; what it is imported as in a function; else None."""
        for depth, scope in enumerate(reversed(self.scopes)):
            if name in scope.globals:
                return name
            if name in scope.names and not (scope.of_class and depth):
                return scope.names[name]
        return name

    def found(self, node: ast.expr) -> Found | None:
        """Where a name with attributes leads; None for local ones and for other expressions."""
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
        """Of what an expression names outside of the project; else an empty text."""
        found = self.found(node)
        return found.label if found and not found.place and not found.rest else ""

    def referred(self, found: Found) -> Dump:
        """A reference: a label and, into the project, the number of the definition among `places`."""
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
        self.scopes.append(Scope(names, of_class))
        yield self.scopes[-1]
        self.scopes.pop()

    def in_class(self) -> bool:
        return bool(self.scopes) and self.scopes[-1].of_class

    # Nodes

    def node(self, node: ast.AST) -> Dump:
        special = getattr(self, f"_{type(node).__name__}", None)
        if special:
            return special(node)
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in NOT_MEANT)
        dumps = ((name, self.value(value)) for name, value in fields if value is not None)
        return (type(node).__name__, *((name, dump) for name, dump in dumps if dump != ()))

    def value(self, value: Any) -> Any:
        if isinstance(value, ast.AST):
            return self.node(value)
        if isinstance(value, list):
            is_block = bool(value) and isinstance(value[0], ast.stmt)
            return self.block(value) if is_block else tuple(self.value(part) for part in value)
        # Of equal numbers and texts, the same on every version: `repr` of a text depends on its table of Unicode.
        return type(value).__name__, hex(value) if isinstance(value, int) else ascii(value)

    def _Constant(self, node: ast.Constant) -> Dump:
        return "Constant", self.value(node.value)

    def _JoinedStr(self, node: ast.JoinedStr) -> Dump:
        """Texts in it are joined, as versions split them in different places."""
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
        """The class alone, and that by its name."""
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
        """As an assignment; in a class, where it makes a field, with the kind of that."""
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
                if not hasattr(statement, "body") or hasattr(statement, "name"):  # else it may leave names unbound
                    scope.names |= bound([statement]).names
        return "ClassDef", node.name, decorators, *bases, tuple(body)

    def _comprehension(self, node: Any) -> Dump:
        """The first iterable belongs to the scope around it."""
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
