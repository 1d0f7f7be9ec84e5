"""The networks for images of ImageNet's size: torchvision's, layer by layer, and as Network Deconvolution has them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import densenet, resnet, vgg

from normbench.data.batches import on_device
from normbench.evaluation import fold
from normbench.evaluation.lipschitz import bounds
from normbench.evaluation.smoothness import Smoothness, smoothness
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.network_deconvolution import DeconvConv2d, DeconvLinear, NetworkDeconvolution
from normbench.models import registry
from normbench.models.build import build_classifier
from normbench.models.imagenet_densenet import ImageNetDenseNet
from normbench.models.imagenet_resnet import Backbone, BasicBlock, Bottleneck, ImageNetResNet
from normbench.models.imagenet_vgg import ImageNetVGG
from tests.support.subjects import subject

CLASSES = 11
VGG: tuple[Any, ...] = ("imagenet_vgg11", {"width": 2}, BatchNorm(), 3, CLASSES, 0)
# Parameters with 1000 classes: of torchvision's networks, and of those that main_imagenet.py of yechengxi/deconvolution
# at d221c221 builds.
COUNTS = [
    ("imagenet_resnet18", 11_689_512, 11_686_504),
    ("imagenet_resnet34", 21_797_672, None),
    ("imagenet_resnet50", 25_557_032, 25_538_152),
    ("imagenet_resnet101", 44_549_160, None),
    ("imagenet_vgg11", 132_868_840, 132_863_336),
    ("imagenet_densenet121", 7_978_856, 7_905_448),
]


def parameters(name: str, method: Method) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in registry.get(name).function(method, 3, 1000).parameters())


@pytest.mark.parametrize(("name", "plain", "deconvolved"), COUNTS)
def test_number_of_parameters(name: str, plain: int, deconvolved: int | None) -> None:
    assert parameters(name, BatchNorm()) == plain
    if deconvolved is not None:
        assert parameters(name, NetworkDeconvolution()) == deconvolved


def test_vgg_without_norms_is_that_of_torchvision() -> None:
    assert parameters("imagenet_vgg11", methods.build("no_norm", {})) == 132_863_336


def narrow_vgg() -> nn.Module:
    """torchvision's `vgg11_bn` with an eighth of the channels and units."""
    widths = [part if isinstance(part, str) else part // 8 for part in vgg.cfgs["A"]]
    network = vgg.VGG(vgg.make_layers(widths, batch_norm=True), CLASSES, init_weights=False)
    units = 64 * 8
    ends = nn.Linear(64 * 49, units), nn.Linear(units, units), nn.Linear(units, CLASSES)
    hidden = [(end, nn.ReLU(), nn.Dropout(0.5)) for end in ends[:2]]
    network.classifier = nn.Sequential(*(layer for part in hidden for layer in part), ends[2])
    return network


REFERENCES: dict[str, tuple[dict[str, int], Callable[[], nn.Module], int]] = {
    "imagenet_resnet18": ({}, functools.partial(torchvision.models.resnet18, num_classes=CLASSES), 65),
    "imagenet_resnet50": ({}, functools.partial(torchvision.models.resnet50, num_classes=CLASSES), 48),
    "imagenet_vgg11": ({"width": 8}, narrow_vgg, 250),
    "imagenet_densenet121": ({}, functools.partial(torchvision.models.densenet121, num_classes=CLASSES), 64),
}


def copied(network: nn.Module, reference: nn.Module) -> None:
    """Gives a network the parameters and buffers of another one, in the order in which both have them."""
    own, other = network.state_dict(), reference.state_dict()
    assert [value.shape for value in own.values()] == [value.shape for value in other.values()]
    network.load_state_dict(dict(zip(own, other.values(), strict=True)))


def trembled(network: nn.Module) -> nn.Module:
    """A network whose norms and biases are not as they start, so that each of them counts."""
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.dim() == 1 and value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator) * 0.2)
    return network


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_are_those_of_torchvision(name: str) -> None:
    """In training mode, with the same draws of dropout, and in evaluation mode afterwards; and the gradients."""
    options, make, size = REFERENCES[name]
    torch.manual_seed(0)
    reference = trembled(make())
    network = build_classifier(name, options, BatchNorm(), 3, CLASSES)
    copied(network, reference)
    x = torch.rand(4, 3, size, size - 7, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(4)

    def outputs(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(3)
        logits = model.train()(x)
        first = next(model.parameters())
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels), first)
        with torch.no_grad():
            return logits.detach(), gradient, model.eval()(x)

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        network, reference = network.to(dtype), reference.to(dtype)
        found, expected = outputs(network, x.to(dtype)), outputs(reference, x.to(dtype))
        for own, other, factor in zip(found, expected, (1, 100, 1), strict=True):
            scale = other.abs().max().item()
            torch.testing.assert_close(own, other, rtol=0, atol=factor * tolerance * scale)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("imagenet_resnet18", functools.partial(resnet.resnet18, num_classes=CLASSES)),
        ("imagenet_densenet121", functools.partial(densenet.densenet121, num_classes=CLASSES)),
    ],
)
def test_initial_weights_are_drawn_as_those_of_torchvision(name: str, reference: Callable[[], nn.Module]) -> None:
    """Of each large weight the same deviation, and no value where a uniform distribution would have none."""
    torch.manual_seed(0)
    network, other = build_classifier(name, {}, BatchNorm(), 3, CLASSES), reference()
    for own, its in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        if own.dim() == 4 and own.numel() > 10_000:
            assert own.std().item() == pytest.approx(its.std().item(), rel=0.05)
            assert own.abs().max() > 3 * own.std()
        elif len(its.unique()) == 1:
            assert torch.equal(own, its)


def test_initial_weights_of_vgg() -> None:
    network = build_classifier("imagenet_vgg11", {"width": 16}, BatchNorm(), 3, CLASSES, seed=0)
    for name, weight in network.named_parameters():
        if weight.dim() == 4 and weight.numel() > 10_000:
            assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * len(weight))), rel=0.05)
        elif weight.dim() == 2:
            assert weight.std().item() == pytest.approx(0.01, rel=0.05)
        elif name.endswith("bias"):
            assert not weight.any()


def whitened(network: nn.Module) -> list[tuple[int, int, bool]]:
    """Block, Newton-Schulz steps and whether they freeze, of the whitening layers in their order."""
    found = []
    for layer in network.modules():
        if isinstance(layer, DeconvConv2d):
            taps = layer.kernel_size[0] * layer.kernel_size[1]
            found.append((layer.features // taps, layer.iterations, layer.freeze))
        elif isinstance(layer, DeconvLinear):
            found.append((layer.features, layer.iterations, False))
    return found


def on_meta(name: str, method: Method, **options: int) -> nn.Module:
    with torch.device("meta"):
        network = registry.get(name).function(method, 3, 1000, **options)
    assert isinstance(network, nn.Module)
    return network


@pytest.mark.parametrize(
    ("name", "convolutions", "norms", "linears"),
    [
        ("imagenet_vgg11", 8, 0, 3),
        ("imagenet_resnet18", 20, 3, 1),
        ("imagenet_resnet50", 53, 4, 1),
        ("imagenet_densenet121", 120, 0, 1),
    ],
)
def test_settings_of_network_deconvolution(name: str, convolutions: int, norms: int, linears: int) -> None:
    """The stem freezes and converges; all else has 64 channels or features in a block and 5 steps."""
    network = on_meta(name, NetworkDeconvolution())
    kept = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(kept) == norms
    shortcuts = [module for key, module in network.named_modules() if key.endswith("shortcut.1")]
    assert [id(module) for module in kept] == [id(module) for module in shortcuts]
    found = whitened(network)
    assert found[0] == (3, 15, True)
    # In DenseNet, which adds 32 channels at a time, every second number of channels is no multiple of 64.
    widths = [layer.weight.shape[1] for layer in network.modules() if isinstance(layer, DeconvConv2d)][1:]
    assert len(widths) == convolutions - 1
    assert found[1:] == [(math.gcd(64, width), 5, False) for width in widths] + [(64, 5, False)] * linears
    assert sum(isinstance(module, DeconvLinear) for module in network.modules()) == linears


def test_settings_of_network_deconvolution_can_be_left_out() -> None:
    network = on_meta("imagenet_resnet18", NetworkDeconvolution(authors_settings=False))
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    found = whitened(network)
    assert found[0] == (3, 5, False)
    assert found[-1] == (512, 5, False)
    plain = on_meta("imagenet_vgg11", NetworkDeconvolution(linear_block=0), width=8)
    assert not [module for module in plain.modules() if isinstance(module, DeconvLinear)]


def test_initial_weights_of_deconvolved_networks() -> None:
    """Those of ResNets are normal with He's variance; the others have torch's default, as the authors' code does."""
    torch.manual_seed(0)
    method = NetworkDeconvolution()
    for network, normal in (
        (ImageNetResNet(method, 3, CLASSES, BasicBlock, [1, 1], 32), True),
        (ImageNetVGG(method, 3, CLASSES, [1, 1], 32), False),
        (ImageNetDenseNet(method, 3, CLASSES, [1, 1], 32), False),
    ):
        layers = [layer for layer in network.modules() if isinstance(layer, DeconvConv2d)]
        assert len(layers) >= 2
        for layer in layers:
            out, taken, rows, columns = layer.weight.shape
            bound = (taken * rows * columns) ** -0.5
            assert layer.bias is not None
            assert 0 < layer.bias.abs().max() <= bound
            if normal:
                assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (out * rows * columns)), rel=0.1)
            else:
                assert layer.weight.abs().max() <= bound


@pytest.mark.parametrize("method_name", methods.names())
def test_every_method_trains_a_short_network(method_name: str) -> None:
    """A step reaches the weights of all convolutions, and the evaluation draws nothing."""
    options = {"no_norm": {"residual_gain": 0.1}}.get(method_name, {})
    method = methods.build(method_name, options)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for make in (
        lambda: ImageNetVGG(method, 3, CLASSES, [1, 1, 1, 1, 1], 2),
        lambda: ImageNetDenseNet(method, 3, CLASSES, [1, 1], 4),
    ):
        torch.manual_seed(0)
        network = make()
        method.initialize(network)
        loss = functional.cross_entropy(network.train()(x), torch.arange(4))
        penalty = method.penalty(network)
        loss = loss if penalty is None else loss + penalty
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        with torch.no_grad():
            logits = network.eval()(x)
            assert logits.shape == (4, CLASSES)
            assert torch.equal(logits, network(x))


def short_networks(method: Method) -> dict[str, nn.Module]:
    """A network of each kind with few blocks."""
    torch.manual_seed(0)
    made: dict[str, nn.Module] = {
        "resnet": ImageNetResNet(method, 3, CLASSES, Bottleneck, [1, 1], 4),
        "vgg": ImageNetVGG(method, 3, CLASSES, [1, 1, 1, 1, 1], 2),
        "densenet": ImageNetDenseNet(method, 3, CLASSES, [2, 1], 4),
    }
    for network in made.values():
        method.initialize(network)
    return made


@pytest.mark.parametrize("method_name", ["batch_norm", "network_deconvolution", "conv_norm"])
def test_lipschitz_bounds_hold(method_name: str) -> None:
    """Of the folded network, which computes the same: dropout and pooling of overlapping windows are no obstacle."""
    x = torch.randn(4, 3, 32, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, network in short_networks(methods.build(method_name, {})).items():
        network.double().train()(x)
        network.eval()
        with torch.no_grad():
            torch.testing.assert_close(fold(network)(x), network(x), rtol=1e-9, atol=1e-10)
        jacobian = torch.autograd.functional.jacobian(network, x[:1]).reshape(CLASSES, -1)
        found = bounds(network, x[:1])
        assert found["product"] is not None, (name, found["why"])
        assert 0 < torch.linalg.matrix_norm(jacobian, 2).item() <= found["product"]


def test_initial_feature_maps_depend_on_the_seed_alone() -> None:
    """Though dropout draws from the global generator, wherever that is, and it goes on from there."""
    pixels = torch.randint(256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = on_device(pixels, torch.arange(6) % CLASSES, [0.5] * 3, [0.3] * 3, "cpu")
    network = build_classifier(*VGG).eval()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.random.get_rng_state()
        given = subject(network, images, initial=lambda: build_classifier(*VGG))
        found.append(smoothness(given, Smoothness(examples=6)).metrics["features"])
        assert torch.equal(torch.random.get_rng_state(), expected)
    assert found[0]["initial"] == found[1]["initial"]


def test_blocks_keep_the_size_where_they_are_dilated() -> None:
    """Every second pixel of a dilated stage's maps, or every fourth, is a pixel of the strided one's."""
    for block in (BasicBlock, Bottleneck):
        torch.manual_seed(0)
        strided = Backbone(BatchNorm(), 3, block, [1, 2, 2], 4, "imagenet_resnet").double().eval()
        dilated = Backbone(BatchNorm(), 3, block, [1, 2, 2], 4, "imagenet_resnet", dilated=2).double().eval()
        dilated.load_state_dict(strided.state_dict())
        x = torch.randn(1, 3, 64, 48, dtype=torch.float64)
        for stage, (own, other) in enumerate(zip(strided(x), dilated(x), strict=True)):
            step = 2**stage
            assert own.shape[2:] == (16 // step, 12 // step)
            assert other.shape[2:] == (16, 12)
            torch.testing.assert_close(other[..., ::step, ::step], own)
