"""The architectures are those of the papers: parameters, groups, sizes of maps, and what their blocks do."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods import registry as methods
from normbench.methods.base import Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.no_norm import NoNorm
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models.build import build_classifier
from normbench.models.senet import Gate
from tests.models.networks import built, convolutions, images, logits_of

PRE_ACTIVATION = ("preact_resnet18", "densenet121", "senet18")


# --- size ------------------------------------------------------------------------------------------------------------


# Of 10 classes, with batch norm. Where a comment has none, common code for CIFAR has the same number.
@pytest.mark.parametrize(
    ("name", "options", "parameters", "convs"),
    [
        ("resnet18", {}, 11_173_962, 20),
        # 11,171,146 in common code, which has no norm before the pooling: 512 weights and biases.
        ("preact_resnet18", {}, 11_171_146 + 2 * 512, 20),
        # 11,260,354 in common code, which has no norm before the pooling, but one after the stem.
        ("senet18", {}, 11_260_354 + 2 * 512 - 2 * 64, 36),
        ("densenet100", {}, 769_162, 99),
        ("densenet121", {}, 1_000_618, 120),
        ("densenet121", {"growth": 32}, 6_956_298, 120),
        ("resnext29_2x64d", {}, 9_128_778, 31),
        ("resnext29_32x4d", {}, 4_774_218, 31),
        ("mobilenet_v2", {}, 2_296_922, 57),
        ("dpn92", {}, 34_236_634, 95),
        ("pnasnet_a", {}, 130_646, 23),
        ("pnasnet_b", {}, 451_626, 83),
        ("efficientnet_b0", {}, 2_912_089, 83),
        # The authors' forms; the pre-activation ResNet there has a norm that it never applies, of 128 parameters.
        ("vgg16", {"authors_form": True}, 14_728_266, 13),
        ("vgg16", {}, 14_728_266 - 4_224, 13),
        ("preact_resnet18", {"authors_form": True}, 11_171_274 - 128, 20),
        ("senet18", {"authors_form": True}, 11_260_354, 36),
        ("efficientnet_b0", {"authors_form": True}, 2_912_089, 83),
        # With norms, which LeCun's network does not have, and hidden linear layers with biases.
        ("lenet", {}, 62_006 + 2 * (6 + 16), 2),
        # Wong et al.'s large network with 3x3 kernels, on images of 32x32 pixels, and the 784-1024-10 of curvature
        # certificates, here with 3 * 16^2 pixels.
        ("convnet", {"side": 8, "norms": False}, 896 + 9_248 + 18_496 + 36_928 + 4_097 * 512 + 513 * 512 + 5_130, 4),
        ("mlp", {"side": 16, "width": 1024, "depth": 1, "norms": False}, 769 * 1024 + 10_250, 0),
        ("mlp", {"side": 16}, 3 * 16**2 * 128 + 128 + 128**2 + 128 + 1_290 + 4 * 128, 0),
    ],
)
def test_number_of_parameters(name: str, options: dict[str, int | bool], parameters: int, convs: int) -> None:
    model = build_classifier(name, options, BatchNorm(), 3, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(convolutions(model)) == convs


# The table of the Network Deconvolution paper (arXiv 1905.11926) gives millions of parameters.
@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("resnet18", {}, 11.17),
        ("preact_resnet18", {}, 11.17),
        ("senet18", {}, 11.26),
        ("densenet121", {"growth": 32}, 6.88),
        ("resnext29_32x4d", {}, 4.76),
        ("mobilenet_v2", {}, 2.28),
        ("dpn92", {}, 34.18),
        ("pnasnet_a", {}, 0.13),
        ("pnasnet_b", {}, 0.45),
        ("efficientnet_b0", {"authors_form": True}, 2.91),
        ("efficientnet_b0", {}, 2.89),
    ],
)
def test_number_of_parameters_with_deconvolution(name: str, options: dict[str, int | bool], millions: float) -> None:
    model = build_classifier(name, options, methods.build("network_deconvolution", {}), 3, 10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "depthwise", "grouped"),
    [("mobilenet_v2", 17, {}), ("resnext29_2x64d", 0, {2: 9}), ("resnext29_32x4d", 0, {32: 9}), ("densenet100", 0, {})],
)
def test_groups(name: str, depthwise: int, grouped: dict[int, int]) -> None:
    found: dict[int, int] = {}
    for conv in convolutions(build_classifier(name, {}, BatchNorm(), 3, 10)):
        if conv.groups > 1:
            assert conv.kernel_size == (3, 3)
            groups = 0 if conv.groups == conv.in_channels == conv.out_channels else conv.groups
            found[groups] = found.get(groups, 0) + 1
    assert found.pop(0, 0) == depthwise
    assert found == grouped


# --- sizes of maps ----------------------------------------------------------------------------------------------------


# Output sizes of the convolutions in the order in which they run, without those of shortcuts and gates. In bottlenecks
# the first convolution of a stage still has the maps of the stage before.
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("preact_resnet18", [32] * 5 + [16] * 4 + [8] * 4 + [4] * 4),
        ("senet18", [32] * 5 + [16] * 4 + [8] * 4 + [4] * 4),
        ("resnext29_2x64d", [32] * 11 + [16] * 9 + [8] * 8),
        ("mobilenet_v2", [32] * 11 + [16] * 9 + [8] * 21 + [4] * 12),
        ("densenet100", [32] * 34 + [16] * 33 + [8] * 32),
        ("densenet121", [32] * 14 + [16] * 25 + [8] * 49 + [4] * 32),
    ],
)
def test_sizes_of_the_maps(name: str, sizes: list[int]) -> None:
    model, found = built(name, BatchNorm()), []
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and "shortcut" not in key and "gate" not in key:
            module.register_forward_hook(lambda _module, _inputs, output: found.append(output.shape[-1]))
    logits_of(model, images(0, 1))
    assert found == sizes


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [BatchNorm(), NoNorm()], ids=["norm", "no norm"])
@pytest.mark.parametrize("name", PRE_ACTIVATION)
def test_activations_stand_before_convolutions(name: str, method: Method) -> None:
    """With the norm before them, or without one; also before the classifier."""
    model, lowest = built(name, method).train(), {}
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and "gate" not in key:
            module.register_forward_hook(
                lambda _module, inputs, _output, key=key: lowest.update({key: inputs[0].min().item()})
            )
    model(images(0))
    assert lowest.pop("conv") < 0
    assert "head" in lowest
    assert len(lowest) == sum("gate" not in key for key, m in model.named_modules() if isinstance(m, nn.Conv2d))
    assert min(lowest.values()) >= 0


@pytest.mark.parametrize(
    ("name", "additions"),
    [("resnet8", 3), ("preact_resnet18", 8), ("senet18", 8), ("resnext29_2x64d", 9), ("mobilenet_v2", 14)],
)
def test_blocks_without_their_residual_branch(name: str, additions: int) -> None:
    """With zeros in the convolutions that are the last of a block, each block is its shortcut."""
    model = built(name, NoNorm(residual_gain=0.0))
    assert sum(not conv.weight.any() for conv in convolutions(model)) == additions
    found: dict[str, Tensor] = {}
    blocks = [key.removesuffix(".shortcut") for key, _ in model.named_modules() if key.endswith(".shortcut")]
    for block in blocks:
        for key in (block, f"{block}.shortcut"):
            model.get_submodule(key).register_forward_hook(
                lambda _module, _inputs, output, key=key: found.update({key: output})
            )
    logits_of(model, images(0, 2))
    assert len(blocks) == additions
    for block in blocks:
        shortcut = found[f"{block}.shortcut"]
        assert torch.equal(found[block], functional.relu(shortcut) if name.startswith("resne") else shortcut), block


@pytest.mark.parametrize("name", ["vgg11", "densenet121"])
def test_no_convolution_ends_a_block_where_nothing_is_added(name: str) -> None:
    plain, scaled = built(name, NoNorm()), built(name, NoNorm(residual_gain=0.0))
    for parameter, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_first_shortcut_of_a_preactivation_network_is_activated() -> None:
    """The others are not, where they are the identity."""
    model = built("preact_resnet18", BatchNorm()).eval()
    inputs: dict[str, Tensor] = {}
    for block in ("0.0", "0.1", "1.0", "1.1"):
        model.get_submodule(f"stages.{block}.shortcut").register_forward_hook(
            lambda _module, x, _output, block=block: inputs.update({block: x[0]})
        )
    logits_of(model, images(0, 2))
    assert {block: bool((x < 0).any()) for block, x in inputs.items()} == {
        "0.0": False,
        "0.1": True,
        "1.0": False,
        "1.1": True,
    }


def test_inverted_residuals_end_without_an_activation() -> None:
    model = built("mobilenet_v2", BatchNorm())
    found: dict[str, Tensor] = {}
    for key, module in model.named_modules():
        if re.fullmatch(r"blocks\.\d+(\.norm3)?", key):
            module.register_forward_hook(lambda _module, _x, output, key=key: found.update({key: output}))
    logits_of(model, images(0, 2))
    alone = [index for index in range(17) if torch.equal(found[f"blocks.{index}"], found[f"blocks.{index}.norm3"])]
    assert alone == [3, 6, 13]  # with stride 2
    assert all(found[f"blocks.{index}"].min() < 0 for index in range(17))


def test_a_dense_layer_appends_channels() -> None:
    layer = built("densenet100", BatchNorm()).eval().get_submodule("stages.0.0")
    x = images(0, 2, channels=4)
    with torch.no_grad():
        y = layer(x)
    assert y.shape == (2, 4 + 2, 32, 32)
    assert torch.equal(y[:, :4], x)
    assert layer.get_submodule("conv1").out_channels == 4 * 2


def test_a_gate() -> None:
    torch.manual_seed(0)
    gate = Gate(BatchNorm(), 32, functools.partial(Role, architecture="senet")).double()
    x = images(0, 3, channels=32, size=5).double()
    first, second = gate.squeeze, gate.excite
    means = x.mean((2, 3))
    hidden = (means @ first.weight[:, :, 0, 0].T + first.bias).clamp(min=0)
    factors = 1 / (1 + (-(hidden @ second.weight[:, :, 0, 0].T + second.bias)).exp())
    assert hidden.shape == (3, 2)
    assert torch.allclose(gate(x), x * factors[:, :, None, None], rtol=1e-12)


@pytest.mark.parametrize("method_name", ["batch_norm", "group_norm", "spectral_batch_norm", "fantastic_four"])
def test_convolutions_have_a_bias_in_gates_alone(method_name: str) -> None:
    model = built("senet18", methods.build(method_name, {}))
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (module.bias is not None) == ("gate" in key), key


def test_biases_under_spectral_norm() -> None:
    for batch_norm in (True, False):
        for key, module in built("senet18", SpectralNorm(batch_norm=batch_norm)).named_modules():
            if isinstance(module, nn.Conv2d):
                assert (module.bias is not None) == ("gate" in key or not batch_norm), key
