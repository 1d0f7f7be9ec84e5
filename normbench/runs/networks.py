"""Rebuilds the networks of finished runs from their records and weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from normbench.functional import placement
from normbench.gan import trainer
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.models.build import load_weights
from normbench.runs import finished
from normbench.runs.contents import DISCRIMINATOR, GENERATOR, WEIGHTS
from normbench.runs.record import Record
from normbench.segmentation import trainer as segmentation
from normbench.segmentation.task import SegmentationTask
from normbench.system.narrowing import narrowed
from normbench.training import classifier
from normbench.training.task import Task


def initial_classifier(record: Record, device: str) -> nn.Module:
    """Returns the network before its training, on a device, in evaluation mode."""
    return placement.placed(_classifier(record), device, record.provenance.numerics.memory_format).eval()


def trained_classifier(record: Record, folder: Path, device: str) -> nn.Module:
    """Returns the trained network of a run on a device, in evaluation mode. folder: holds the files of the run.

    Raises UserError if the weights are not those of which the record has the sha256.
    """
    finished.check(folder / WEIGHTS, record.files[WEIGHTS])
    model = load_weights(_classifier(record), folder / WEIGHTS)
    return placement.placed(model, device, record.provenance.numerics.memory_format).eval()


def trained_segmenter(record: Record, folder: Path, device: str) -> nn.Module:
    """Returns the trained network of a run of segmentation, as `trained_classifier` does."""
    origin = record.provenance
    task = narrowed(origin.task, SegmentationTask, f"run {record.run}: task")
    finished.check(folder / WEIGHTS, record.files[WEIGHTS])
    method = methods.build(origin.variant.method, origin.variant.options)
    model = models.get(task.model, "segmenter")
    network = segmentation.network(task, model, method, origin.dataset, record.seed)
    return placement.placed(load_weights(network, folder / WEIGHTS), device, origin.numerics.memory_format).eval()


def trained_generator(record: Record, folder: Path, device: str) -> nn.Module:
    """Returns the averaged generator of a run on a device, in evaluation mode. folder: holds the files of the run.

    Raises UserError if the weights are not those of which the record has the sha256, or if the run is of no GAN.
    """
    return _trained(record, folder, device, GENERATOR)


def trained_discriminator(record: Record, folder: Path, device: str) -> nn.Module:
    """Returns the discriminator of a run as `trained_generator` does the generator. A run of an early version has none.

    Raises UserError, as that does, and KeyError if the run has none.
    """
    return _trained(record, folder, device, DISCRIMINATOR)


def _trained(record: Record, folder: Path, device: str, name: str) -> nn.Module:
    """Returns the network of a GAN whose weights are in the file with this name."""
    origin = record.provenance
    task = narrowed(origin.task, GanTask, f"run {record.run}: task")
    finished.check(folder / name, record.files[name])
    method = methods.build(origin.variant.method, origin.variant.options)
    model = models.get(task.model, "gan")
    generator, discriminator = trainer.networks(
        task, model, method, origin.dataset, record.seed, origin.variant.apply_to
    )
    network = generator if name == GENERATOR else discriminator
    return placement.placed(load_weights(network, folder / name), device).eval()


def _classifier(record: Record) -> nn.Module:
    origin = record.provenance
    task = narrowed(origin.task, Task, f"run {record.run}: task")
    method = methods.build(origin.variant.method, origin.variant.options)
    model = models.get(task.model, "classifier")
    return classifier.network(task, model, method, origin.dataset, record.seed)
