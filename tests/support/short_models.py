"""Networks of each architecture with every kind of its blocks, but few of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from unittest import mock

from torch import nn

from normbench.methods.base import Method
from normbench.models import dpn, efficientnet, mobilenet_v2, pnasnet, resnext
from normbench.models.convnet import ConvNet
from normbench.models.densenet import DenseNet
from normbench.models.imagenet_resnet import Bottleneck, ImageNetResNet
from normbench.models.lenet import LeNet
from normbench.models.mlp import MLP
from normbench.models.preact_resnet import PreActResNet
from normbench.models.resnet import ResNet
from normbench.models.senet import Gate
from normbench.models.vgg import VGG

CHANNELS, CLASSES = 3, 5
SIDES = defaultdict(lambda: 8, lenet=16, imagenet_resnet=16)  # pixels a side of the images that a network is tried on
# Network and method. A 5x5 convolution without padding makes maps smaller, which an orthogonal one cannot do.
IMPOSSIBLE = {("lenet", "cayley"), ("lenet", "soc")}


def short_mobilenet(method: Method) -> nn.Module:
    """A block without expansion, one of stride 2, and one with a shortcut that changes nothing."""
    with mock.patch.object(mobilenet_v2, "ROWS", ((1, 16, 1, 1), (2, 24, 2, 2))):
        return mobilenet_v2.MobileNetV2(method, CHANNELS, CLASSES, 8)


def short_resnext(method: Method) -> nn.Module:
    """One block in each of two stages."""
    with mock.patch.object(resnext, "BLOCKS", (1, 1)):
        return resnext.ResNeXt(method, CHANNELS, CLASSES, 2, 4, 8)


def short_dpn(method: Method) -> nn.Module:
    """The first block of a stage and one that follows it, then a stage of stride 2."""
    with mock.patch.object(dpn, "STAGES", (dpn.Stage(2, 128, 32), dpn.Stage(1, 256, 32))):
        return dpn.DPN(method, CHANNELS, CLASSES, 8)


def short_efficientnet(method: Method) -> nn.Module:
    """Blocks with an addition of themselves, with a shortcut that is a convolution, and without one."""
    with mock.patch.object(efficientnet, "ROWS", ((1, 16, 2, 1), (2, 16, 1, 2))):
        return efficientnet.EfficientNet(method, CHANNELS, CLASSES, 32, method)


def short_pnasnet(method: Method) -> nn.Module:
    """Cells of both strides, which have all that the simpler network's cells have."""
    with mock.patch.multiple(pnasnet, STAGES=2, CELLS=1):
        return pnasnet.PNASNet(method, CHANNELS, CLASSES, pnasnet.CellB, 8, "pnasnet_b")


def short_convnet(method: Method) -> nn.Module:
    """A convolution of either stride with its norm, and a hidden linear layer."""
    return ConvNet(
        method, CHANNELS, CLASSES, width=8, depth=2, side=4, hidden=16, linears=1, activation="relu", norms=True
    )


# By the name of the file in normbench/models. A method's `initialize` is still to be called.
SHORT: dict[str, Callable[[Method], nn.Module]] = {
    "convnet": short_convnet,
    "densenet": lambda method: DenseNet(method, CHANNELS, CLASSES, [2, 1], 8),
    "dpn": short_dpn,
    "efficientnet": short_efficientnet,
    "imagenet_resnet": lambda method: ImageNetResNet(method, CHANNELS, CLASSES, Bottleneck, [2, 1], 4),
    "lenet": lambda method: LeNet(method, CHANNELS, CLASSES, 6),
    "mlp": lambda method: MLP(method, CHANNELS, CLASSES, SIDES["mlp"], 16, 2),
    "mobilenet_v2": short_mobilenet,
    "pnasnet": short_pnasnet,
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
