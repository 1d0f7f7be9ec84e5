"""`normbench corrupt`: corrupted test images in the official layout of CIFAR-10-C, for use outside the pipeline."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from normbench.corruptions import check, registry
from normbench.corruptions.constants import SETS
from normbench.corruptions.files import check_choice, constants_for, maker, versions, write_arrays
from normbench.corruptions.operators import Bytes
from normbench.system import layout, npy
from normbench.system.arrays import as_images, as_labels, map_npy, read_npz
from normbench.system.errors import UserError, hint
from normbench.system.files import atomic, read_json, sha256, sync, write_json
from normbench.system.progress import Progress
from normbench.system.scratch import discard, is_temporary, left_behind, scratch

ENGINES = ("normbench", "imagecorruptions")
NEEDED = ("test_images", "test_labels")


def export(
    dataset: str,
    out: Path,
    names: list[str],
    severities: list[int],
    seed: int = 0,
    engine: str = "normbench",
    constants: str = "auto",
    workers: int | None = None,
) -> None:
    """Writes `<name>.npy`, uint8 (S * N, H, W, C), lowest severity first, and `labels.npy` into the folder `out`.

    dataset: a name in build/data, an .npz with test_images and test_labels, or a folder with these as .npy, as
    `normbench.system.arrays` reads them. A file appears only when it is complete, and `meta.json` holds its sha256.
    Files that `out` already has with the same settings are kept; that of a corruption of the user's own is made again
    if its code has changed. The other arguments are those of `write_corrupted`. Raises UserError for anything that is
    not valid.
    """
    chosen = check_choice(names, severities, engine)
    if engine not in ENGINES:
        raise UserError(f"unknown engine '{engine}': {hint(engine, ENGINES)}")
    if constants not in ("auto", *SETS):
        raise UserError(f"unknown constants '{constants}': {hint(constants, ['auto', *SETS])}")
    if workers is not None and workers < 1:
        raise UserError(f"workers: {workers}: needs 1 or more")
    images, labels = _read(dataset, out)
    settings: dict[str, Any] = {
        "engine": engine,
        "constants": constants_for(engine, constants, *images.shape[1:3]),
        "seed": seed,
        "severities": list(severities),
        "images": _fingerprint(images, labels),
        "versions": versions(engine),
    }
    own = registry.own(chosen)
    hashes, known = _finished(out, settings)
    hashes = {name: value for name, value in hashes.items() if name not in chosen or known.get(name) == own.get(name)}
    own = {name: value for name, value in known.items() if name in hashes} | own
    missing = [name for name in chosen if name not in hashes]
    title, rows = f"corrupt {Path(dataset).stem}", len(severities) * len(images)
    out.mkdir(parents=True, exist_ok=True)

    def note() -> None:
        write_json(out / "meta.json", {**settings, "sha256": hashes} | ({"own": own} if own else {}))

    if not hashes:
        note()
    with atomic(out / "labels.npy") as path:
        kind = np.uint8 if labels.max(initial=0) <= 255 and labels.min(initial=0) >= 0 else np.int64
        npy.save(path, np.tile(labels.astype(kind), len(severities)))
    for left in left_behind(out):
        discard(left)
    whole = {chosen[name]: name for name in missing}
    with scratch(out / "arrays") as folder, Progress(title, total=max(1, len(missing) * rows)) as progress:
        partial = {chosen[name]: folder / f"{name}.npy" for name in missing}
        make = maker(images, seed, engine, settings["constants"])
        arrays = write_arrays(partial, severities, len(images), images.shape[1:], make, progress, workers)
        with closing(arrays) as done:
            for reference in done:
                sync(partial[reference])
                hashes[whole[reference]] = sha256(partial[reference])
                partial[reference].replace(out / f"{whole[reference]}.npy")
                note()
        kept = f", {len(chosen) - len(missing)} were there" if len(missing) < len(chosen) else ""
        progress.close(f"{len(missing)} corruptions{kept}, {len(severities)} severities, {len(images)} images")


def _read(dataset: str, out: Path) -> tuple[Bytes, np.ndarray]:
    """Returns the test images, uint8 (N, H, W, C), and labels, int64 (N,), of a dataset.

    out: the folder to write, which must not lie in that of the dataset. Raises UserError for anything that is not
    valid.
    """
    path = Path(dataset)
    places = [folder for folder in (layout.DATA / dataset, path) if (folder / "test_images.npy").is_file()]
    if places:
        if out.resolve().is_relative_to(places[0].resolve()):
            raise UserError(f"{out}: is in the folder of the dataset, {places[0]}: choose another folder")
        arrays = {name: map_npy(places[0] / f"{name}.npy") for name in NEEDED}
    elif path.is_file():
        arrays = read_npz(path, NEEDED)
    else:
        folders = layout.DATA.iterdir() if layout.DATA.is_dir() else ()
        known = ", ".join(sorted(folder.name for folder in folders if (folder / "test_images.npy").is_file()))
        raise UserError(
            f"{dataset}: no prepared dataset ({layout.DATA} has {known or 'none'}), "
            "no .npz and no folder with test_images.npy"
        )
    images = as_images(arrays["test_images"], f"{dataset}: test_images")
    labels = as_labels(arrays["test_labels"], len(images), f"{dataset}: test_labels", "test_images")
    try:
        check(images[:1], "contrast", 1, 0, None)
    except UserError as error:
        raise UserError(f"{dataset}: test_images: {error}") from None
    return images, labels


def _fingerprint(images: Bytes, labels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{images.shape}".encode())
    for array in (images, labels.astype("<i8")):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _finished(out: Path, settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns the sha256 of each file in `out`, and the notes on the user's own corruptions; both empty at first.

    Raises UserError if `out` holds anything that was not made with these settings.
    """
    path = out / "meta.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    if not path.is_file():
        if out.is_dir() and not all(map(is_temporary, out.iterdir())):
            raise UserError(f"{out}: not empty, and without meta.json: choose another folder")
        return {}, {}
    try:
        meta = read_json(path)
        hashes, own = dict(meta["sha256"]), dict(meta.get("own", {}))
    except (KeyError, TypeError, ValueError, UserError):
        raise UserError(f"{path}: not of `normbench corrupt`: choose another folder") from None
    for key, value in settings.items():
        if meta.get(key) != value:
            raise UserError(f"{out}: made with other {key}: {meta.get(key)}, now {value}: choose another folder")
    return {name: value for name, value in hashes.items() if (out / f"{name}.npy").is_file()}, own
