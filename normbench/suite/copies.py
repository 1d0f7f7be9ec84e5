"""Corrupted test images that are not stored: what is noted of them, and how they are made when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from normbench.corruptions import registry
from normbench.corruptions.files import Maker, check_choice, constants_for, maker, versions
from normbench.corruptions.published import origin_of
from normbench.data.bound import Corrupted
from normbench.data.published_images import matched, published_maker
from normbench.suite import resolved
from normbench.system import files
from normbench.system.errors import UserError


def describe(
    source: Path, target: Path, names: list[str], severities: list[int], seed: int, engine: str, constants: str
) -> None:
    """Writes the meta.json of corrupted images that are computed while networks are evaluated.

    The arguments are those of `normbench.corruptions.files.write_corrupted`, which stores such images. Raises UserError
    if one is not valid.
    """
    chosen = check_choice(names, severities, engine)
    shape = np.load(source / "test_images.npy", mmap_mode="r").shape
    code = resolved.corruption_code()
    origin: dict[str, Any] = {
        "engine": engine,
        "constants": constants_for(engine, constants, *shape[1:3]),
        "seed": seed,
        "published": None,
        "versions": versions(engine),
    }
    own = registry.own(chosen)
    origin |= {"own": own} if own else {}
    _write(source, target, severities, {name: code[name] for name in chosen}, origin)


def describe_published(source: Path, target: Path, names: list[str], severities: list[int], published: Path) -> None:
    """Writes the meta.json of published image files that are read while networks are evaluated.

    Raises UserError if an image is missing.
    """
    chosen = check_choice(names, severities)
    found = matched(source, chosen, severities, published)
    content = resolved.corruptions().get("outside", "")
    digests = {
        name: files.hash_of(
            [content, *(str(path.relative_to(published)) for s in severities for path in found[each, s])]
        )
        for name, each in chosen.items()
    }
    _write(source, target, severities, digests, origin_of(published))


def _write(source: Path, target: Path, severities: list[int], digests: dict[str, str], origin: dict[str, Any]) -> None:
    meta = {
        "names": list(digests),
        "severities": list(severities),
        "source_fingerprint": files.read_json(source / "meta.json")["fingerprint"],
        "sha256": {},
        **origin,
        "computed": digests,
    }
    with files.atomic_folder(target) as folder:
        files.write_json(folder / "meta.json", meta)


def maker_of(corrupted: Corrupted, source: Path) -> Maker | None:
    """Returns the function that makes corrupted images of the prepared dataset `source` by the name of the corruption.

    None if they are stored. Raises UserError if published files are missing.
    """
    if corrupted.computed is None:
        return None
    references = {name: corrupted.own.get(name, {}).get("reference", name) for name in corrupted.names}
    if corrupted.published is not None:
        folder = Path(corrupted.published).expanduser()
        made = published_maker(source, references, corrupted.severities, folder, {})
    else:
        if corrupted.seed is None or corrupted.engine is None or corrupted.constants is None:
            raise UserError(f"{corrupted.path}: does not say how its images are computed; `dvc repro` makes it again")
        images = np.load(source / "test_images.npy", mmap_mode="r")
        made = maker(images, corrupted.seed, corrupted.engine, corrupted.constants)
    return lambda name, severity, index: made(references[name], severity, index)
