"""Networks of each architecture with every kind of its blocks, but few of them."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from torch import nn

from normbench.methods.base import Method
from normbench.models import mobilenet_v2, resnext
from normbench.models.densenet import DenseNet
from normbench.models.preact_resnet import PreActResNet
from normbench.models.resnet import ResNet
from normbench.models.senet import Gate
from normbench.models.vgg import VGG

CHANNELS, CLASSES = 3, 5


def short_mobilenet(method: Method) -> nn.Module:
    """A block without expansion, one of stride 2, and one with a shortcut that changes nothing."""
    with mock.patch.object(mobilenet_v2, "ROWS", ((1, 16, 1, 1), (2, 24, 2, 2))):
        return mobilenet_v2.MobileNetV2(method, CHANNELS, CLASSES, 8)


def short_resnext(method: Method) -> nn.Module:
    """One block in each of two stages."""
    with mock.patch.object(resnext, "BLOCKS", (1, 1)):
        return resnext.ResNeXt(method, CHANNELS, CLASSES, 2, 4, 8)


# By the name of the file in normbench/models. A method's `initialize` is still to be called.
SHORT: dict[str, Callable[[Method], nn.Module]] = {
    "densenet": lambda method: DenseNet(method, CHANNELS, CLASSES, [2, 1], 8),
    "mobilenet_v2": short_mobilenet,
    "preact_resnet": lambda method: PreActResNet(method, CHANNELS, CLASSES, [1, 1], 8),
    "resnet": lambda method: ResNet(method, CHANNELS, CLASSES, [1, 1], 8),
    "resnext": short_resnext,
    "senet": lambda method: PreActResNet(method, CHANNELS, CLASSES, [1, 1], 8, gate=Gate, architecture="senet"),
    "vgg": lambda method: VGG(method, CHANNELS, CLASSES, [1, 2], 8),
}


def short_classifier(model: str, method: Method) -> nn.Module:
    """A short network with initial weights, on the CPU."""
    network = SHORT[model](method)
    method.initialize(network)
    return network
