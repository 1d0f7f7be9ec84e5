"""What the files of a run of unknown origin hold, compared with its record: everything that can be computed again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from normbench.data import intact
from normbench.gan import trainer
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import code, generation
from normbench.runs.contents import GENERATOR, PREDICTIONS, SAMPLES, WEIGHTS
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.training import classifier

_told: set[str] = set()


def check(record: Record, folder: Path, path: Path) -> None:
    """Raises UserError, which names `path` and the file, if a file of a run is not what its record describes.

    The state of the network is compared with the network that the record describes, if its code is here and the same;
    otherwise a line on stderr says that it is not. The clean accuracy is computed again if the dataset lies prepared
    here. The files can be read without risk (see `normbench.runs.archive`).
    """
    problem = next(_problems(record, folder), None)
    if problem is not None:
        raise UserError(f"{path}: {problem}")


def _problems(record: Record, folder: Path) -> Iterator[str]:
    name = WEIGHTS if record.kind is Kind.CLASSIFICATION else GENERATOR
    for problem in _state_problems(record, torch.load(folder / name, weights_only=True, map_location="cpu")):
        yield f"{name}: {problem}"
    if PREDICTIONS in record.files:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as arrays:
            for problem in _predictions_problems(record, arrays["predicted"]):
                yield f"{PREDICTIONS}: {problem}"
    if SAMPLES in record.files:
        for problem in _samples_problems(record, folder / SAMPLES):
            yield f"{SAMPLES}: {problem}"


def _state_problems(record: Record, state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields how the state of a network differs from that of the network which the record describes."""
    for key, value in state.items():
        held = value.numel() * value.element_size()
        plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
        # A tensor with a stride of 0 can have any number of values in a small file.
        if not isinstance(key, str) or not plain or held > value.untyped_storage().nbytes():
            yield f"{_shown(key)} is no plain tensor"
            return
    if record.finished:
        for key, value in state.items():
            if not value.isfinite().all():
                yield f"{_shown(key)} has values that are not finite, but the run did not diverge"
    why = code.unusable(record.described_run())
    built = None if why is not None else _built(record)
    if isinstance(built, str):
        why = built
    if why is not None or built is None or isinstance(built, str):
        _tell(f"{record.provenance.variant.name} on {record.provenance.task.name}: weights not compared: {why}")
        return
    stored, counted = built
    expected = stored.state_dict()
    for key in [*expected, *(key for key in state if key not in expected)]:
        if key not in state:
            yield f"lacks {key}, which the network of the record has"
        elif key not in expected:
            yield f"has {_shown(key)}, which the network of the record does not have"
        elif state[key].shape != expected[key].shape or state[key].dtype != expected[key].dtype:
            yield f"{key} is {_type(state[key])}, in the network of the record {_type(expected[key])}"
    parameters = sum(each.numel() for each in counted.parameters() if each.requires_grad)
    if parameters != record.cost.parameters:
        yield f"its network has {parameters} trained parameters, the record says {record.cost.parameters}"


def _built(record: Record) -> tuple[nn.Module, nn.Module] | str:
    """Returns the network whose state the run stores and the one whose parameters its record counts; or a reason.

    They have no values, unless the method needs some to initialize them.
    """
    problem = "its network cannot be built here"
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng([]), torch.device(device):
                return _networks(record)
        except Exception as error:  # a model and a method may raise anything
            problem = f"its network cannot be built here ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return problem


def _networks(record: Record) -> tuple[nn.Module, nn.Module]:
    origin = record.provenance
    method = methods.build(origin.variant.method, origin.variant.options)
    if isinstance(origin.task, GanTask):
        model = models.get(origin.task.model, "gan")
        return trainer.networks(origin.task, model, method, origin.dataset, record.seed)
    network = classifier.network(
        origin.task, models.get(origin.task.model, "classifier"), method, origin.dataset, record.seed
    )
    return network, network


def _predictions_problems(record: Record, predicted: np.ndarray) -> Iterator[str]:
    bound, accuracy = record.provenance.dataset, record.metrics["clean_accuracy"]
    if predicted.shape != (bound.test,):
        yield f"has {' x '.join(map(str, predicted.shape))} predictions, the dataset has {bound.test} test images"
        return
    if predicted.min() < 0 or predicted.max() >= bound.classes:
        yield f"has classes from {predicted.min()} to {predicted.max()}, the dataset has {bound.classes} classes"
    labels = test_labels(bound.fingerprint)
    if labels is not None:
        found = float((predicted == labels).mean())
        if found != accuracy:
            yield f"gives a clean accuracy of {found:.6g}, the record says {accuracy:.6g}"
    elif abs(accuracy * bound.test - round(accuracy * bound.test)) > 1e-6:
        yield f"metrics.clean_accuracy is {accuracy!r}, which no number of {bound.test} images gives"


def _samples_problems(record: Record, path: Path) -> Iterator[str]:
    bound = record.provenance.dataset
    side, mode = generation.grid_side(bound.image_size), "RGB" if bound.channels == 3 else "L"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size != (side, side) or image.mode != mode:
                yield f"is {image.size[0]} x {image.size[1]} {image.mode}, must be {side} x {side} {mode}"
            else:
                image.load()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        yield "is no PNG that can be read"


def test_labels(fingerprint: str) -> np.ndarray | None:
    """Returns the test labels of the dataset with this fingerprint if it lies prepared here, undamaged."""
    for meta in sorted(layout.DATA.glob("*/meta.json")):
        try:
            if files.read_json(meta)["fingerprint"] == fingerprint:
                intact.check(meta.parent, fingerprint)
                return np.load(meta.parent / "test_labels.npy", allow_pickle=False)
        except (OSError, ValueError, TypeError, KeyError, UserError):
            continue  # Whoever reads this dataset says what is wrong with it.
    return None


def _type(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"


def _shown(key: Any) -> str:
    text = str(key)
    return text if text.isprintable() else ascii(text)


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        print(text, file=sys.stderr, flush=True)
