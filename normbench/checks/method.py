"""What the class of a method must be, checked without building a network: its hooks, its options and its file."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from torch import Tensor, nn

from normbench.methods.base import START, Between, ConvSpec, Method, Role
from normbench.methods.plain import PlainMethod, installed_version
from normbench.system import blame
from normbench.system.errors import hint, nearest
from normbench.system.schema import SCALARS, Strict, is_expressible

# Each hook with the call that models and training make, as text and as arguments.
ROLE = Role("body")
HOOKS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "conv": ("conv(self, spec)", (ConvSpec(4, 4, 3, ROLE),), {}),
    "norm": ("norm(self, channels, *, role)", (4,), {"role": ROLE}),
    "activation": ("activation(self, channels, *, role)", (4,), {"role": ROLE}),
    "linear": ("linear(self, in_features, out_features, *, role)", (4, 4), {"role": ROLE}),
    "initialize": ("initialize(self, model)", (None,), {}),
    "penalty": ("penalty(self, model, moment)", (None, START), {}),
    "param_groups": ("param_groups(self, model, lr, weight_decay)", (None, 0.1, 0.0), {}),
}
MOST_TUNABLE = 2  # options, so that the search is as large for every method
ALIKE = 0.7  # similarity from which a name counts as a misspelt hook


def problems(kind: type[Method]) -> list[str]:
    """One line for each mistake in the class of a method, with its file and line; an empty list if there is none.

    The classes between it and those of normbench are checked with it. Of a plain class of layers only the file is.
    """
    if issubclass(kind, PlainMethod):
        found = [] if installed_version(kind) else [*_file(kind)]
        return found or [*_values(kind)]
    own = [each for each in kind.__mro__ if issubclass(each, Method) and _is_checked(each, kind)]
    found = [line for each in own for line in (*_file(each), *_options(each))]
    found += [*_hooks(kind, own), *_tunable(kind)]
    return list(dict.fromkeys(found or [*_values(kind)]))


def _is_checked(each: type, kind: type) -> bool:
    return each is kind or not each.__module__.startswith("normbench.")


def _at(thing: Any, kind: type) -> str:
    return blame.definition(thing) or blame.definition(kind) or kind.__name__


def _tunable(kind: type[Method]) -> Iterator[str]:
    """Yields the mistakes in what `normbench tune` is to choose."""
    where = _assigned(_body(kind), "tunable", _file_of(kind)) if "tunable" in vars(kind) else _at(kind, kind)
    values = kind.tunable
    if not isinstance(values, Mapping) or len(values) > MOST_TUNABLE:
        yield f"{where}: {kind.__name__}.tunable must be a dictionary with at most {MOST_TUNABLE} options"
        return
    options = [field.name for field in dataclasses.fields(kind)]
    for name, among in values.items():
        what = f"{where}: {kind.__name__}.tunable: {name}"
        if name not in options:
            yield f"{what} is no option; {hint(name, options)}"
        elif isinstance(among, Between):
            if not (among.low < among.high and (among.low > 0 or not among.log)):
                yield f"{what} is between {among.low} and {among.high}; expected low < high, and low > 0 with log=True"
        elif not isinstance(among, tuple) or len(set(among)) < 2:
            yield f"{what} is {described(among)}; expected Between(low, high) or a tuple of choices"


# --- hooks -----------------------------------------------------------------------------------------------------------


def _hooks(kind: type[Method], own: list[type]) -> Iterator[str]:
    """Yields the mistakes in the hooks: none or a misspelt one, no function, or other arguments than are given."""
    overridden = {hook for hook in HOOKS if _static(kind, hook) is not _static(Method, hook)}
    here = {hook for hook in HOOKS for each in own if hook in vars(each)}
    public = {name: value for each in own for name, value in vars(each).items() if _is_public_function(name, value)}
    misspelt = [
        (name, hook)
        for name in public
        if name not in HOOKS and not _is_used(name, own)
        for hook in difflib.get_close_matches(name.lower(), sorted(set(HOOKS) - here), n=1, cutoff=ALIKE)
    ]
    for name, hook in misspelt:
        message = f"{kind.__name__}.{name} is no hook of a method, so it is never called; did you mean '{hook}'?"
        yield f"{_at(public[name], kind)}: {message}"
    if not overridden and not misspelt:
        others = [name for name in public if not _is_used(name, own)]
        name, hook = next(((name, near) for name in others if (near := nearest(name, HOOKS))), ("", ""))
        hint = f"; {name} is none: did you mean '{hook}'?" if name else f"; a hook is one of {', '.join(HOOKS)}"
        yield f"{_at(kind, kind)}: {kind.__name__} overrides no hook, so it would train plain batch norm{hint}"
    for hook in sorted(overridden - set(kind.__dataclass_fields__)):
        problem = _signature(kind, hook)
        if problem:
            yield problem


def _signature(kind: type[Method], hook: str) -> str | None:
    expected, args, keywords = HOOKS[hook]
    value = _static(kind, hook)
    where = _at(value, kind)
    if isinstance(value, staticmethod):
        function, args = value.__func__, args
    elif isinstance(value, classmethod):
        function, args = value.__func__, (kind, *args)
    elif inspect.isfunction(value):
        function, args = value, (kind, *args)
    elif isinstance(value, functools.partialmethod):
        function, args = value.func, (kind, *value.args, *args)
        keywords = {**value.keywords, **keywords}
    else:
        what = "a property" if isinstance(value, property) else described(value)
        where = where if isinstance(value, property) else _assigned(_body(kind), hook, _file_of(kind))
        return f"{where}: {kind.__name__}.{hook} is {what}; expected a function {expected}"
    try:
        inspect.signature(function).bind(*args, **keywords)
    except TypeError as error:
        given = f"{hook}{inspect.signature(function)}"
        return f"{where}: {kind.__name__}.{given} cannot be called as normbench does ({error}); expected {expected}"
    return None


def _static(kind: type, name: str) -> Any:
    return inspect.getattr_static(kind, name)


def _is_public_function(name: str, value: Any) -> bool:
    function = isinstance(value, staticmethod | classmethod | functools.partialmethod) or inspect.isroutine(value)
    return function and not name.startswith("_")


def _is_used(name: str, kinds: list[type]) -> bool:
    """Whether the file of one of the classes uses a name as an attribute, as in `self.name(...)`."""
    trees = [tree for kind in kinds if (tree := _tree(kind)) is not None]
    return any(isinstance(node, ast.Attribute) and node.attr == name for tree in trees for node in ast.walk(tree))


# --- the file --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _tree(kind: type) -> ast.Module | None:
    try:
        return _parsed(inspect.getsource(sys.modules[kind.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return None


def _body(kind: type) -> ast.ClassDef | None:
    """The definition of a class in the syntax of its file."""
    tree = _tree(kind)
    return (
        next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__), None) if tree else None
    )


def _file_of(kind: type) -> str:
    return blame.shown(inspect.getsourcefile(kind) or kind.__module__)


def _file(kind: type) -> Iterator[str]:
    """Yields definitions that replace earlier ones, and parameters that are made when the file is imported."""
    tree = _tree(kind)
    module = sys.modules.get(kind.__module__)
    if tree is None or module is None:
        return
    bodies: list[tuple[str, list[ast.stmt]]] = [("", tree.body)]
    bodies += [
        (f"{node.name}.", node.body)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    file = _file_of(kind)
    for prefix, body in bodies:
        seen: dict[str, int] = {}
        for node in body:
            if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and not node.decorator_list):
                if node.name in seen:
                    message = f"{prefix}{node.name} is defined in line {seen[node.name]} too; only this one counts"
                    yield f"{file}:{node.lineno}: {message}"
                seen[node.name] = node.lineno
    for name, value in vars(module).items():
        if _is_learned(value):
            message = f"{name} is made once, when the file is imported, so that all layers share it"
            yield f"{_assigned(tree, name, file)}: {message}; make it in a layer"


def _is_learned(value: Any) -> bool:
    """Whether a value can be trained: a parameter, another leaf tensor with a gradient, or a module with parameters."""
    if isinstance(value, nn.Module):
        return any(True for _ in (*value.parameters(), *value.buffers()))
    return isinstance(value, Tensor) and value.requires_grad


def _assigned(tree: ast.Module | ast.ClassDef | None, name: str, file: str) -> str:
    """The place of the first assignment to a name in a module or class."""
    for node in tree.body if tree is not None else ():
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(part, ast.Name) and part.id == name for target in targets for part in ast.walk(target)):
            return f"{file}:{node.lineno}"
    return file


# --- options ---------------------------------------------------------------------------------------------------------


def _options(kind: type[Method]) -> Iterator[str]:
    """Yields mistakes in the options that a class defines itself."""
    body, file = _body(kind), _file_of(kind)

    def line(name: str, message: str) -> str:
        return f"{_assigned(body, name, file)}: {kind.__name__}.{name}{message}"

    annotated = inspect.get_annotations(kind)
    for name, value in vars(kind).items():
        constant = name.startswith("_") or name.upper() == name or name in annotated or name == "tunable"
        if _is_learned(value):
            yield line(name, " is made once for the class, so that all layers share it; make it in a layer")
        elif not constant and (isinstance(value, (*SCALARS, list, dict, set, tuple, Tensor))):
            yield line(
                name, f" = {value!r:.40} has no type, so it is no option; write `{name}: {_type_of(value)} = ...`"
            )
    if "__dataclass_fields__" not in vars(kind):
        if annotated:
            message = (
                f"has options ({', '.join(annotated)}) but is no dataclass; write @dataclass(frozen=True) above it"
            )
            yield f"{_at(kind, kind)}: {kind.__name__} {message}"
        return
    try:
        hints = get_type_hints(kind, include_extras=True)
    except Exception as error:  # An annotation may be any expression.
        yield f"{_at(kind, kind)}: a type of an option of {kind.__name__} cannot be read: {blame.one_line(error)}"
        return
    for field in dataclasses.fields(kind):
        if field.name not in annotated or not field.init:
            continue
        if field.name in HOOKS:
            yield line(field.name, f" is an option with the name of the hook {field.name}; rename it")
        elif field.name.startswith("_") or field.name == "model_config":
            yield line(field.name, " cannot be the name of an option; rename it")
        elif not is_expressible(hints[field.name]):
            allowed = "an option is a bool, int, float, str, a Literal, or a list or dict of these"
            yield line(field.name, f": {_named(hints[field.name])} cannot be given in params.yaml; {allowed}")
        else:
            wrong = _default_problem(hints[field.name], field)
            if wrong:
                yield line(field.name, f" = {field.default!r:.40} as default: {wrong}")


def _default_problem(hint: Any, field: dataclasses.Field) -> str | None:
    """What is wrong with the default of an option, or None."""
    from pydantic import TypeAdapter, ValidationError

    if field.default is dataclasses.MISSING:
        return None
    try:
        TypeAdapter(hint, config=Strict.model_config).validate_python(field.default)
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        return text[0].lower() + text[1:]
    if isinstance(field.default, float) and field.default - field.default != 0:
        return "must be finite"
    return None


def _values(kind: type[Method]) -> Iterator[str]:
    """Yields what keeps a method with its default options from being made, if every option has a default."""
    if any(f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(kind) if f.init):
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            kind()
    except Exception as error:  # __post_init__ is the user's.
        where = blame.place(error) or _at(kind, kind)
        yield f"{where}: {kind.__name__} cannot be made with its defaults: {blame.one_line(error)}"


def _type_of(value: Any) -> str:
    return "float" if value is None or isinstance(value, Tensor) else type(value).__name__


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def described(value: Any) -> str:
    """A value in a message: `None`, `the class X`, `the text 'a'`, `a Tensor of shape (3,)`."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', value)}"
    return f"{value!r:.60}" if isinstance(value, SCALARS) else f"a {type(value).__name__}"
