"""What the runs gave for each test example: the values that comparisons pair."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from normbench.corruptions.constants import GROUPS
from normbench.runs.record import Record
from normbench.runs.run import SCORED_IN
from normbench.system import arrays, layout
from normbench.system.errors import UserError

ATTACKS = ("attack_fgsm", "attack_pgd", "attack_pgd_long", "auto_attack")
Known = dict[tuple[str, str, int], "Predictions | str"]  # (task, variant, seed) -> predictions, or why there are none
FIDS = ("fid", "inception_fid")  # of whole runs
IOUS = ("mean_iou", "corruption_mean_iou")  # of whole runs
PIXELS = ("pixel_accuracy", "corruption_pixel_accuracy")  # of images, as the fraction of their pixels
NAMES = ("clean_accuracy", "corruption_accuracy", *(f"corruption_{group}" for group in GROUPS), *ATTACKS, *FIDS)
NAMES += (*IOUS, *PIXELS)
PROVEN = ("pgd", "lipschitz", "curvature")  # the shares at a radius of the score `certificates`
CERTIFICATES = tuple(f"certificate_{name}" for name in ("index", *PROVEN))


def certified(name: str, radius: float) -> str:
    """Returns the measure of a share of `PROVEN` at a radius, such as `certified_lipschitz_0.5`."""
    return f"certified_{name}_{radius:.6g}"


@dataclass(frozen=True)
class Predictions:
    """The predicted classes of a run, and the labels of all test images.

    clean: (images,). index: the images that were scored with corruptions. corrupted: (names, severities, index).
    attacked: the attacked images. attacks: name -> (attacked,), or fewer, the first ones.
    kept: measure -> for each image with a certificate, whether it keeps its right class within a radius.
    """

    labels: np.ndarray
    clean: np.ndarray
    names: list[str]
    index: np.ndarray
    corrupted: np.ndarray
    attacked: np.ndarray
    attacks: dict[str, np.ndarray]
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, found: dict[str, np.ndarray], labels: np.ndarray, radii: Sequence[float] = ()) -> Predictions:
        """Returns those of a predictions file. Raises ValueError if it does not fit the labels.

        radii: those of the score `certificates`.
        """
        index, clean, corrupted = found["index"], found["clean"], found["corrupted"]
        attacks = {name: found[name] for name in ATTACKS if name in found}
        attacked = found.get("attack_index", np.zeros(0, np.int32))
        lists = {"names": found["names"], "severities": found["severities"], "index": index, "attack_index": attacked}
        for name, each in (lists | attacks).items():
            if each.ndim != 1:
                raise ValueError(f"{name} is no list, but of shape {each.shape}")
        shapes = (len(found["names"]), len(found["severities"]), len(index))
        if clean.shape != labels.shape or corrupted.shape != shapes:
            raise ValueError(f"predictions of shapes {clean.shape} and {corrupted.shape} for {labels.shape} labels")
        for name, chosen in {"index": index, "attack_index": attacked}.items():
            if chosen.dtype.kind not in "iu" or not np.isin(chosen, np.arange(len(labels))).all():
                raise ValueError(f"{name} has other numbers than those of {len(labels)} images")
        if any(len(each) > len(attacked) for each in attacks.values()):
            raise ValueError("more predictions under attack than attacked images")
        kept = _kept(found, labels, radii) if "certificate_index" in found else {}
        return cls(labels, clean, found["names"].tolist(), index, corrupted, attacked, attacks, kept)

    def outcomes(self) -> dict[str, np.ndarray]:
        """Returns measure -> a value for each of its examples: 1 if right, 0 if wrong, or the mean over corruptions."""
        right = self.corrupted == self.labels[self.index]
        found = {"clean_accuracy": self.clean == self.labels}
        if len(self.names):
            found["corruption_accuracy"] = right.mean((0, 1))
        for group, members in GROUPS.items():
            chosen = [place for place, name in enumerate(self.names) if name in members]
            if chosen:
                found[f"corruption_{group}"] = right[chosen].mean((0, 1))
        for name, predicted in self.attacks.items():
            found[name] = predicted == self.labels[self.attacked[: len(predicted)]]
        found |= self.kept
        return {name: np.asarray(values, float) for name, values in found.items()}


def _kept(found: dict[str, np.ndarray], labels: np.ndarray, radii: Sequence[float]) -> dict[str, np.ndarray]:
    """Returns `Predictions.kept`. Raises ValueError if the arrays do not fit the radii or each other."""
    index = found["certificate_index"]
    if index.ndim != 1 or not np.isin(index, np.arange(len(labels))).all():
        raise ValueError(f"certificate_index is no list of numbers of {len(labels)} images")
    kept = {}
    for name in PROVEN:
        if f"certificate_{name}" not in found:
            continue
        values = found[f"certificate_{name}"]
        shape = (len(radii), len(index)) if name == "pgd" else (len(index),)
        if values.shape != shape:
            raise ValueError(
                f"certificate_{name} of shape {values.shape} for {len(radii)} radii and {len(index)} images"
            )
        for place, radius in enumerate(radii):
            kept[certified(name, radius)] = np.asarray(
                values[place] == labels[index] if name == "pgd" else values >= radius
            )
    return kept


def read(task: str, variant: str, record: Record) -> Predictions | str:
    """Returns the predictions of a finished classifier, or why there are none."""
    path = SCORED_IN[record.kind] / task / variant / f"{record.seed}.npz"
    names = ("names", "severities", "index", "clean", "corrupted")
    try:
        found = arrays.read_npz(path, names, optional=("attack_index", *ATTACKS, *CERTIFICATES))
        labels = labels_of(record.provenance.dataset.name)
    except UserError as error:
        return str(error)
    try:
        return Predictions.of(found, labels, radii_of(record))
    except ValueError as error:
        return str(UserError(f"{path}: {error}"))


def radii_of(record: Record) -> list[float]:
    """Returns the radii of the score `certificates` of a run; none if it was not measured."""
    return [each["radius"] for each in record.metrics.get("certificates", {"at": []})["at"]]


def of_masks(task: str, variant: str, record: Record) -> dict[str, np.ndarray]:
    """Returns measure -> the values of a finished run of segmentation: of images, or of the whole run.

    The fraction of right pixels is a value of each image; corrupted, the mean over corruptions and severities. Raises
    UserError if the file beside the record cannot be read or is not of this record.
    """
    path = SCORED_IN[record.kind] / task / variant / f"{record.seed}.npz"
    found = arrays.read_npz(path, ("clean", "corrupted", "index"))
    columns = record.metrics.get("columns", {})
    clean, corrupted = found["clean"], found["corrupted"]
    if (
        clean.shape != (record.provenance.dataset.test,)
        or corrupted.ndim != 3
        or corrupted.shape[2:] != found["index"].shape
    ):
        raise UserError(f"{path}: scores of shapes {clean.shape} and {corrupted.shape}")
    values = {name: np.asarray(columns[name], float) for name in IOUS if name in columns}
    values["pixel_accuracy"] = np.asarray(clean, float)
    if corrupted.size:
        values["corruption_pixel_accuracy"] = np.asarray(corrupted, float).mean((0, 1))
    return values


def labels_of(dataset: str) -> np.ndarray:
    """Returns the labels of the test images of a prepared dataset. Raises UserError if they cannot be read."""
    return _labels_in((layout.DATA / dataset / "test_labels.npy").absolute())


@functools.lru_cache(maxsize=8)
def _labels_in(path: Path) -> np.ndarray:
    return np.array(arrays.map_npy(path))
