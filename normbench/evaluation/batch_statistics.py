"""Prediction-time batch statistics: a trained network that normalizes by the test batch it is given.

Nado et al., arXiv 2006.10963; with the weight of the training statistics of Schneider et al., NeurIPS 2020, arXiv
2006.16971, section 2: n test images count n/(N + n), the statistics of training N/(N + n).
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.evaluation.calibration import accuracy, finite
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import Scores, Subject
from normbench.system.schema import NotNegativeReal
from normbench.training.logits import logits


def batch_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that keep running statistics of their batches: what has a `momentum` and `running_...` buffers."""
    return [
        layer
        for layer in model.modules()
        if isinstance(getattr(layer, "momentum", None), float)
        and any(name.startswith("running_") for name, _ in layer.named_buffers(recurse=False))
    ]


def with_batch_statistics(model: nn.Module, prior: float) -> nn.Module:
    """A copy in evaluation mode, each call of which mixes every layer's statistics with those of its input.

    prior: N, in images. A layer sees the outputs of the layers before it as they are with their own mixed statistics.
    No call has an effect on the next one.
    """
    model = copy.deepcopy(model).eval()
    for layer in batch_layers(model):
        trained = {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
        layer.register_forward_pre_hook(Mixing(trained, prior))
    return model


class Mixing:
    """The hook of one layer: holds its training statistics, and gives it the mixture before each call."""

    def __init__(self, trained: dict[str, Tensor], prior: float):
        self.trained, self.prior = trained, prior

    @torch.no_grad()
    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name, value in self.trained.items():
            layer.get_buffer(name).copy_(value)
        # A training step with this momentum moves the running statistics to the mixture; its output is not used.
        momentum, count = layer.momentum, len(inputs[0])
        vars(layer)["momentum"] = count / (self.prior + count)
        layer.train()
        layer.forward(*inputs)
        layer.eval()
        vars(layer)["momentum"] = momentum


class BatchStatistics(ScoreSettings):
    """Evaluation with the statistics of test batches of `batch_size`, those of training weighing as `prior` images."""

    prior: NotNegativeReal = 16.0
    batch_size: Annotated[int, Field(ge=2)] = 200


@score("batch_statistics", BatchStatistics, default=BatchStatistics())
def batch_statistics(subject: Subject, settings: BatchStatistics) -> Scores:
    """`batch_statistics`: the accuracies under the statistics of batches of test images, in their order.

    Nothing for networks whose layers keep no running statistics. The metric has the settings, `clean_accuracy`, and
    `corruption_accuracy` from a corruption to a list over the severities. Predictions: (names, severities, M).
    """
    if not batch_layers(subject.model):
        return Scores()
    adapted = with_batch_statistics(subject.model, settings.prior)
    labels = subject.images.labels.cpu()
    targets = labels[subject.index]

    def scored(pixels: Tensor) -> Tensor:
        return finite(logits(adapted, subject.images, pixels, subject.precision, settings.batch_size))

    clean = accuracy(scored(subject.images.pixels), labels)
    accuracies: dict[str, list[float]] = {}
    predicted: list[Tensor] = []
    for name in subject.corrupted.names:
        found = [scored(pixels) for pixels in subject.corrupted_pixels(name)]
        accuracies[name] = [accuracy(each, targets) for each in found]
        predicted += [each.argmax(1) for each in found]
    metric = settings.json_value() | {"clean_accuracy": clean, "corruption_accuracy": accuracies}
    mean = sum(map(sum, accuracies.values())) / len(predicted)
    shape = (len(subject.corrupted.names), len(subject.corrupted.severities), len(subject.index))
    return Scores(
        {"batch_statistics": metric},
        {"batch_clean_accuracy": clean, "batch_corruption_accuracy": mean},
        {"batch_statistics": torch.stack(predicted).to(torch.int16).numpy().reshape(shape)},
    )
