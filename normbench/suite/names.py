"""The names that params.yaml may use, with options and defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

from normbench.corruptions import NAMES
from normbench.data.sources import registry as sources
from normbench.evaluation.registry import scores
from normbench.methods import registry as methods
from normbench.models import registry as models

REQUIRED = "(required)"


def names() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns by section each name with its options and their defaults; `REQUIRED` marks an option without one."""
    return {
        "methods": {name: of_dataclass(methods.method_class(name)) for name in methods.names()},
        "models": {name: models.get(name).options() for name in models.names("classifier")},
        "GAN models": {name: models.get(name).options() for name in models.names("gan")},
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


def of_dataclass(kind: type) -> dict[str, Any]:
    """Returns the fields of a dataclass with their defaults."""
    return {
        field.name: REQUIRED if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }
