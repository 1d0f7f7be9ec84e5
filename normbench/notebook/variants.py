"""The methods of a comparison, as a notebook gives them: names, references, classes and objects, with options."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from normbench.checks.method import described, problems
from normbench.methods import registry
from normbench.methods.base import Method
from normbench.methods.plain import PlainMethod, adapted
from normbench.notebook.surroundings import about
from normbench.runs.variant import Variant
from normbench.suite import code
from normbench.suite.file import check_options, typed_options
from normbench.system import blame, files, plugins
from normbench.system.errors import UserError

BUILT_IN = "normbench.methods."
NEEDED = "a name, a reference, a class, a Method, or a pair of one of the first three and its options"


@dataclass(frozen=True)
class Compared:
    """A variant and its method. own: whether it is none of normbench's methods, which its tests have tried."""

    variant: Variant
    method: Method
    own: bool


def compared(methods: Any) -> list[Compared]:
    """The variants that are compared, in their order. methods: see `normbench.compare`.

    Raises UserError for what is no method, and for options that are not valid.
    """
    if isinstance(methods, str | tuple | type | Method) or not isinstance(methods, Iterable):
        raise UserError(f"methods: {described(methods)}: a list is needed")
    named = methods.items() if isinstance(methods, Mapping) else ((None, given) for given in methods)
    found: dict[str, Compared] = {}
    for name, given in named:
        with about("methods"):
            each = _compared(given, name)
            if each.variant.name in found:
                raise UserError(f"two are called {each.variant.name!r}; give names, {{name: method, ...}}")
        found[each.variant.name] = each
    if not found:
        raise UserError("methods: the list is empty")
    return list(found.values())


def _compared(given: Any, name: Any) -> Compared:
    if isinstance(given, Method):
        kind, method, options = type(given), given, _changed(given)
        reference = _reference(_written(kind))
    else:
        named, options = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        if isinstance(named, Method) or not isinstance(options, Mapping):
            raise UserError(f"{described(given)}: {NEEDED} is needed")
        kind, reference = _class(named)
        with about(kind.__name__):
            # Of a file of code the whole is checked. A class may stand among all that a session has.
            mistakes = problems(kind) if isinstance(named, str) and plugins.is_place(named) else []
            if mistakes:
                raise UserError(*mistakes)
            method = _built(kind, dict(options))
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    try:
        files.hash_of(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind.__name__}: its options are not numbers, texts or lists: {error}") from None
    own = reference is None or plugins.is_place(reference)
    base = kind.__name__ if reference is None or own else reference
    label = f"{base}({', '.join(f'{key}={value}' for key, value in options.items())})" if options else base
    variant = Variant(
        name=label if name is None else str(name),
        method=reference or f"{kind.__module__}:{kind.__qualname__}",
        options=values,
        method_code=_text_hash(_written(kind)) if reference is None else code.method(reference),
    )
    return Compared(variant, method, own)


def _class(named: Any) -> tuple[type[Method], str | None]:
    """The class of a method and its name or reference; None for a class that only this session has."""
    if isinstance(named, str):
        with about(repr(named)):
            return registry.method_class(named), named
    if not isinstance(named, type) or not issubclass(named, Method | nn.Module):
        advice = f"give the class, {type(named).__name__}" if isinstance(named, nn.Module) else f"{NEEDED} is needed"
        raise UserError(f"{described(named)}: is no method; {advice}")
    reference = _reference(named)
    with about(named.__name__):
        if reference is not None:
            return registry.method_class(reference), reference
        layer: Any = named  # The cache of `adapted` takes what has a hash, which mypy doubts of classes of modules.
        return named if issubclass(named, Method) else adapted(layer), None


def _written(kind: type) -> type:
    """The class that somebody has written, of which a method may have been made."""
    return kind.layer if issubclass(kind, PlainMethod) else kind


def _reference(kind: type) -> str | None:
    """The name of a method of normbench, or the reference of a class; None if no other process could import it."""
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or getattr(module, kind.__qualname__, None) is not kind:
        return None
    name = kind.__module__.removeprefix(BUILT_IN)
    return name if name in registry.names() else f"{kind.__module__}:{kind.__qualname__}"


def _built(kind: type[Method], options: dict[str, Any]) -> Method:
    """A method with these options. Raises UserError, with one line for each, for mistakes in them."""
    wrong = check_options(kind, options)
    if wrong:
        given = {key: f" = {value!r}" for key, value in options.items()}
        raise UserError(*(f"{key}{given.get(key, '')}: {text}" for key, text in wrong))
    try:
        return kind(**typed_options(kind, options))
    except Exception as error:  # __post_init__ may be anybody's.
        raise UserError(str(error) if isinstance(error, ValueError) else blame.one_line(error)) from None


def _changed(method: Method) -> dict[str, Any]:
    """The options of a method object that differ from their defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(method)}
    return {name: getattr(method, name) for name, default in fields.items() if getattr(method, name) != default}


def _text_hash(kind: type) -> str:
    """The hash of the name of a class and, as far as the session keeps them, of the texts of its functions."""
    texts = {}
    for name, value in vars(kind).items():
        with contextlib.suppress(OSError, TypeError):
            texts[name] = inspect.getsource(value) if inspect.isfunction(value) else ""
    return files.hash_of([kind.__module__, kind.__qualname__, texts])
