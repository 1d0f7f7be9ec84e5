"""Finds the source class, and its options, for the `source` of a dataset in params.yaml."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

from normbench.data.sources.base import TABLE, Source
from normbench.system import plugins


def names() -> list[str]:
    """The names of all sources of the package."""
    return TABLE.names()


def source_class(reference: str) -> type[Source]:
    """The class of a name, `path/to/file.py:name` or `package.module:name`. Raises UserError where there is none."""
    return TABLE.get(reference)


def source_file(reference: str) -> Path:
    """The file that defines a source. Raises UserError if there is no such source."""
    place, colon, _ = reference.partition(":")
    return plugins.source_file(place) if colon else Path(inspect.getfile(source_class(reference)))


def options(kind: type[Source]) -> list[str]:
    """The names of the options of a source class."""
    return [field.name for field in dataclasses.fields(kind)]


def required_options(kind: type[Source]) -> list[str]:
    """The names of the options that every dataset of a source class must give."""
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def builtin_datasets() -> list[str]:
    """The sources that need nothing from params.yaml, so that they are datasets without an entry under `datasets`."""
    kinds = {name: source_class(name) for name in names()}
    return [name for name, kind in kinds.items() if not required_options(kind) and not kind.needs_image_size]
