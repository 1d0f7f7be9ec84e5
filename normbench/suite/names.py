"""The names that params.yaml may use, with options and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normbench.corruptions import NAMES
from normbench.data.sources import registry as sources
from normbench.evaluation.registry import scores
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system.errors import UserError
from normbench.system.text import complain

REQUIRED = "(required)"


def names() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns by section each name with its options and their defaults; `REQUIRED` marks an option without one.

    Methods and models of the user's own are those in my_methods/ and my_models/.
    """
    references = (*models.names(), *of_folder(models.OWN, models.own))
    networks = {name: models.get(name) for name in references}
    return {
        "methods": {
            name: of_dataclass(methods.method_class(name))
            for name in (*methods.names(), *of_folder(methods.OWN, methods.own))
        },
        "models": {name: model.options() for name, model in networks.items() if model.kind == "classifier"},
        "segmentation models": {name: model.options() for name, model in networks.items() if model.kind == "segmenter"},
        "GAN models": {name: model.options() for name, model in networks.items() if model.kind == "gan"},
        "dataset sources": {name: of_dataclass(sources.source_class(name)) for name in sources.names()},
        "corruptions": {name: {} for name in NAMES},
        "scores": {
            score.name: {
                name: REQUIRED if info.is_required() else info.default
                for name, info in score.settings.model_fields.items()
            }
            for score in scores()
        },
    }


def of_folder(folder: Path, own: Callable[[Path], list[str]]) -> list[str]:
    """Returns references to what the files in a folder of the user's own define, apart from tests.

    A file that cannot be imported is named on stderr.
    """
    found: list[str] = []
    for file in sorted(folder.glob("*.py")):
        if file.name.startswith("test_"):
            continue
        try:
            found += own(file)
        except UserError as error:
            complain(*error.args)
    return found


def of_dataclass(kind: type) -> dict[str, Any]:
    """Returns the fields of a dataclass with their defaults."""
    return {
        field.name: REQUIRED if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }
