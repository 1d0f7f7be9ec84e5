"""params.yaml as a file: its validated content, and one error line for each mistake in it.

A line reads `params.yaml:12: tasks.mine.recipe.epochz = 3: unknown key; did you mean 'epochs'?`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, ValidationError, create_model

from normbench.suite.document import Document, Keys, dotted
from normbench.suite.schema import Params
from normbench.system.errors import UserError
from normbench.system.mistakes import mistakes
from normbench.system.schema import Strict


class ParamsFile:
    """A params.yaml: its validated content in `params`, and error lines with file and line number.

    Raises UserError with one line for each mistake in its structure. `problem` makes such lines for mistakes that other
    modules find.
    """

    def __init__(self, path: Path):
        if not path.exists():
            raise UserError(f"{path}: no such file; run from the repository's root")
        self.path, self.document = path, Document(path)
        try:
            self.params = Params.model_validate(self.document.value)
        except ValidationError as error:
            found = mistakes(error, Params, self.document.value)
            raise UserError(*(self.problem(*each) for each in found.items())) from None

    def problem(self, keys: Keys, message: str) -> str:
        """Returns the error line `params.yaml:12: a.b = value: message`, without the value if the key is missing."""
        return self.document.problem(keys, message)


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
    model = _model_of(kind)
    try:
        model.model_validate(options)
    except ValidationError as error:
        found = mistakes(error, model, options, called or kind.__name__)
        return [(str(keys[0]), f"{dotted(keys[1:])}: {text}" if keys[1:] else text) for keys, text in found.items()]
    return []


def _default(field: dataclasses.Field) -> Any:
    """Returns the default of a field as pydantic takes it: `...` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default
