"""The mistakes that pydantic finds in a value, in the words of whoever wrote the value."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from normbench.system.errors import hint

Keys = tuple[str | int, ...]

# What must stand where a type is wrong, by pydantic's name of the error.
WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "none_required": "null",
}


def mistakes(error: ValidationError, kind: type[BaseModel], value: Any, called: str | None = None) -> dict[Keys, str]:
    """Returns a message for each place in a value that is wrong.

    kind: the model that refused the value. called: the name, in messages, of what the fields are options of; None for
    keys. Where several types are allowed, and the value has none of them, the message names all.
    """
    found: dict[Keys, list[ErrorDetails]] = {}
    for each in error.errors(include_url=False):
        found.setdefault(_place(each, value), []).append(each)
    # A value that fits one of several types, but for a mistake within it, is not told of the other types.
    said = {}
    for keys, errors in found.items():
        within = any(len(place) > len(keys) and place[: len(keys)] == keys for place in found)
        if within or not all(map(_is_of_type, errors)):
            errors = [each for each in errors if not _is_of_type(each)]
        if errors:
            said[keys] = _said(errors, keys, kind, value, called)
    return said


def _place(error: ErrorDetails, value: Any) -> Keys:
    """The keys to the place of an error, without the names that pydantic adds for the branch of a union."""
    keys: list[str | int] = []
    *above, last = error["loc"] or ("",)
    for key in above:
        if _has(value, key):
            keys.append(key)
            value = value[key]
    if error["loc"] and (error["type"] == "missing" or _has(value, last)):
        keys.append(last)
    return tuple(keys)


def _has(value: Any, key: str | int) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _is_of_type(error: ErrorDetails) -> bool:
    """Whether an error says that a value is of none of the types or choices that are allowed."""
    return error["type"] == "literal_error" or error["type"] in WANTED


def _said(errors: list[ErrorDetails], keys: Keys, kind: type[BaseModel], value: Any, called: str | None) -> str:
    choices = [each for each in errors if each["type"] == "literal_error"]
    annotation = _annotation(kind, keys, frozenset(map(str, errors[0]["loc"])))
    if choices and len(choices) == len(errors):
        return f"not valid; {hint(choices[0]['input'], _literals(annotation))}"
    wanted = dict.fromkeys(f"`{name}`" for name in (_literals(annotation) if choices else ()))
    wanted |= dict.fromkeys(WANTED[each["type"]] for each in errors if each["type"] in WANTED)
    if wanted:
        if any(part is type(None) for part in _alternatives(annotation)):
            wanted["null"] = None
        wanted.pop("`null`", None)
        return f"must be {' or '.join(wanted)}{_advice(wanted, errors[0]['input'])}"
    return _constraint(errors[0], keys, kind, called)


def _advice(wanted: dict[str, None], given: Any) -> str:
    """What to do about a value that is only written in the wrong way."""
    if "text" in wanted and given is not None and not isinstance(given, str | list | dict):
        return ": write it in quotes"
    if isinstance(given, str) and not {"text", "true or false"} & set(wanted):
        try:
            float(given)
        except ValueError:
            return ""
        return ": write it without quotes" if {"a number", "a whole number"} & set(wanted) else ""
    return ""


def _constraint(error: ErrorDetails, keys: Keys, kind: type[BaseModel], called: str | None) -> str:
    """The message of an error that is not about the type of a value."""
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = fields(kind, keys[:-1], frozenset(map(str, error["loc"])))
            return f"unknown {f'option of {called}' if called else 'key'}; {hint(keys[-1], known)}"
        case "missing":
            return f"missing; {called} needs it" if called else "missing"
        case "greater_than":
            return f"must be greater than {context['gt']}"
        case "greater_than_equal":
            return f"must be greater than or equal to {context['ge']}"
        case "less_than":
            return f"must be less than {context['lt']}"
        case "less_than_equal":
            return f"must be less than or equal to {context['le']}"
        case "finite_number":
            return "must be a finite number"
        case "too_short":
            return f"must have at least {_counted(context['min_length'])}"
        case "too_long":
            return f"must have at most {_counted(context['max_length'])}"
        case "string_too_short":
            return f"must have at least {context['min_length']} characters"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.replace("Input should be", "must be").replace("a valid ", "a ")
    return " ".join((text[:1].lower() + text[1:]).split())


def _counted(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _annotation(kind: Any, keys: Keys, tags: frozenset[str] = frozenset()) -> Any:
    """The annotation of a place in a model; None if the model has no such place. tags: see `_alternatives`."""
    for key in keys:
        parts = _alternatives(kind, tags)
        kind = next((part for part in parts if _is_model(part) or get_origin(part) in (dict, list)), None)
        if _is_model(kind):
            if key not in kind.model_fields:
                return None
            kind = kind.model_fields[str(key)].annotation
        elif kind is not None:
            kind = get_args(kind)[-1]
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _alternatives(kind: Any, tags: frozenset[str] = frozenset()) -> Iterator[Any]:
    """The types that an annotation allows, without constraints: those of a union, or the one that it is.

    tags: the names of the branches that pydantic has chosen in unions of tagged types; without any, all are allowed.
    """
    if get_origin(kind) is Annotated:
        tag = next((each.tag for each in get_args(kind)[1:] if isinstance(each, Tag)), None)
        if tag is None or not tags or tag in tags:
            yield from _alternatives(get_args(kind)[0], tags)
    elif get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _alternatives(part, tags)
    else:
        yield kind


def fields(kind: Any, keys: Keys, tags: frozenset[str] = frozenset()) -> list[str]:
    """Returns the valid keys at a place in a model. tags: see `_alternatives`."""
    found = next((part for part in _alternatives(_annotation(kind, keys, tags), tags) if _is_model(part)), None)
    return [] if found is None else list(found.model_fields)


def _literals(annotation: Any) -> list[str]:
    """The values of the `Literal`s in an annotation, and `null` where it may be None, as they are written in YAML."""
    found: list[str] = []
    for part in _alternatives(annotation):
        if part is type(None):
            found.append("null")
        elif get_origin(part) is Literal:
            found += [str(value) for value in get_args(part)]
    return found
