"""The base class of all values that are read from params.yaml or JSON: strictly typed and immutable."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.size import size_of

MOST = 2**31 - 1  # of a count: what every kernel and format takes as the size of something
LARGEST = 3e38  # of a number: about the largest float32

Positive = Annotated[int, Field(gt=0, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Threads = Annotated[int, Field(gt=0, le=256)]
PositiveReal = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegativeReal = Annotated[float, Field(ge=0, le=LARGEST)]
Precision = Literal["float32", "tf32", "bfloat16"]
MemoryFormat = Literal["channels_last", "contiguous"]
# Of images, in pixels: one number for a square, or height and width (see `normbench.system.size`). JSON has a list.
ImageSize = Annotated[
    Positive | tuple[Positive, Positive],
    BeforeValidator(lambda value: size_of(*value) if isinstance(value, list) and len(value) == 2 else value),
]
Share = Annotated[float, Field(ge=0, lt=1)]

SCALARS = (bool, int, float, str, type(None))

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """A value whose keys and types are checked when it is created.

    Unknown keys are an error, and no type is converted.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls: type[Model], path: Path) -> Model:
        """Returns the value in a JSON file.

        Raises FileNotFoundError if there is no file, and UserError, with the file and the key, if it cannot be read or
        is not valid.
        """
        try:
            content = files.read_bytes(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        if not _finite(content):
            raise UserError(f"{path}: holds a number that is not finite")
        try:
            return cls.model_validate_json(content, context=path)  # for what lies beside the file
        except ValidationError as error:
            raise UserError(f"{path}: {first_problem(error)}") from None

    def write(self, path: Path) -> None:
        """Writes the value as JSON, atomically. Equal values give equal files."""
        files.write_json(path, self.json_value())

    def json_value(self) -> Any:
        """Returns the value as plain dictionaries, lists, numbers and strings."""
        return self.model_dump(mode="json")


def is_expressible(hint: Any) -> bool:
    """Whether a value of a type can be written in YAML and read strictly: numbers, text, lists and dicts of such."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return is_expressible(args[0])
    if origin is Literal:
        return all(type(value) in SCALARS for value in args)
    if origin in (Union, types.UnionType, list):
        return all(map(is_expressible, args))
    if origin is dict:
        return args[0] is str and is_expressible(args[1])
    return hint in (*SCALARS, list, dict, None, Any)


def first_problem(error: ValidationError) -> str:
    """Returns the first problem that pydantic found, in one line: the key, with those above it, and what is wrong."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    key = ".".join(part if part.isprintable() else ascii(part) for part in parts)
    return f"{f'{key}: ' if key else ''}{first['msg'].removeprefix('Value error, ')}"


def _finite(content: bytes) -> bool:
    """Whether all numbers in a JSON text are finite: where a field may hold anything, pydantic takes NaN and infinity.

    True if it is no JSON, of which pydantic says more.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
