"""Prediction-time batch statistics: a trained network that normalizes by the test batch it is given.

Nado et al., arXiv 2006.10963; with the weight of the training statistics of Schneider et al., NeurIPS 2020, arXiv
2006.16971, section 2: n test images count n/(N + n), the statistics of training N/(N + n).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


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
