"""Published numbers, with their sources: `published.csv` beside this file.

A row is one number. Its columns: `method`, `metric`, `dataset` and `architecture` as the source names them; `protocol`,
what the source says of the training, as `key=value; key=value` with the names of a recipe here, and `option.<name>` for
an option of the method; `epochs`; `value` and `std` (sample standard deviation) in `unit`; `source`; `trust`, the way
of the number into this file; `note`. A cell is empty where the source says nothing.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from normbench.system import files
from normbench.system.errors import UserError, hint
from normbench.system.schema import NotNegativeReal, Positive, Strict, first_problem

PATH = Path(__file__).with_suffix(".csv")
OPTION = "option."  # begins the key of an option of the method in a protocol
SWITCHES = {"true": True, "false": False}
RELATIVE = "mCE"  # the one metric in % that may be above 100

Text = Annotated[str, Field(min_length=1)]
Stated = float | bool | str | list[float]  # what a source says of one key of a recipe


class Fact(Strict):
    """A published number. protocol: see the top of this file."""

    method: Text
    metric: Text
    dataset: Text
    architecture: Text
    protocol: dict[str, Stated]
    epochs: Positive | None
    value: NotNegativeReal
    std: NotNegativeReal | None
    unit: Literal["%", "percentage points", "FID", "s", "h", "spectral norm"]
    source: Text
    trust: Literal["official-repository", "paper-via-replication", "independent-replication", "abstract"]
    note: str

    @model_validator(mode="after")
    def _is_possible(self) -> Fact:
        if self.unit == "%" and self.value > 100 and self.metric != RELATIVE:
            raise ValueError(f"value: {self.value} % is more than all")
        return self

    @property
    def recipe(self) -> dict[str, Stated]:
        """What the source says of the training, by the keys of a recipe, without the epochs."""
        return {key: stated for key, stated in self.protocol.items() if not key.startswith(OPTION)}

    @property
    def options(self) -> dict[str, Stated]:
        """What the source says of the options of the method."""
        return {key.removeprefix(OPTION): each for key, each in self.protocol.items() if key.startswith(OPTION)}


# How the value of a key of a protocol is written; an option of a method is a number.
KEYS: dict[str, type] = (
    dict.fromkeys(("lr", "momentum", "weight_decay", "batch_size", "gamma", "crop_padding"), float)
    | dict.fromkeys(("repeats", "epsilon", "step", "iterations", "discriminator_steps", "beta1", "beta2"), float)
    | dict.fromkeys(("optimizer", "schedule", "adversary"), str)
    | {"milestones": list, "flip": bool}
)


def facts(path: Path = PATH) -> list[Fact]:
    """Returns the published numbers in the order of the file.

    Raises UserError, with the line and the column, if the file holds anything else.
    """
    lines = list(csv.reader(files.read_text(path).splitlines()))
    columns = list(Fact.model_fields)
    if not lines or lines[0] != columns:
        raise UserError(f"{path}:1: must have the columns {', '.join(columns)}")
    return [_fact(f"{path}:{number}", cells, columns) for number, cells in enumerate(lines[1:], 2)]


def _fact(place: str, cells: list[str], columns: list[str]) -> Fact:
    if len(cells) != len(columns):
        raise UserError(f"{place}: has {len(cells)} cells, must have {len(columns)}")
    given: dict[str, Any] = dict(zip(columns, cells, strict=True))
    given["protocol"] = _protocol(place, given["protocol"])
    for column, kind in {"epochs": int, "value": float, "std": float}.items():
        given[column] = None if given[column] == "" else _number(f"{place}: {column}", given[column], kind)
    try:
        return Fact.model_validate(given)
    except ValidationError as error:
        raise UserError(f"{place}: {first_problem(error)}") from None


def _protocol(place: str, text: str) -> dict[str, Stated]:
    found: dict[str, Stated] = {}
    for part in filter(None, text.split("; ")):
        key, _, value = part.partition("=")
        kind = float if key.startswith(OPTION) else KEYS.get(key)
        if kind is None:
            raise UserError(f"{place}: protocol: unknown key '{key}'; {hint(key, KEYS)}")
        if key in found:
            raise UserError(f"{place}: protocol: '{key}' stands here twice")
        found[key] = _stated(f"{place}: protocol: {key}", value, kind)
    return found


def _stated(place: str, text: str, kind: type) -> Stated:
    if kind is bool:
        if text not in SWITCHES:
            raise UserError(f"{place} = '{text}': must be true or false")
        return SWITCHES[text]
    if kind is list:
        return [_number(place, each, float) for each in text.split(" ")]
    return text if kind is str else _number(place, text, float)


def _number(place: str, text: str, kind: type) -> Any:
    try:
        found = kind(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{place} = '{text}': must be a {'whole ' if kind is int else ''}number")
    return found
