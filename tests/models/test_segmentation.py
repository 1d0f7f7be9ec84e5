"""The networks of segmentation: torchvision's, layer by layer, and as Network Deconvolution has them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from normbench.evaluation import fold
from normbench.methods import registry as methods
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.network_deconvolution import DeconvConv2d, NetworkDeconvolution
from normbench.models import registry
from normbench.models.base import Model, names
from normbench.models.imagenet_resnet import Backbone, Bottleneck
from normbench.models.segmentation import NAME, DeepLabHead, FCNHead, Pooled, Segmenter
from normbench.system.errors import UserError
from tests.models.test_contract import Marked
from tests.models.test_imagenet import copied, trembled, whitened

CLASSES = 5
ON_SEGMENTERS = pytest.mark.parametrize("name", names("segmenter"))
# Parameters with a number of classes, without and with an auxiliary head: of torchvision's networks, and of those that
# the segmentation code of yechengxi/deconvolution at d221c221 builds.
COUNTS = [
    ("deeplabv3_resnet50", 21, False, 39_638_869, 39_618_197),
    ("deeplabv3_resnet50", 21, True, 42_004_074, 41_983_146),
    ("deeplabv3_resnet50", 19, False, 39_638_355, 39_617_683),
    ("fcn_resnet50", 21, False, 32_957_013, 32_937_621),
    ("fcn_resnet50", 21, True, 35_322_218, 35_302_570),
    ("fcn_resnet50", 19, False, 32_955_987, 32_936_595),
]


def on_meta(name: str, method: Method, classes: int = CLASSES, **options: int) -> nn.Module:
    with torch.device("meta"):
        network = registry.get(name).function(method, 3, classes, **options)
    assert isinstance(network, nn.Module)
    return network


def small(name: str, method: Method | None = None, width: int = 8, aux: bool = False, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    made = method or BatchNorm()
    network = registry.get(name).function(made, channels, CLASSES, width=width, aux=aux)
    assert isinstance(network, nn.Module)
    made.initialize(network)
    return network


def short(method: Method, head: Callable[..., nn.Module] = DeepLabHead) -> Segmenter:
    """A network with a block in each stage and both heads."""
    torch.manual_seed(0)
    network = Segmenter(method, Backbone(method, 3, Bottleneck, [1, 1, 1], 4, NAME, dilated=2), CLASSES, head, FCNHead)
    method.initialize(network)
    return network


def images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "classes", "aux", "plain", "deconvolved"), COUNTS)
def test_number_of_parameters(name: str, classes: int, aux: bool, plain: int, deconvolved: int) -> None:
    for method, expected in ((BatchNorm(), plain), (NetworkDeconvolution(), deconvolved)):
        network = on_meta(name, method, classes, aux=aux)
        assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_outputs_are_those_of_torchvision(name: str, dtype: torch.dtype) -> None:
    """In training mode, with the same draws of dropout, and in evaluation mode afterwards; and the gradients."""
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, name)
    reference = trembled(make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)).to(dtype)
    network = on_meta(name, BatchNorm(), aux=True).to(dtype).to_empty(device="cpu")
    copied(network, reference)
    x = images(2, 41, 34).to(dtype)
    torch.manual_seed(2)
    found = network.train()(x)
    torch.manual_seed(2)
    expected = tuple(reference.train()(x).values())
    assert len(found) == len(expected) == 2
    # From the top of the network to where the heads begin; below are the blocks of which the classifiers consist.
    gradients = [
        torch.autograd.grad(own.square().mean() + 0.5 * other.square().mean(), model.get_parameter(weight))[0]
        for (own, other), model, weight in (
            (found, network, "backbone.stages.2.0.conv1.weight"),
            (expected, reference, "backbone.layer3.0.conv1.weight"),
        )
    ]
    with torch.no_grad():
        evaluated = network.eval()(x), reference.eval()(x)["out"]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for own, other in (*zip(found, expected, strict=True), evaluated):
        torch.testing.assert_close(own, other, rtol=0, atol=tolerance * other.abs().max().item())
    torch.testing.assert_close(*gradients, rtol=0, atol=100 * tolerance * gradients[1].abs().max().item())


@ON_SEGMENTERS
def test_shapes(name: str) -> None:
    """Of images of any size and number of channels, with the auxiliary logits in training mode alone."""
    for channels, height, width in ((1, 33, 47), (3, 64, 24)):
        x = images(2, height, width, channels)
        for aux in (False, True):
            network = small(name, aux=aux, channels=channels).train()
            shape = (2, CLASSES, height, width)
            found = network(x)
            assert isinstance(found, tuple) == aux
            assert [y.shape for y in (found if aux else [found])] == [shape] * (1 + aux)
            evaluated = network.eval()(x)
            assert evaluated.shape == shape
            assert evaluated.dtype == torch.float32


@pytest.mark.parametrize(
    "method_name", ["batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four"]
)
def test_channels_last_and_bfloat16(method_name: str) -> None:
    """Another memory format changes nothing, and a step in bfloat16 has logits in float32 and finite gradients."""
    method = methods.build(method_name, {})
    network, x = short(method).train(), images(2, 24, 24)
    network(x)
    expected = network.eval()(x)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    found = last(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        made = last.train()(x)
    assert [y.dtype for y in made] == [torch.float32, torch.float32]
    sum(y.square().mean() for y in made).backward()
    assert all(p.grad.isfinite().all() for p in last.parameters())


@ON_SEGMENTERS
def test_the_auxiliary_head_is_for_the_training_alone(name: str) -> None:
    """Its weights have no part in the logits, and the rest of the network is the same without it."""
    torch.manual_seed(0)
    network, without = small(name, aux=True).eval(), small(name).eval()
    missing = without.load_state_dict(network.state_dict(), strict=False)
    assert not missing.missing_keys
    assert missing.unexpected_keys
    assert all(key.startswith("aux.") for key in missing.unexpected_keys)
    x = images(2, 40, 40)
    assert torch.equal(network(x), without(x))


@ON_SEGMENTERS
def test_every_layer_comes_from_the_method(name: str) -> None:
    method = Marked()
    torch.manual_seed(0)
    network = registry.get(name).function(method, 3, CLASSES, width=8, aux=True)
    layers = [m for m in network.modules() if next(iter(m.children()), None) is None and list(m.parameters())]
    assert {id(layer) for layer in layers} == {id(module) for module, _ in method.made}
    roles = [role for _, role in method.made]
    assert roles[0].place == "stem"
    assert [role.place for role in roles].count("classifier") == 2
    assert {role.architecture for role in roles} == {"segmentation"}
    assert {role.stage for role in roles} == {0, 1, 2, 3}
    assert all(role.last_stage == (role.stage == 3) for role in roles)


def test_dilations_of_the_backbone() -> None:
    """Of the 3x3 convolutions, block by block: the third and fourth stage keep the size of the second."""
    expected = {
        "fcn_resnet50": [1] * 3 + [1] * 4 + [1, 2, 2, 2, 2, 2] + [2, 4, 4],
        "fcn_resnet18": [1] * 4 + [1] * 4 + [1, 2, 2, 2] + [2, 4, 4, 4],
    }
    for name, dilations in expected.items():
        backbone = on_meta(name, BatchNorm()).get_submodule("backbone")
        convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert [m.dilation[0] for m in convs] == dilations
        assert [m.padding[0] for m in convs] == dilations
        assert [m.stride[0] for m in convs].count(2) == 1
    network = small("fcn_resnet18").eval()
    assert [tuple(maps.shape[2:]) for maps in network.get_submodule("backbone")(images(1, 65, 48))] == [
        (17, 12),
        (9, 6),
        (9, 6),
        (9, 6),
    ]


def test_settings_of_network_deconvolution() -> None:
    """The authors': four batch norms stay, the stem freezes and converges, and a last convolution is one block."""
    for name, last in (("fcn_resnet50", 512), ("deeplabv3_resnet50", 256)):
        network = on_meta(name, NetworkDeconvolution(), aux=True)
        kept = [key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert kept == [f"backbone.stages.{stage}.0.shortcut.1" for stage in range(4)]
        convolutions = [module for module in network.modules() if isinstance(module, DeconvConv2d)]
        assert not [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert all(module.bias is not None for module in convolutions)
        found = whitened(network)
        assert found[0] == (3, 15, True)
        assert found[-1] == (256, 5, False)  # that of the auxiliary head
        assert found[-3] == (last, 5, False)
        others = found[1:-3] + found[-2:-1]
        assert others == [(64, 5, False)] * (len(found) - 3)
    classifier = ConvSpec(256, 21, 1, Role("classifier", architecture=NAME))
    assert whitened(NetworkDeconvolution(authors_settings=False).conv(classifier)) == [(64, 5, False)]


def test_initial_weights() -> None:
    """He's in the plain backbone, torch's default in the heads and in all that is deconvolved."""
    plain, deconvolved = small("fcn_resnet18", width=32), small("fcn_resnet18", NetworkDeconvolution(), 32)
    for network, normal in ((plain.get_submodule("backbone"), True), (plain.get_submodule("head"), False)):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                out, taken, rows, columns = layer.weight.shape
                if normal:
                    assert layer.weight.std().item() == pytest.approx((2 / (out * rows * columns)) ** 0.5, rel=0.1)
                else:
                    assert layer.weight.abs().max() <= (taken * rows * columns) ** -0.5
    for layer in deconvolved.modules():
        if isinstance(layer, DeconvConv2d):
            assert layer.weight.abs().max() <= layer.weight[0].numel() ** -0.5


def test_statistics_of_pooled_maps_are_those_of_the_first_image() -> None:
    """As the authors' layer samples every ninth pixel of the batch, and there is one in each image."""
    torch.manual_seed(0)
    branch = Pooled(NetworkDeconvolution(), 128, 16, lambda place, **more: Role(place, **more)).double().train()
    x = images(9, 5, 4, 128).double()
    branch(x)
    conv = next(module for module in branch.modules() if isinstance(module, DeconvConv2d))
    groups = x[0].mean((1, 2)).view(64, 2)  # channel c is in the vector c % 2
    torch.testing.assert_close(conv.running_mean, 0.1 * groups.mean(1).float(), atol=1e-6, rtol=1e-4, check_dtype=False)


@pytest.mark.parametrize("method_name", methods.names())
def test_every_method_trains_a_short_network(method_name: str) -> None:
    """A step reaches every parameter, of the auxiliary head too, and the evaluation draws nothing."""
    method = methods.build(method_name, {"no_norm": {"residual_gain": 0.1}}.get(method_name, {}))
    network, x = short(method).train(), images(2, 40, 33)
    labels = torch.arange(2 * 40 * 33).view(2, 40, 33) % CLASSES
    own, other = network(x)
    loss = functional.cross_entropy(own, labels) + 0.5 * functional.cross_entropy(other, labels)
    penalty = method.penalty(network)
    loss = loss if penalty is None else loss + penalty
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        logits = network.eval()(x)
        assert logits.shape == (2, CLASSES, 40, 33)
        assert logits.isfinite().all()
        assert torch.equal(logits, network(x))


@pytest.mark.parametrize("method_name", methods.names())
def test_every_method_has_a_convolution_to_logits(method_name: str) -> None:
    """It has a bias, as no norm follows it, and each of its pixels hangs on one pixel alone."""
    torch.manual_seed(0)
    layer = methods.build(method_name, {}).conv(ConvSpec(8, CLASSES, 1, Role("classifier"))).eval()
    assert (CLASSES,) in [tuple(value.shape) for key, value in layer.named_parameters() if key.endswith("bias")]
    x = images(2, 4, 6, 8)
    other = x.clone()
    other[:, :, 1, 2] += 1
    with torch.no_grad():
        changed = (layer(other) - layer(x)).abs().amax((0, 1)) > 1e-5
    near = torch.zeros(4, 6, dtype=torch.bool)
    near[1, 2] = method_name != "fixup"  # whose classifier starts at 0
    assert torch.equal(changed, near)


@pytest.mark.parametrize("head", [FCNHead, DeepLabHead])
@pytest.mark.parametrize("method_name", ["batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm"])
def test_networks_fold(method_name: str, head: Callable[..., nn.Module]) -> None:
    """Into plain convolutions, the dilated ones too, with the same logits at another size of images."""
    network = short(methods.build(method_name, {}), head).double().train()
    network(images(2, 24, 24).double())
    folded, x = fold(network), images(2, 31, 26).double()
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network.eval()(x), rtol=1e-9, atol=1e-10)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d | DeconvConv2d)]
    assert [name for name in left if not name.startswith("aux.")] == []  # that head has no part in an evaluation


@pytest.mark.parametrize("head", [FCNHead, DeepLabHead])
def test_copies_through_the_state(head: Callable[..., nn.Module]) -> None:
    method = NetworkDeconvolution()
    network, x = short(method, head).train(), images(2, 24, 24)
    network(x)
    other = short(method, head)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(x), network.eval()(x))


def test_the_table_of_models_has_a_kind_of_its_own() -> None:
    model: Model = registry.get("fcn_resnet18")
    assert model.kind == "segmenter"
    assert model.options() == {"width": 64, "aux": False}
    assert model.size_problem(20, 30) is None
    assert registry.get("fcn_resnet18", "segmenter") is model
    with pytest.raises(UserError, match="unknown model; did you mean 'fcn_resnet18'"):
        registry.get("fcn_resnet8", "segmenter")
    with pytest.raises(UserError, match="registered as a segmenter; what is needed here is a classifier"):
        registry.get("normbench.models.segmentation:fcn_resnet18", "classifier")
