"""What the files of a run of unknown origin hold, compared with its record: everything that can be computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from normbench.data import intact
from normbench.gan import trainer
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.models.build import uninitialized_gan
from normbench.runs import code, generation
from normbench.runs.contents import DISCRIMINATOR, FILM, GENERATOR, PREDICTIONS, SAMPLES, WEIGHTS
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.segmentation import trainer as segmentation
from normbench.segmentation.confusion import confusion
from normbench.segmentation.protocol import crop_size, protocol
from normbench.segmentation.task import SegmentationTask
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed
from normbench.system.quantities import unprintable
from normbench.system.size import sides
from normbench.system.text import clean, complain
from normbench.training import classifier

EXTRA = "_extra_state"  # the end of the key of a layer's state that is no tensor
MARGIN = 2**20  # bytes

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
    names = [GENERATOR, DISCRIMINATOR] if record.kind is Kind.GAN else [WEIGHTS]
    for place, name in enumerate(name for name in names if name in record.files):
        state = torch.load(folder / name, weights_only=True, map_location="cpu")
        for problem in _state_problems(record, state, place):
            yield f"{name}: {problem}"
    if PREDICTIONS in record.files:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as arrays:
            masks = record.kind is Kind.SEGMENTATION
            for problem in (_mask_problems if masks else _predictions_problems)(record, arrays["predicted"]):
                yield f"{PREDICTIONS}: {problem}"
    image_size = sides(record.provenance.dataset.image_size)[0]
    if SAMPLES in record.files:
        side = generation.grid_side(image_size)
        for problem in _picture_problems(record, folder / SAMPLES, side, side):
            yield f"{SAMPLES}: {problem}"
    if FILM in record.files:
        size = generation.film_size(image_size, len(record.metrics["history"]))
        for problem in _picture_problems(record, folder / FILM, *size):
            yield f"{FILM}: {problem}"


@dataclass(frozen=True)
class Expected:
    """The states of the networks of a run by key, with tensors on the meta device, and the parameters that count."""

    states: list[dict[str, Any]]
    parameters: int


_expected: dict[str, Expected | str] = {}


def _state_problems(record: Record, state: Mapping[str, Any], place: int) -> Iterator[str]:
    """Yields how the state of a network differs from that of the network which the record describes.

    place: of the network among those of its run.
    """
    for key, value in state.items():
        problem = _value_problem(key, value, record.finished)
        if problem is not None:
            yield f"{clean(key)} {problem}"
            return
    size = sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
    why = code.unusable(record.described_run())
    found = why if why is not None else _expectation(record, size)
    if isinstance(found, str):
        _tell(f"{record.provenance.variant.name} on {record.provenance.task.name}: weights not compared: {found}")
        return
    if isinstance(found, int):
        yield f"holds {size} bytes of values, the network of the record {found}"
        return
    expected = found.states[place]
    for key in [*expected, *(key for key in state if key not in expected)]:
        if key not in state:
            yield f"lacks {key}, which the network of the record has"
        elif key not in expected:
            yield f"has {clean(key)}, which the network of the record does not have"
        elif _type(state[key]) != _type(expected[key]):
            yield f"{key} is {_type(state[key])}, in the network of the record {_type(expected[key])}"
    if found.parameters != record.cost.parameters:
        yield f"its network has {found.parameters} trained parameters, the record says {record.cost.parameters}"


def _value_problem(key: Any, value: Any, finite: bool) -> str | None:
    """Returns why a value cannot be part of a network's state, or None. finite: whether its numbers must be finite."""
    if isinstance(key, str) and key.endswith(EXTRA) and isinstance(value, dict):
        plain = all(isinstance(name, str) and type(each) in (bool, int, float, str) for name, each in value.items())
        return None if plain and unprintable(value) is None else "is no plain dictionary"
    if not isinstance(key, str) or not isinstance(value, Tensor):
        return "is no plain tensor"
    held = value.numel() * value.element_size()
    plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
    # A tensor with a stride of 0 can have any number of values in a small file.
    if not plain or held > value.untyped_storage().nbytes():
        return "is no plain tensor"
    return "has values that are not finite, but the run did not diverge" if finite and not _all_finite(value) else None


def _all_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _expectation(record: Record, size: int) -> Expected | str | int:
    """Returns what the states of the networks must be like, or the reason why that is not known here.

    size: the bytes of the first network's state. One that is much larger is not built, and its bytes are returned. The
    networks are built once for all seeds.
    """
    run = record.described_run()
    key = files.hash_of([run.kind, run.task.identity(), run.variant.identity(), record.provenance.dataset.json_value()])
    if key not in _expected:
        try:
            with torch.random.fork_rng([]):
                with FakeTensorMode():  # without values, for its size
                    large = sum(each.nbytes for each in _networks(record, False)[0].parameters())
                if large > 2 * size + MARGIN:
                    return large
                networks = _networks(record, True)
                _see_images(networks[-1], record)
        except Exception as error:  # a model and a method may raise anything
            _expected[key] = f"its network cannot be built here ({type(error).__name__}: {_line(error)})"
        else:
            states = [
                {name: _without_values(value) for name, value in network.state_dict().items()} for network in networks
            ]
            parameters = sum(each.numel() for each in networks[-1].parameters() if each.requires_grad)
            _expected[key] = Expected(states, parameters)
    return _expected[key]


def _networks(record: Record, initialized: bool) -> tuple[nn.Module, ...]:
    """Returns the networks whose states a run stores; its record counts the parameters of the last."""
    origin = record.provenance
    task, bound = origin.task, origin.dataset
    method = methods.build(origin.variant.method, origin.variant.options)
    if isinstance(task, GanTask):
        model, apply_to = models.get(task.model, "gan"), origin.variant.apply_to
        if initialized:
            return trainer.networks(task, model, method, bound, record.seed, apply_to)
        size, latent, classes = bound.image_size, task.recipe.latent, task.classes(bound)
        return uninitialized_gan(model, task.model_options, method, bound.channels, size, latent, classes, apply_to)
    if isinstance(task, SegmentationTask):
        model, classes = models.get(task.model, "segmenter"), protocol(task.recipe, bound).classes
        if initialized:
            return (segmentation.network(task, model, method, bound, record.seed),)
        return (model.function(method, bound.channels, classes, **task.model_options),)
    model = models.get(task.model, "classifier")
    if initialized:
        network = classifier.network(task, model, method, bound, record.seed)
    else:
        network = model.function(method, bound.channels, bound.classes, **task.model_options)
    return (network,)


@torch.no_grad()
def _see_images(network: nn.Module, record: Record) -> None:
    """Makes a forward pass in training: some layers have buffers that take the size of the first images."""
    origin = record.provenance
    bound, task = origin.dataset, origin.task
    size = crop_size(task.recipe, bound) if isinstance(task, SegmentationTask) else bound.image_size
    images = torch.randn(2, bound.channels, *sides(size))
    conditional = isinstance(task, GanTask) and task.classes(bound) is not None
    network.train()(images, *([torch.zeros(2, dtype=torch.long)] if conditional else []))


def _predictions_problems(record: Record, predicted: np.ndarray) -> Iterator[str]:
    bound, accuracy = record.provenance.dataset, record.metrics["clean_accuracy"]
    if predicted.shape != (bound.test,):
        yield f"has {' x '.join(map(str, predicted.shape))} predictions, the dataset has {bound.test} test images"
        return
    if predicted.min() < 0 or predicted.max() >= bound.classes:
        yield f"has classes from {predicted.min()} to {predicted.max()}, the dataset has {bound.classes} classes"
    labels = test_labels(bound.fingerprint) if bound.validation is None else None
    if labels is not None:
        found = float((predicted == labels).mean())
        if found != accuracy:
            yield f"gives a clean accuracy of {found:.6g}, the record says {accuracy:.6g}"
    elif abs(accuracy * bound.test - round(accuracy * bound.test)) > 1e-6:
        yield f"metrics.clean_accuracy is {accuracy!r}, which no number of {bound.test} images gives"


def predicted_shape(record: Record) -> tuple[int, int, int]:
    """Returns the number, the height and the width of the predicted masks of a run of segmentation."""
    bound = record.provenance.dataset
    chosen = protocol(narrowed(record.provenance.task, SegmentationTask, f"run {record.run}: task").recipe, bound)
    return bound.test, chosen.height, chosen.width


def _mask_problems(record: Record, predicted: np.ndarray) -> Iterator[str]:
    bound = record.provenance.dataset
    task = narrowed(record.provenance.task, SegmentationTask, f"run {record.run}: task")
    chosen, wanted = protocol(task.recipe, bound), predicted_shape(record)
    if predicted.shape != wanted:
        yield f"has masks of the shape {predicted.shape}, must be {wanted}"
        return
    if predicted.max() >= chosen.classes:
        yield f"has the class {predicted.max()}, the network has {chosen.classes} classes"
        return
    folder = prepared_folder(bound.fingerprint)
    if folder is None:
        return
    matrix = np.zeros((chosen.classes, chosen.classes), np.int64)
    for truth, found in zip(np.load(folder / "test_masks.npy", mmap_mode="r"), predicted, strict=True):
        matrix += confusion(chosen.masks(truth[None])[0], found, chosen.classes)
    if matrix.tolist() != record.metrics["confusion"]:
        yield "does not give the confusion matrix of the record"


def _picture_problems(record: Record, path: Path, width: int, height: int) -> Iterator[str]:
    mode = "RGB" if record.provenance.dataset.channels == 3 else "L"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size != (width, height) or image.mode != mode:
                yield f"is {image.size[0]} x {image.size[1]} {image.mode}, must be {width} x {height} {mode}"
            else:
                image.load()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        yield "is no PNG that can be read"


def test_labels(fingerprint: str) -> np.ndarray | None:
    """Returns the test labels of the dataset with this fingerprint if it lies prepared here, undamaged."""
    folder = prepared_folder(fingerprint)
    return None if folder is None else np.load(folder / "test_labels.npy", allow_pickle=False)


def prepared_folder(fingerprint: str) -> Path | None:
    """Returns the folder of the dataset with this fingerprint if it lies prepared here, undamaged."""
    for meta in sorted(layout.DATA.glob("*/meta.json")):
        try:
            if files.read_json(meta)["fingerprint"] == fingerprint:
                intact.check(meta.parent, fingerprint)
                return meta.parent
        except (OSError, ValueError, TypeError, KeyError, UserError):
            continue  # Whoever reads this dataset says what is wrong with it.
    return None


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"
    return f"a dictionary of {', '.join(f'{name} ({type(each).__name__})' for name, each in sorted(value.items()))}"


def _without_values(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _line(error: Exception) -> str:
    return clean(str(error).partition("\n")[0])


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        complain(text)
