"""params.yaml as a file: its validated content, and one error line for each mistake in it.

A line reads `params.yaml:12: tasks.mine.recipe.epochz = 3: unknown key; did you mean 'epochs'?`.
"""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from normbench.suite.schema import Params
from normbench.system.errors import UserError, hint
from normbench.system.schema import Strict


class ParamsFile:
    """A params.yaml: its validated content in `params`, and error lines with file and line number.

    Raises UserError with one line for each mistake in its structure. `problem` makes such lines for mistakes that other
    modules find.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run from the repository's root") from None
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
            raise UserError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
        if not isinstance(self.raw, dict):
            raise UserError(f"{path}: holds no keys; valid: {', '.join(Params.model_fields)}")
        try:
            self.params = Params.model_validate(self.raw)
        except ValidationError as error:
            lines: dict[tuple[str | int, ...], str] = {}  # one for each place, even if several types fail there
            for e in error.errors():
                keys = tuple(key for key in e["loc"] if not _is_branch(key))
                lines.setdefault(keys, self._line(keys, e))
            raise UserError(*lines.values()) from None

    def problem(self, keys: tuple[str | int, ...], message: str) -> str:
        """Returns the error line `params.yaml:12: a.b = value: message`, without the value if the key is missing."""
        dotted = ".".join(str(key) for key in keys)
        value, missing = self.raw, False
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                missing = True
                break
        shown = "" if missing or isinstance(value, dict) else f" = {_short(value)}"
        line = self._line_number(keys)
        return f"{self.path}{f':{line}' if line else ''}: {dotted}{shown}: {message}"

    def _line(self, keys: tuple[str | int, ...], error: ErrorDetails) -> str:
        kind = error["type"]
        if kind == "extra_forbidden":
            return self.problem(keys, f"unknown key; {hint(keys[-1], _fields(keys[:-1]))}")
        if kind == "missing":
            return self.problem(keys, "missing")
        if kind == "literal_error":
            return self.problem(keys, f"not valid; {hint(_at(self.raw, keys), _choices(keys))}")
        return self.problem(keys, _message(error))

    def _line_number(self, keys: tuple[str | int, ...]) -> int | None:
        """Returns the line of the last of the keys that exists.

        The file is parsed with positions here, only when there is a mistake to show.
        """
        node = YAML(typ="rt", pure=True).load(self.path.read_text(encoding="utf-8"))
        line = None
        for key in keys:
            try:
                position = node.lc.item(key) if isinstance(key, int) else node.lc.key(key)
                line, node = position[0] + 1, node[key]
            except (KeyError, IndexError, TypeError, AttributeError):
                break
        return line


def typed_options(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """Valid options (see `check_options`) in the types of their fields: a whole number for a float becomes one."""
    return {name: getattr(_model_of(kind).model_validate(options), name) for name in options}


def _model_of(kind: type) -> type[BaseModel]:
    """The fields of a dataclass as a strict model."""
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    return create_model(kind.__name__, __config__=Strict.model_config, **fields)


def check_options(kind: type, options: dict[str, Any], called: str | None = None) -> list[tuple[str, str]]:
    """Returns the mistakes in options as pairs of an option and a message.

    kind: the dataclass whose fields are the valid options, such as a method. called: its name in messages, by default
    the name of the class.
    """
    called = called or kind.__name__
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    try:
        _model_of(kind).model_validate(options)
    except ValidationError as error:
        return [(str(e["loc"][0]), _option_message(called, fields, options, e)) for e in error.errors()]
    return []


def _default(field: dataclasses.Field) -> Any:
    """Returns the default of a field as pydantic takes it: `...` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def _option_message(called: str, fields: dict[str, Any], options: dict[str, Any], error: ErrorDetails) -> str:
    name = error["loc"][0]
    if error["type"] == "extra_forbidden":
        return f"unknown option of {called}; {hint(name, fields)}"
    if error["type"] == "missing":
        return f"missing; {called} needs it"
    if error["type"] == "literal_error":
        return f"not valid; {hint(options[str(name)], [str(v) for v in get_args(fields[str(name)][0])])}"
    return _message(error)


def _message(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_branch(key: str | int) -> bool:
    """Whether pydantic itself added this part of a location, to name the branch of a union."""
    return isinstance(key, str) and (key.startswith(("literal[", "list[", "constrained-")))


def _part(keys: tuple[str | int, ...]) -> Any:
    """Returns the type at a place in params.yaml, without `None`; None if the schema has no such place."""
    kind: Any = Params
    for key in keys:
        if isinstance(kind, type) and issubclass(kind, Strict):
            if key not in kind.model_fields:
                return None
            kind = kind.model_fields[str(key)].annotation
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        else:
            return None
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if get_origin(kind) in (Union, types.UnionType):
            parts = [part for part in get_args(kind) if part is not type(None)]
            kind = parts[0] if len(parts) == 1 else kind
    return kind


def _fields(keys: tuple[str | int, ...]) -> list[str]:
    """Returns the valid keys at a place in params.yaml."""
    kind = _part(keys)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Strict) else []


def _choices(keys: tuple[str | int, ...]) -> list[str]:
    """Returns the values of a field that has a fixed set of them, as they are written in YAML."""
    above = _part(keys[:-1])
    if not (isinstance(above, type) and issubclass(above, Strict)):
        return []
    return _literals(above.model_fields[str(keys[-1])].annotation)


def _literals(kind: Any) -> list[str]:
    """The values of the `Literal`s in a type, and `null` where it may be None."""
    if kind is type(None):
        return ["null"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for part in get_args(kind) if get_origin(kind) is not Annotated for value in _literals(part)]


def _at(value: Any, keys: tuple[str | int, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value
