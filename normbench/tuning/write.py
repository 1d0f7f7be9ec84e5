"""Writes tuned values into params.yaml; its comments and everything else in it stay as they are."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.util import load_yaml_guess_indent

from normbench.runs.variant import Tuned
from normbench.suite.document import Document
from normbench.system import files
from normbench.system.errors import UserError

WIDTH = 10**6  # no line is broken that was not before


class WithNull(RoundTripRepresenter):
    """Writes `null`, where ruamel.yaml writes nothing."""


WithNull.add_representer(type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null"))


def write(path: Path, found: dict[tuple[str, str], Tuned]) -> None:
    """Writes tuned values by variant and task, atomically. Raises UserError if that would change anything else."""
    text = files.read_text(path)
    _, indent, offset = load_yaml_guess_indent(text)
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, WIDTH
    if indent is not None:
        yaml.indent(mapping=2, sequence=indent, offset=offset or 0)
    if re.search(r": null\b", text):
        yaml.Representer = WithNull
    content = yaml.load(text)
    expected = Document(path).value
    for (variant, task), tuned in found.items():
        value = {key: each for key, each in tuned.json_value().items() if key != "options" or each}
        entry = content["variants"][variant]
        entry.setdefault("tuned", CommentedMap())[task] = flow(value)
        expected["variants"][variant].setdefault("tuned", {})[task] = value
    stream = io.StringIO()
    yaml.dump(content, stream)
    with files.atomic(path) as temporary:
        files.put(temporary, stream.getvalue().encode())
        if Document(temporary).value != expected:
            lines = ", ".join(f"{variant} on {task}: {tuned.json_value()}" for (variant, task), tuned in found.items())
            raise UserError(f"{path}: cannot be edited without changing something else; add by hand: {lines}")


def flow(value: dict[str, Any]) -> CommentedMap:
    """A mapping on one line."""
    found = CommentedMap({key: flow(each) if isinstance(each, dict) else each for key, each in value.items()})
    found.fa.set_flow_style()
    return found
