"""Plain classes of layers as methods: norms and convolutions as they are written elsewhere, without normbench."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.checks.method import problems
from normbench.methods import plain, registry
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.plain import adapted, taken_for
from normbench.models.build import build_classifier
from normbench.runs import code
from normbench.suite.file import check_options
from normbench.system import digests
from normbench.system.errors import UserError
from tests.models.networks import images

FOLLOWED, ALONE, ADDED = Role("body", activation="relu"), Role("body"), Role("addition", activation="relu")


class Scaled(nn.Module):
    """A norm with options of many types."""

    def __init__(
        self,
        num_features,
        size: int,
        eps: float = 1e-5,
        groups=4,
        momentum=None,
        act: type[nn.Module] | str = nn.ReLU,
        kind: list[str] | None = None,
        device=None,
        *,
        affine: bool = True,
        **others,
    ):
        super().__init__()
        self.given = {"num_features": num_features, "size": size, "eps": eps, "groups": groups, "momentum": momentum}
        self.given |= {"act": act, "kind": kind, "affine": affine}
        self.weight = nn.Parameter(torch.ones(num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Convolution(nn.Conv2d):
    """A convolution with an option."""

    def __init__(
        self,
        in_planes,
        out_planes,
        kernel_size,
        stride=1,
        padding=0,
        groups=1,
        dilation=1,
        bias=True,
        gain: float = 2.0,
    ):
        super().__init__(in_planes, out_planes, kernel_size, stride, padding, dilation, groups, bias)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * super().forward(x)


class WithActivation(nn.BatchNorm2d):
    includes_activation = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


class Switched(nn.BatchNorm2d):
    def __init__(self, num_features: int, apply_act: bool = True):
        super().__init__(num_features)
        self.apply_act = apply_act

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x.abs() if self.apply_act else x


def options(kind: type[Method]) -> dict[str, Any]:
    return {
        field.name: "required" if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(kind)
    }


def built(kind: type, **given: Any) -> nn.Module:
    return build_classifier("resnet8", {"width": 4}, adapted(kind)(**given), 3, 10, 0)


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_follow_from_the_signature() -> None:
    kind = adapted(Scaled)
    expected = {
        "size": "required",
        "eps": 1e-5,
        "groups": 4,
        "momentum": None,
        "act": None,
        "kind": None,
        "affine": True,
    }
    assert options(kind) == expected
    assert kind.__name__ == "Scaled"
    assert problems(kind) == []
    assert adapted(Scaled) is kind


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"size": 3}, []),
        ({"size": 3, "groups": 0.5, "momentum": "any", "act": "gelu", "kind": ["a"], "affine": False, "eps": 1}, []),
        ({}, [("size", "missing; Scaled needs it")]),
        ({"size": 3.5}, [("size", "must be a whole number")]),
        ({"size": 3, "afine": True}, [("afine", "unknown option of Scaled; did you mean 'affine'?")]),
        ({"size": 3, "device": "cpu"}, [("device", "unknown option of Scaled")]),
        ({"size": 3, "affine": 1}, [("affine", "must be true or false")]),
        ({"size": 3, "kind": [1]}, [("kind", "0: must be text")]),
    ],
)
def test_options_are_checked(given: dict[str, Any], wrong: list[tuple[str, str]]) -> None:
    found = check_options(adapted(Scaled), given)
    assert [name for name, _ in found] == [name for name, _ in wrong]
    assert all(said.startswith(start) for (_, said), (_, start) in zip(found, wrong, strict=True))


def test_a_default_that_params_yaml_cannot_write_is_that_of_the_class() -> None:
    norm = adapted(Scaled)(size=3).norm(6, role=FOLLOWED)
    assert norm.given == {
        "num_features": 6,
        "size": 3,
        "eps": 1e-5,
        "groups": 4,
        "momentum": None,
        "act": nn.ReLU,
        "kind": None,
        "affine": True,
    }
    assert adapted(Scaled)(size=3, act="gelu").norm(6, role=FOLLOWED).given["act"] == "gelu"


def test_classes_that_cannot_be_used() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None: ...

    class NeedsFunction(nn.Module):
        def __init__(self, num_features: int, function: type[nn.Module]): ...

    with pytest.raises(
        UserError, match="Nothing takes no arguments; the first argument of a norm is the number of channels"
    ):
        adapted(Nothing)
    with pytest.raises(
        UserError, match=r"NeedsFunction needs function, which cannot be given in params.yaml; give it a default"
    ):
        adapted(NeedsFunction)


def test_an_option_with_the_name_of_a_hook_keeps_its_default() -> None:
    class Named(nn.Module):
        def __init__(self, num_features: int, activation: str = "relu", norm: int = 3): ...

    assert options(adapted(Named)) == {}
    assert inspect.isfunction(adapted(Named).activation)


# --- what a class is taken for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Scaled, "Scaled is taken for a norm whose number of channels is num_features"),
        (nn.GroupNorm, "GroupNorm is taken for a norm whose number of channels is num_channels"),
        (Switched, "Switched is taken for a norm whose number of channels is num_features; it contains its activation"),
        (Convolution, "Convolution is taken for a convolution, because it has an argument kernel_size"),
    ],
)
def test_what_a_class_is_taken_for_is_said(kind: type[nn.Module], said: str) -> None:
    assert taken_for(adapted(kind)) == said
    assert taken_for(registry.method_class("batch_norm")) is None


def test_a_convolution_takes_the_place_of_convolutions() -> None:
    network = built(Convolution, gain=3.0)
    plain_ones = [module for module in network.modules() if type(module) is nn.Conv2d]
    own = [module for module in network.modules() if isinstance(module, Convolution)]
    assert (len(plain_ones), len(own)) == (0, 9)
    assert {module.gain for module in own} == {3.0}
    assert all(module.bias is None for module in own)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 9
    spec = ConvSpec(4, 6, 3, FOLLOWED, stride=2, padding=1, groups=2, dilation=3)
    layer = adapted(Convolution)().conv(spec)
    assert (layer.stride, layer.padding, layer.groups, layer.dilation) == ((2, 2), (1, 1), 2, (3, 3))


def test_a_convolution_that_takes_no_groups_is_refused_where_there_are_some() -> None:
    class Ungrouped(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0):
            super().__init__()
            self.layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)

    method = adapted(Ungrouped)()
    assert method.conv(ConvSpec(4, 4, 3, FOLLOWED, stride=2, padding=1)).layer.stride == (2, 2)
    with pytest.raises(ValueError, match="Ungrouped takes no groups, and a layer of this network has groups=2"):
        method.conv(ConvSpec(4, 4, 3, FOLLOWED, groups=2))
    with pytest.raises(ValueError, match="Ungrouped takes no dilation, and a layer of this network has dilation=2"):
        method.conv(ConvSpec(4, 4, 3, FOLLOWED, dilation=2))


# --- the activation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "inside", "before_additions"),
    [(WithActivation, {}, True, True), (Switched, {}, True, False), (Switched, {"apply_act": False}, False, False)],
)
def test_a_contained_activation(kind: type, given: dict[str, Any], inside: bool, before_additions: bool) -> None:
    """It replaces the one after its norm, but not the one after an addition, and is switched off where it can be."""
    method, x = adapted(kind)(**given), images(0, 4, 6, 5)
    has = [bool((method.norm(6, role=role)(x) >= 0).all()) for role in (FOLLOWED, ALONE)]
    assert has == [inside, before_additions]
    assert isinstance(method.activation(6, role=FOLLOWED), nn.Identity if inside else nn.ReLU)
    assert isinstance(method.activation(6, role=ADDED), nn.ReLU)
    assert isinstance(adapted(Scaled)(size=1).activation(6, role=FOLLOWED), nn.ReLU)


def test_a_network_of_plain_batch_norms_is_that_of_batch_norm() -> None:
    expected = build_classifier("resnet8", {"width": 4}, registry.build("batch_norm", {}), 3, 10, 0)
    found = build_classifier("resnet8", {"width": 4}, registry.build("torch.nn:BatchNorm2d", {}), 3, 10, 0)
    assert torch.equal(found(images(0, 4)), expected(images(0, 4)))


# --- references and digests ------------------------------------------------------------------------------------------

FILE = """
import torch
from torch import nn
from {helper} import GAIN


class Norm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x * GAIN
"""


def test_references_and_the_digest_of_a_file(tmp_path: Path) -> None:
    """The digest covers the class, what it imports of the project, and how plain classes are used."""
    helper, file = tmp_path / "plain_helper.py", tmp_path / "plain_norm.py"
    helper.write_text("GAIN = 2.0\nOTHER = 1\n")
    file.write_text(FILE.format(helper="plain_helper"))
    reference = f"{file}:Norm"
    assert options(registry.method_class(reference)) == {"eps": 1e-5}
    assert registry.own(file) == [reference]
    before = code.method(reference)
    helper.write_text("GAIN = 2.0\nOTHER = 2\n")
    assert code.method(reference) == before
    helper.write_text("GAIN = 3.0\nOTHER = 2\n")
    assert code.method(reference) != before
    with pytest.raises(UserError, match=r"plain_norm.py:Norm$"):
        registry.method_class(str(file))
    with pytest.raises(UserError, match="has no class Nrm; did you mean 'Norm'"):
        registry.method_class(f"{file}:Nrm")
    with pytest.raises(UserError, match=r"GAIN in .* is a subclass neither of torch.nn.Module nor of"):
        registry.method_class(f"{file}:GAIN")


def test_the_digest_of_an_installed_class_is_that_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.method("torch.nn:InstanceNorm2d")
    assert code.method("torch.nn:GroupNorm") != before
    assert (
        plain.installed_version(registry.method_class("torch.nn:InstanceNorm2d"))
        == f"torch {importlib.metadata.version('torch')}"
    )
    monkeypatch.setattr(plain.importlib.metadata, "version", lambda name: "0.0.1")
    assert plain.installed_version(registry.method_class("torch.nn:InstanceNorm2d")) == "torch 0.0.1"
    assert code.method("torch.nn:InstanceNorm2d") != before


def test_the_way_plain_classes_are_used_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[list[Any]] = []

    def noted(some: list[Any]) -> str:
        roots.append(some)
        return ""

    monkeypatch.setattr(digests, "digest", noted)
    code.method("torch.nn:InstanceNorm2d")
    assert [(root.file.name, root.name) for root in roots[0]] == [("plain.py", "adapted")]
