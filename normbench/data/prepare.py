"""Prepares a dataset: writes a folder with the arrays from its source and a meta.json that describes them.

A prepared dataset is a folder with `train_images.npy`, `test_images.npy` (uint8, N x H x W x C, C 1 or 3),
`train_labels.npy`, `test_labels.npy` (int64, N, counted from 0 without gaps) and `meta.json`: name, source, classes,
class_names (list or null), channels, image_size (one number for a square, or height and width), train, test (numbers of
images), mean, std (for each channel, pixels in 0..1), origin, sha256 (of the source's archive, null where there is
none), fingerprint (see `normbench.data.arrays.fingerprint`), files (the sha256 of each file, by array) and note. Where
training images stay in their files, it has an index of these (see `normbench.data.stream`), and `stream` in meta.json.

A dataset of segmentation has `train_masks.npy` and `test_masks.npy` (uint8, N x H x W; see `normbench.data.masks`) in
the place of the labels, and `masks` in its meta.json (see `normbench.data.bound.Masks`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from normbench.data import arrays, masks
from normbench.data.sources import registry
from normbench.data.sources.base import ADDED_KEYS, COMMON_KEYS, Origin, Request, Sliced
from normbench.system import blame, files
from normbench.system.arrays import by
from normbench.system.progress import Progress
from normbench.system.size import sides, size_of
from normbench.system.text import say


def prepare(spec: dict[str, Any], out: Path) -> None:
    """Writes the dataset that `spec` describes into the folder `out`, which exists.

    spec: a resolved dataset of params.yaml, with the keys of COMMON_KEYS and ADDED_KEYS and the options of its source.
    Raises UserError if the source is not available or its content is not as expected.
    """
    kind = registry.source_class(spec["source"])
    source = kind(**{key: value for key, value in spec.items() if key not in (*COMMON_KEYS, *ADDED_KEYS)})
    given = spec["image_size"] or kind.native_size
    request = Request(spec["name"], size_of(*given) if isinstance(given, list | tuple) else given)
    origin = source.write(request, out)
    if not isinstance(origin, Origin):
        where = blame.definition(vars(kind).get("write")) or spec["source"]
        raise request.error(f"{where}: write returned a {type(origin).__name__}; expected an Origin")
    stream = origin.stream
    names = arrays.STREAMED if stream is not None else arrays.MASKED if kind.has_masks else arrays.ARRAYS
    stored = {name: np.load(out / f"{name}.npy", mmap_mode="r") for name in names}
    if kind.has_masks:
        masks.check(stored, origin.class_names or [], request)
    elif stream is None:
        for name, array in arrays.checked(stored, f"dataset '{request.dataset}'").items():
            if (array.shape, array.dtype) != (stored[name].shape, stored[name].dtype):
                wrote, needed = (f"{each.dtype} {by(each.shape)}" for each in (stored[name], array))
                raise request.error(f"the source wrote {name} as {wrote}, but {needed} is needed")
    images: Sliced = stored["train_images"] if stream is None else stream.images
    count, height, width, channels = images.shape
    if request.image_size is not None and sides(request.image_size) != (height, width):
        asked = by(sides(request.image_size))
        raise request.error(f"the source wrote images of {height} x {width} pixels, {asked} were asked for")
    classes = len(origin.class_names or []) if kind.has_masks else int(stored["train_labels"].max()) + 1
    if origin.class_names is not None and len(origin.class_names) != classes:
        raise request.error(f"the source names {len(origin.class_names)} classes, the labels have {classes}")
    mean, std = statistics(images, spec["mean"], spec["std"], request)
    meta = {
        "name": spec["name"],
        "source": spec["source"],
        "classes": classes,
        "class_names": origin.class_names,
        "channels": channels,
        "image_size": size_of(height, width),
        "train": count,
        "test": len(stored["test_images"]),
        "mean": mean,
        "std": std,
        "origin": origin.text,
        "sha256": origin.sha256,
        "fingerprint": arrays.fingerprint(stored, None if stream is None else stream.content),
        "files": {name: files.sha256(out / f"{name}.npy") for name in names},
        "note": "; ".join([*([spec["note"]] if spec["note"] else []), *origin.notes]) or None,
    }
    if stream is not None:
        meta["stream"] = stream.settings
    if kind.has_masks:
        meta["masks"] = {"ignored": masks.IGNORED, "names": origin.class_names}
    if origin.test_files is not None:
        facts = {"files": origin.test_files, "background": origin.background}
        files.write_json(out / arrays.TEST_FILES, facts)
    for note in origin.notes:
        say(f"{request.dataset}: {note}")
    files.write_json(out / "meta.json", meta)


def statistics(
    images: Sliced, mean: list[float] | None, std: list[float] | None, request: Request
) -> tuple[list[float], list[float]]:
    """The mean and the population standard deviation of each channel, with pixels in 0..1.

    images: uint8 (N, H, W, C), an array or what gives slices as one does. mean, std: C numbers each to return
    unchanged, or None to measure them on the images. They are computed from a histogram of the 256 values, so they do
    not depend on the order of summation. Raises UserError if there are not C numbers, or if a measured standard
    deviation is zero.
    """
    channels = images.shape[-1]
    for key, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != channels:
            raise request.error(f"{key} has {len(given)} values, the images have {channels} channels")
    if mean is not None and std is not None:
        return list(mean), list(std)
    counts = np.zeros((channels, 256), np.int64)
    with Progress(f"mean of {request.dataset}", total=len(images)) as progress:
        rows = arrays.at_a_time(images[:1])
        for start in range(0, len(images), rows):
            batch = images[start : start + rows]
            for channel in range(channels):
                counts[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
            progress.update(start + len(batch), f"{start + len(batch)} of {len(images)}")
    weights, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    measured_mean = weights @ values
    measured_std = np.sqrt((weights * (values - measured_mean[:, None]) ** 2).sum(1))
    if std is None and not measured_std.all():
        usable = ", ".join(f"{value:.4g}" if value else "1.0" for value in measured_std)
        raise request.error(
            "a channel of the training images has one value only, by whose deviation 0 they cannot be divided;"
            f" in params.yaml put beside `source`: std: [{usable}]"
        )
    return list(mean or measured_mean.tolist()), list(std or measured_std.tolist())
