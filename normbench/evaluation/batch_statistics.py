"""Prediction-time batch normalization: a trained network that normalizes with the statistics of the test batch.

Nado et al., arXiv 2006.10963. The statistics are mixed with those of training as in Schneider et al., NeurIPS 2020,
arXiv 2006.16971, section 2: for a batch of n images and a prior of N images, the batch has the weight n/(N + n) and
training N/(N + n).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from normbench.data.batches import Pixels
from normbench.evaluation.calibration import accuracy, finite
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import Scores, Subject
from normbench.functional.constants import unchanging
from normbench.system.quantities import Accuracy
from normbench.system.schema import NotNegativeReal, Positive, Strict
from normbench.training.logits import logits


def batch_layers(model: nn.Module) -> list[nn.Module]:
    """The layers with running statistics: those with buffers named `running_...` and a `momentum`, a float or None."""
    return [
        layer
        for layer in model.modules()
        if isinstance(getattr(layer, "momentum", ""), float | None)
        and any(name.startswith("running_") for name, _ in layer.named_buffers(recurse=False))
    ]


def with_batch_statistics(model: nn.Module, prior: float) -> nn.Module:
    """A copy of a network, in evaluation mode, whose layers normalize with a mixture of training and batch statistics.

    prior: the weight N of the training statistics, in images. Each layer's batch statistics are computed from inputs
    that the layers before it have already normalized in this way. Calls do not affect each other.
    """
    model = copy.deepcopy(model).eval()
    for layer in batch_layers(model):
        trained = {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
        layer.register_forward_pre_hook(Mixing(trained, prior))
    return model


class Mixing:
    """Forward pre-hook of one layer, which sets its running statistics to the mixture before each call.

    trained: the layer's buffers after training, by name. prior: see `with_batch_statistics`.
    """

    def __init__(self, trained: dict[str, Tensor], prior: float):
        self.trained, self.prior = trained, prior

    @torch.no_grad()
    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name, value in self.trained.items():
            layer.get_buffer(name).copy_(value)
        if math.prod(inputs[0].shape) == inputs[0].shape[1]:
            return  # One value a channel has no variance, so that the layer keeps the statistics of training.
        # A forward pass in training mode with this momentum turns the running statistics into the mixture. Its output
        # is not used.
        momentum, count = layer.momentum, len(inputs[0])
        vars(layer)["momentum"] = count / (self.prior + count)
        layer.train()
        layer.forward(*inputs)
        layer.eval()
        vars(layer)["momentum"] = momentum


COLUMNS = ("batch_clean_accuracy", "batch_corruption_accuracy")


class BatchStatistics(ScoreSettings):
    """Prediction-time batch normalization on batches of `batch_size` test images, which may be single images.

    prior: the weight of the training statistics, in images.
    """

    prior: NotNegativeReal = 16.0
    batch_size: Positive = 200


class Adapted(Strict):
    """The entry `batch_statistics` of the metrics: see `batch_statistics`."""

    prior: NotNegativeReal
    batch_size: Positive
    clean_accuracy: Accuracy
    corruption_accuracy: dict[str, list[Accuracy]]


class Results(Strict):
    """What the score stores."""

    batch_statistics: Adapted


@score("batch_statistics", BatchStatistics, default=BatchStatistics(), results=Results)
def batch_statistics(subject: Subject, settings: BatchStatistics) -> Scores:
    """Measures the metric `batch_statistics`: accuracies with the statistics of batches of test images, in their order.

    The metric holds the settings, `clean_accuracy`, and `corruption_accuracy`, which maps each corruption to a list
    with one entry per severity. Predictions on corrupted images have the shape (names, severities, M). For networks
    without running statistics nothing is measured, and `missing` says so.
    """
    if not batch_layers(subject.model):
        return Scores(missing=dict.fromkeys(COLUMNS, "no layer has statistics of batches"))
    adapted = with_batch_statistics(subject.model, settings.prior)
    labels = subject.images.labels.cpu()
    targets = labels[subject.index]

    def scored(pixels: Pixels) -> Tensor:
        return finite(logits(adapted, subject.images, pixels, subject.precision, settings.batch_size))

    accuracies: dict[str, list[float]] = {}
    predicted: list[Tensor] = []
    with unchanging(adapted, but=batch_layers(adapted)):
        clean = accuracy(scored(subject.images.pixels), labels)
        for name in subject.corrupted.names:
            found = [scored(pixels) for pixels in subject.corrupted_pixels(name)]
            accuracies[name] = [accuracy(each, targets) for each in found]
            predicted += [each.argmax(1) for each in found]
    metric = settings.json_value() | {"clean_accuracy": clean, "corruption_accuracy": accuracies}
    mean = sum(map(sum, accuracies.values())) / len(predicted)
    shape = (len(subject.corrupted.names), len(subject.corrupted.severities), len(subject.index))
    return Scores(
        {"batch_statistics": metric},
        dict(zip(COLUMNS, (clean, mean), strict=True)),
        {"batch_statistics": torch.stack(predicted).to(torch.int16).numpy().reshape(shape)},
    )
