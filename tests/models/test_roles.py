"""What models tell methods of the places of their layers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normbench.functional.maxmin import MaxMin
from normbench.methods import registry as methods
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models import registry
from normbench.models.build import build_classifier, build_gan
from tests.models.networks import NARROW, ON_NARROW, built, images, logits_of


@dataclasses.dataclass(frozen=True)
class Spy(Method):
    """Writes down the roles that it is asked for, without their activation, which has tests of its own below."""

    convolutions: list[Role] = dataclasses.field(default_factory=list)
    norms: list[Role] = dataclasses.field(default_factory=list)
    linears: list[Role] = dataclasses.field(default_factory=list)

    def conv(self, spec: ConvSpec) -> nn.Module:
        self.convolutions.append(dataclasses.replace(spec.role, activation=""))
        return super().conv(spec)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        self.norms.append(dataclasses.replace(role, activation=""))
        return super().norm(channels, role=role)

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        self.linears.append(role)
        return super().linear(in_features, out_features, role=role)


def family(name: str) -> str:
    return name if name.startswith("pnasnet") else registry.get(name).source[0].stem


Roles = tuple[list[Role], list[Role], int]


def resnet8_roles(role: Callable[..., Role]) -> Roles:
    layers = [role("stem")]
    for stage in range(3):
        layers += [role("body", stage), role("body", stage, last_in_block=True)]
        layers += [role("downsample", stage)] if stage > 0 else []
    return layers, layers, 2


def vgg11_roles(role: Callable[..., Role]) -> Roles:
    stages = [0, 1, 2, 2, 3, 3, 4, 4]
    convs = [role("body" if index else "stem", stage) for index, stage in enumerate(stages)]
    last = [0, 1, 3, 5, 7]
    norms = [dataclasses.replace(conv, last_in_block=index in last) for index, conv in enumerate(convs)]
    return convs, norms, 4


def preact_resnet18_roles(role: Callable[..., Role]) -> Roles:
    """No norm after the stem and in shortcuts, one before the pooling."""
    blocks, downsamples = [], []
    for stage in range(4):
        blocks += [role("body", stage), role("body", stage, last_in_block=True)] * 2
        downsamples += [role("downsample", stage)] if stage > 0 else []
    return [role("stem"), *blocks, *downsamples], [*blocks, role("body", 3)], 3


def senet18_roles(role: Callable[..., Role]) -> Roles:
    convs, norms, last = preact_resnet18_roles(role)
    return convs + [role("gate", stage) for stage in range(4)] * 4, norms, last


def densenet121_roles(role: Callable[..., Role]) -> Roles:
    convs, norms = [role("stem")], [role("body", 3)]
    for stage, layers in enumerate((6, 12, 24, 16)):
        convs += [role("body", stage)] * 2 * layers
        norms += [role("body", stage), role("body", stage, last_in_block=True)] * layers
    transitions = [role("body", stage) for stage in range(3)]
    return convs + transitions, norms + transitions, 3


def resnext29_2x64d_roles(role: Callable[..., Role]) -> Roles:
    layers = [role("stem")]
    for stage in range(3):
        block = [role("body", stage), role("grouped", stage), role("projection", stage, last_in_block=True)]
        layers += block * 3 + [role("downsample", stage)]
    return layers, layers, 2


def mobilenet_v2_roles(role: Callable[..., Role]) -> Roles:
    """Stages of 3, 3, 7 and 4 blocks; the first block of those after the first has no addition."""
    layers = [role("stem"), role("body", 3)]
    for stage, (blocks, downsamples) in enumerate([(3, 2), (3, 0), (7, 1), (4, 1)]):
        layers += [role("body", stage), role("depthwise", stage)] * blocks
        for index in range(blocks):
            expansion = 1 if stage == index == 0 else 6
            layers += [role("projection", stage, last_in_block=stage == 0 or index > 0, expansion=expansion)]
        layers += [role("downsample", stage)] * downsamples
    return layers, layers, 3


def dpn92_roles(role: Callable[..., Role]) -> Roles:
    layers = [role("stem")]
    for stage, blocks in enumerate((3, 4, 20, 3)):
        block = [role("body", stage), role("grouped", stage), role("projection", stage, last_in_block=True)]
        layers += block * blocks + [role("downsample", stage)]
    return layers, layers, 3


def pnasnet_b_roles(role: Callable[..., Role]) -> Roles:
    """Six cells, then twice a reducing one and six more, each of three depth-wise convolutions and a last one.

    Only one of the three is added to a shortcut, which is the pooled branch.
    """
    layers = [role("stem")]
    for stage, cells in enumerate((6, 7, 7)):
        added = role("depthwise", stage, last_in_block=True)
        layers += ([role("depthwise", stage)] * 2 + [added, role("body", stage)]) * cells
        layers += [role("downsample", stage)] if stage > 0 else []
    return layers, layers, 2


def efficientnet_b0_roles(role: Callable[..., Role]) -> Roles:
    """Blocks in each of the stages after the stem: 3, 2, 6, 4 and 1; one row of stages 1 and 3 gets wider.

    The first block of a stage has a stride, and adds its output to itself alone.
    """
    layers, gates = [role("stem")], []
    for stage, (blocks, downsamples) in enumerate([(3, 1), (2, 0), (6, 1), (4, 0), (1, 0)], start=1):
        layers += [role("body", stage), role("depthwise", stage)] * blocks
        for index in range(blocks):
            expansion = 1 if stage == 1 and index == 0 else 6
            layers += [role("projection", stage, last_in_block=index > 0, expansion=expansion)]
        layers += [role("downsample", stage)] * downsamples
        gates += [role("gate", stage)] * 2 * blocks
    return layers + gates, layers, 5


@ON_NARROW
def test_roles(name: str) -> None:
    convs, norms, last = globals()[f"{name}_roles"](functools.partial(Role, architecture=family(name)))

    def counted(roles: list[Role]) -> list[str]:
        return sorted(map(repr, roles))

    def marked(roles: list[Role]) -> list[Role]:
        return [dataclasses.replace(role, last_stage=role.stage == last) for role in roles]

    spy = Spy()
    built(name, spy)
    assert counted(spy.convolutions) == counted(marked(convs))
    assert counted(spy.norms) == counted(marked(norms))
    assert spy.linears == marked([Role("head", last, architecture=family(name))])
    assert spy.convolutions[0].place == "stem"


@ON_NARROW
def test_marked_norms_are_the_last_ones_to_run(name: str) -> None:
    """Before the addition of their block, or in their dense layer or stage."""

    class Marking(Method):
        def norm(self, channels: int, *, role: Role) -> nn.Module:
            layer = super().norm(channels, role=role)
            layer.role = role
            return layer

    model = built(name, Marking())
    marks: dict[str, list[bool]] = {}

    def note(place: str, module: nn.Module) -> None:
        marks.setdefault(place, []).append(module.role.last_in_block)

    for key, module in model.named_modules():
        if hasattr(module, "role") and "shortcut" not in key:
            place = f"stage {module.role.stage}" if name == "vgg11" else key.rpartition(".")[0]
            module.register_forward_hook(lambda module, _x, _output, place=place: note(place, module))
    logits_of(model, images(0, 1))
    found = {place: [i - len(marked) for i, mark in enumerate(marked) if mark] for place, marked in marks.items()}
    outside = [place for place, last in found.items() if last != [-1]]
    expected = ["" for place in found if place == ""]  # stem, end of the network
    if name == "densenet121":
        expected += ["stages.0.6", "stages.1.12", "stages.2.24"]  # transitions
    if name == "mobilenet_v2":
        expected += ["blocks.3", "blocks.6", "blocks.13"]  # no addition
    if name == "efficientnet_b0":
        expected += [f"blocks.{index}" for index in (0, 3, 5, 11, 15)]  # no shortcut
    if name == "pnasnet_b":
        every = [f"stages.{stage}.{index}" for stage in range(3) for index in range(6 + (stage > 0))]
        expected += [*every, *(f"{cell}.{branch}" for cell in every for branch in ("deep3", "deep7"))]  # joined
        expected += ["stages.1.0.pooled.resized", "stages.2.0.pooled.resized"]
    assert sorted(outside) == sorted(expected)
    assert not any(found[place] for place in outside)


POOLED_OR_GATED = {"vgg11", "pnasnet_b", "senet18", "efficientnet_b0"}  # by the largest pixel, or by gates


@dataclasses.dataclass(frozen=True)
class Listing(Method):
    """Writes down every hook that it is asked for, in order, with the role."""

    asked: list[tuple[str, Role]] = dataclasses.field(default_factory=list)

    def conv(self, spec: ConvSpec) -> nn.Module:
        self.asked.append(("conv", spec.role))
        return super().conv(spec)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        self.asked.append(("norm", role))
        return super().norm(channels, role=role)

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        self.asked.append(("linear", role))
        return super().linear(in_features, out_features, role=role)


def test_roles_in_a_lenet() -> None:
    listing = Listing()
    build_classifier("lenet", {}, listing, 1, 10)
    role = functools.partial(Role, architecture="lenet")
    stem, body = role("stem", activation="relu"), role("body", 1, True, activation="relu")
    assert listing.asked == [
        ("conv", stem),
        ("norm", dataclasses.replace(stem, last_in_block=True)),
        ("conv", body),
        ("norm", dataclasses.replace(body, last_in_block=True)),
        ("linear", role("body", 1, True)),
        ("linear", role("body", 1, True)),
        ("linear", role("head", 1, True)),
    ]


def test_roles_in_an_mlp() -> None:
    listing = Listing()
    build_classifier("mlp", {}, listing, 1, 10)
    role = functools.partial(Role, architecture="mlp")
    hidden = [role("body", stage, stage == 1, activation="sigmoid") for stage in (0, 1)]
    first, second = ([("linear", one), ("norm", dataclasses.replace(one, last_in_block=True))] for one in hidden)
    assert listing.asked == [*first, *second, ("linear", role("head", 1, True))]


def test_roles_in_a_convnet() -> None:
    """A convolution of stride 2 begins a stage; its hidden linear layers have no norm."""
    listing = Listing()
    build_classifier("convnet", {"activation": "tanh"}, listing, 1, 10)
    role = functools.partial(Role, architecture="convnet", activation="tanh")
    convs = [role("stem"), role("body", 1), role("body", 1), role("body", 2, True)]
    last = [dataclasses.replace(conv, last_in_block=index != 1) for index, conv in enumerate(convs)]
    assert listing.asked == [
        *(each for conv, norm in zip(convs, last, strict=True) for each in (("conv", conv), ("norm", norm))),
        *[("linear", role("body", 2, True))] * 2,
        ("linear", Role("head", 2, True, architecture="convnet")),
    ]


@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_networks_without_norms_ask_for_none(name: str) -> None:
    """Their activations are those of the method, or, where its norms have them, the network's own."""
    listing = Listing()
    build_classifier(name, {"norms": False}, listing, 1, 10)
    assert "norm" not in {hook for hook, _ in listing.asked}
    for method, kind in (("cayley", MaxMin), ("evonorm_s0", nn.Softplus), ("batch_norm", nn.Softplus)):
        network = build_classifier(name, {"norms": False, "activation": "softplus"}, methods.build(method, {}), 1, 10)
        found = [type(m) for m in network.modules() if isinstance(m, (MaxMin, nn.Softplus, nn.ReLU, nn.Sigmoid))]
        assert found == [kind] * (6 if name == "convnet" else 2)
        assert all(conv.bias is not None for conv in network.modules() if isinstance(conv, nn.Conv2d))


def test_roles_in_an_sngan() -> None:
    spy = Spy()
    build_gan("sngan", {"width": 4}, spy, 3, 32, 8)
    role = functools.partial(Role, architecture="sngan")
    convs = [role("stem")] + [role("body", stage, stage == 3) for stage in (1, 1, 2, 2, 3, 3)]
    assert spy.convolutions == convs
    assert spy.norms == [dataclasses.replace(conv, last_in_block=i in (0, 2, 4, 6)) for i, conv in enumerate(convs)]
    assert spy.linears == [role("head", 3, True)]


class Noted(nn.Module):
    """Writes down that it is called, and returns what it is given."""

    def __init__(self, hook: str, channels: int, role: Role, calls: list[tuple[str, Role]]):
        super().__init__()
        self.hook, self.channels, self.role, self.calls = hook, channels, role, calls

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        self.calls.append((self.hook, self.role))
        return x


@dataclasses.dataclass(frozen=True)
class Linear(Method):
    """Neither norms nor activations do anything but write down that they are called."""

    calls: list[tuple[str, Role]] = dataclasses.field(default_factory=list)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return Noted("norm", channels, role, self.calls)

    def activation(self, channels: int, *, role: Role) -> nn.Module:
        return Noted("activation", channels, role, self.calls)


@ON_NARROW
def test_activations_follow_the_norms_that_say_so(name: str) -> None:
    method = Linear()
    logits_of(built(name, method), images(0, 1))
    after = [*method.calls[1:], None]
    for (hook, role), following in zip(method.calls, after, strict=True):
        if hook == "norm" and role.activation:
            assert following == ("activation", role)
        elif hook == "norm":
            assert following is None or following[0] == "norm" or following[1].place == "addition"
    additions = [role for hook, role in method.calls if hook == "activation" and role.place == "addition"]
    norms = [role for hook, role in method.calls if hook == "norm"]
    marked = sum(not role.activation and role.last_in_block for role in norms)
    if name == "pnasnet_b":
        assert (len(additions), marked) == (2 * 20, 20)  # the two sums of a cell, of which one has a shortcut
    else:
        assert len(additions) == marked * name.startswith(("res", "dpn"))
    assert {role.activation for hook, role in method.calls if hook == "activation"} == {"relu"}
    assert len(method.calls) - len(norms) == sum(bool(role.activation) for role in norms) + len(additions)


@pytest.mark.parametrize("name", sorted({*NARROW} - POOLED_OR_GATED))
def test_no_activation_but_those_of_the_method(name: str) -> None:
    """Without norms and activations, the logits are an affine function of the images."""
    network = built(name, Linear()).double()
    x, y = images(0, 2).double(), images(1, 2).double()
    found = [logits_of(network, each) for each in (x + y, x, y, torch.zeros_like(x))]
    assert torch.allclose(found[0] + found[3], found[1] + found[2], rtol=0, atol=1e-10 * found[0].abs().max().item())
    assert found[1].std() > 0


def test_activations_of_an_sngan() -> None:
    method = Linear()
    build_gan("sngan", {"width": 4}, method, 3, 32, 8)[1](images(0, 1))
    assert [hook for hook, _ in method.calls] == ["norm", "activation"] * 7
    assert {role.activation for _, role in method.calls} == {"leaky_relu"}
    layer = Method().activation(4, role=method.calls[0][1])
    assert layer(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([-0.1, 2.0])
