"""The stage `look`: digests of the data outside of DVC's view, from which DVC learns whether to run `resolve`.

DVC runs it on every `dvc repro`, so it imports little, and leaves all mistakes in params.yaml to `resolve`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from normbench.data import outside
from normbench.data.sources import registry
from normbench.system import files, layout


def look(path: Path = layout.PARAMS) -> None:
    """Notes the digest of each file and folder that the suite's datasets, corruptions and weights are read from."""
    files.write_json(layout.OUTSIDE, outside.contents(places(path)))


def places(path: Path) -> list[str]:
    """The files and folders that a params.yaml names or its datasets declare to read, as far as it is valid."""
    from ruamel.yaml import YAML

    found = []
    try:
        params = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        declared, published = params.get("datasets") or {}, (params.get("corruptions") or {}).get("source")
        weights = (params.get("gan_evaluation") or {}).get("inception_weights")
        found += [weights] if isinstance(weights, str) else []
        for name in params["suite"]["datasets"]:
            found += of_dataset(declared.get(name, {"source": name}))
            found += of_corruptions(published, name) if published is not None else []
    except Exception:  # `resolve` says what is wrong
        return found
    return found


def of_dataset(entry: dict[str, Any]) -> list[str]:
    """What the source of a dataset declares to read; nothing if the entry is not valid."""
    try:
        kind = registry.source_class(entry["source"])
        source = kind(**{key: entry[key] for key in registry.options(kind) if key in entry})
        return [os.fspath(place) for place in source.reads()]
    except Exception:  # `resolve` says what is wrong
        return []


def of_corruptions(published: str, dataset: str) -> list[str]:
    """The folder of the published corruptions of a dataset. published: `corruptions.source` of params.yaml."""
    return [published.replace("{dataset}", dataset)]
