"""The corrupted copies of a dataset's test images as files, in the layout of CIFAR-10-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL
import PIL.features

from normbench.corruptions import check_names, corrupt
from normbench.corruptions.constants import SEVERITIES
from normbench.errors import UserError
from normbench.files import atomic_folder, read_json, sha256, write_json
from normbench.progress import Progress

IMAGES = 1000  # images in memory at a time


def write_corrupted(source: Path, target: Path, names: list[str], severities: list[int], seed: int) -> None:
    """Corrupts the test images of the prepared dataset `source` into the folder `target`, all of it or nothing.

    For each name `<name>.npy`, uint8 (S * N, H, W, C), one block of N images in test order for each of the S ascending
    severities; `labels.npy`, the labels as often (uint8; int64 above 255 classes); `meta.json`: names, severities,
    seed, source_fingerprint, the sha256 of each file and the versions that its bytes depend on. UserError where a name
    or severity is not valid.
    """
    check_names(names)
    if not severities or list(severities) != [level for level in SEVERITIES if level in severities]:
        raise UserError(f"severities {severities}: valid: some of 1, 2, 3, 4, 5, ascending")
    images = np.load(source / "test_images.npy", mmap_mode="r")
    labels = np.load(source / "test_labels.npy")
    dataset: dict[str, Any] = read_json(source / "meta.json")
    count = len(images)
    rows = len(severities) * count
    hashes: dict[str, str] = {}
    with atomic_folder(target) as folder, Progress(f"corrupt {source.name}", total=len(names) * rows) as progress:
        for position, name in enumerate(names):
            out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (rows, *images.shape[1:]))
            for block, severity in enumerate(severities):
                for start in range(0, count, IMAGES):
                    index = np.arange(start, min(start + IMAGES, count))
                    out[block * count + index] = corrupt(images[index], name, severity, seed, index)
                    progress.update(position * rows + block * count + int(index[-1]) + 1, f"{name} {severity}")
            out.flush()
            hashes[name] = sha256(folder / f"{name}.npy")
        label_type = np.int64 if dataset["classes"] > 255 else np.uint8
        np.save(folder / "labels.npy", np.tile(labels.astype(label_type), len(severities)))
        meta = {
            "names": list(names),
            "severities": list(severities),
            "seed": seed,
            "source_fingerprint": dataset["fingerprint"],
            "sha256": hashes,
            "versions": versions(),
        }
        write_json(folder / "meta.json", meta)
        progress.close(f"{len(names)} corruptions, {len(severities)} severities, {count} images")


def versions() -> dict[str, str | None]:
    """The versions of what draws, and of what codes JPEG."""
    return {
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": PIL.features.version("libjpeg_turbo"),
    }
