"""The dataset of a comparison: one of params.yaml, one that needs no options, or arrays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from normbench.checks.method import described
from normbench.corruptions import registry as corruptions
from normbench.corruptions.files import check_choice, write_corrupted
from normbench.data.arrays import ARRAYS, save
from normbench.data.bound import Bound, Corrupted
from normbench.data.prepare import prepare
from normbench.data.sources import registry as sources
from normbench.data.sources.base import COMMON_KEYS, Origin, Request, Source, source
from normbench.notebook.surroundings import downloads_in_cache
from normbench.suite.document import Document
from normbench.suite.file import ParamsFile
from normbench.suite.resolve import Resolver
from normbench.suite.schema import Dataset
from normbench.system import files, layout
from normbench.system.errors import UserError, hint
from normbench.system.schema import first_problem

ARRAYS_NAME = "arrays"  # the name of a dataset of arrays in memory


@source(ARRAYS_NAME)
@dataclass(frozen=True)
class InMemory(Source):
    """The four arrays of a dataset (see `normbench.data.arrays.checked`), by name."""

    arrays: Mapping[str, np.ndarray]

    def write(self, request: Request, out: Path) -> Origin:
        save(self.arrays, request, out)
        return Origin("arrays in memory")


def prepared(dataset: Any, image_size: Any, folder: Path) -> Bound:
    """Prepares a dataset in an empty folder.

    dataset: see `normbench.compare`. image_size: the size to which the images are resized; None for their own. Raises
    UserError for a dataset that is not known or not valid.
    """
    own = isinstance(dataset, str) and dataset in _declared()  # whose downloads are where those of the pipeline are
    spec = _spec(dataset, own)
    if image_size is not None:
        spec["image_size"] = _size(image_size)
    folder.mkdir()
    with contextlib.nullcontext() if own else downloads_in_cache():
        prepare(spec, folder)
    meta = files.read_json(folder / "meta.json")
    return Bound.model_validate({key: meta[key] for key in Bound.model_fields if key in meta} | {"path": str(folder)})


def corrupted(bound: Bound, names: list[str], severities: list[int], seed: int, folder: Path) -> Corrupted:
    """Writes corrupted copies of the test images of a prepared dataset into a folder.

    names: references of corruptions. severities: ascending.
    """
    # In this process: a forked one would lack the threads of a notebook.
    write_corrupted(Path(bound.path), folder, names, severities, seed, workers=1)
    return Corrupted.model_validate({"path": str(folder), **files.read_json(folder / "meta.json")})


def corruption_names(names: Any, severities: Any) -> tuple[list[str], list[int]]:
    """The references of the corruptions that `names` stands for, and the severities, ascending.

    Raises UserError if there is no such corruption or severity.
    """
    chosen = list(corruptions.names()) if names == "all" else [names] if isinstance(names, str) else list(names)
    given = [severities] if isinstance(severities, Integral) else severities
    levels = sorted({int(level) if isinstance(level, Integral) else level for level in given})
    if not chosen:
        raise UserError("corruptions: none is named")
    check_choice(chosen, levels)
    return chosen, levels


def array(values: Any) -> np.ndarray:
    """An array or a tensor on any device as an array; floats of a tensor as float32."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    given = values.detach().cpu()
    return (given.float() if given.is_floating_point() else given).numpy()


def _spec(dataset: Any, own: bool) -> dict[str, Any]:
    """The resolved form of a dataset, as `prepare` takes it."""
    if not isinstance(dataset, str):
        given = _four(dataset)
        return {"name": ARRAYS_NAME, **_common(f"{__name__}:{ARRAYS_NAME}"), "arrays": given}
    if own:
        resolver = Resolver(ParamsFile(layout.PARAMS))
        resolver.dataset(dataset)
        if resolver.problems:
            raise UserError(*resolver.problems)
        if resolver.sources[dataset].has_masks:
            raise UserError(
                f"dataset = {dataset!r}: has masks; here classifiers are compared (see docs/segmentation.md)"
            )
        return resolver.datasets[dataset]
    known = sources.builtin_datasets()
    if dataset not in known:
        raise UserError(f"dataset = {dataset!r}: unknown; {hint(dataset, [*known, *_declared()])}")
    return {"name": dataset, **_common(dataset)}


def _common(name: str) -> dict[str, Any]:
    return dict.fromkeys(COMMON_KEYS) | {"source": name}


def _declared() -> list[str]:
    """The datasets in the params.yaml of the working directory, if it has one; other programs have such files too."""
    try:
        found = Document(layout.PARAMS).value.get("datasets")
    except (OSError, UserError):
        return []
    return [*found] if isinstance(found, dict) else []


def _four(given: Any) -> dict[str, np.ndarray]:
    """Four arrays by their names. Raises UserError for anything else."""
    if isinstance(given, Mapping):
        missing = [name for name in ARRAYS if name not in given]
        if missing:
            raise UserError(f"dataset: has no {missing[0]!r}; {', '.join(ARRAYS)} are needed")
        return {name: array(given[name]) for name in ARRAYS}
    if isinstance(given, tuple | list) and len(given) == len(ARRAYS):
        return dict(zip(ARRAYS, map(array, given), strict=True))
    raise UserError(f"dataset: {described(given)}; a name is needed, or four arrays: {', '.join(ARRAYS)}")


def _size(image_size: Any) -> Any:
    try:
        given = list(image_size) if isinstance(image_size, tuple) else image_size
        return Dataset(source="", image_size=given).image_size
    except ValidationError as error:
        problem = first_problem(error).removeprefix("image_size: ")
        raise UserError(f"image_size = {image_size!r}: {problem}") from None
