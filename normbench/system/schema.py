"""The base class of all values that are read from params.yaml or JSON: strictly typed and immutable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.size import Size, size_of

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeReal = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["channels_last", "contiguous"]
# Of images, in pixels: one number for a square, or height and width (see `normbench.system.size`). JSON has a list.
ImageSize = Annotated[Size, BeforeValidator(lambda value: size_of(*value) if isinstance(value, list) else value)]
Share = Annotated[float, Field(ge=0, lt=1)]

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """A value whose keys and types are checked when it is created.

    Unknown keys are an error, and no type is converted.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls: type[Model], path: Path) -> Model:
        """Returns the value in a JSON file. Raises UserError, with the file and the key, if it is not valid."""
        content = path.read_bytes()
        try:
            value = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}: {f'{key}: ' if key else ''}{first['msg'].removeprefix('Value error, ')}"
            ) from None
        try:  # Where a field may hold anything, pydantic takes NaN and infinity, which are no JSON.
            json.dumps(json.loads(content), allow_nan=False)
        except ValueError:
            raise UserError(f"{path}: holds a number that is not finite") from None
        return value

    def write(self, path: Path) -> None:
        """Writes the value as JSON, atomically. Equal values give equal files."""
        files.write_json(path, self.json_value())

    def json_value(self) -> Any:
        """Returns the value as plain dictionaries, lists, numbers and strings."""
        return self.model_dump(mode="json")
