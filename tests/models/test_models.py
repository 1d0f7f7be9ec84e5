"""The architectures: their size, what they tell methods of, and every method in every one of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods import registry as methods
from normbench.methods.base import Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.no_norm import NoNorm
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models import registry
from normbench.models.senet import Gate
from normbench.suite import resolve
from normbench.system.errors import UserError

CLASSES = 7
# name -> narrow options: one of each family, then the others
NARROW = {
    "resnet8": {"width": 4},
    "vgg11": {"width": 4},
    "preact_resnet18": {"width": 8},
    "densenet121": {"growth": 2},
    "resnext29_2x64d": {"width": 8},
    "mobilenet_v2": {"width": 8},
    "senet18": {"width": 32},
}
ALL = NARROW | {"densenet100": {"growth": 2}, "resnext29_32x4d": {"width": 32}}
PRE_ACTIVATION = ("preact_resnet18", "densenet121", "senet18")
ON_ALL = pytest.mark.parametrize("name", ALL)
ON_NARROW = pytest.mark.parametrize("name", NARROW)
ON_EACH_METHOD = pytest.mark.parametrize("method_name", methods.names())


def images(seed: int, count: int = 8, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def built(name: str, method: Method, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.classifier(name, ALL[name], method, channels, CLASSES)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    return model.eval()(x)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


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
    ],
)
def test_number_of_parameters(name: str, options: dict[str, int], parameters: int, convs: int) -> None:
    model = registry.classifier(name, options, BatchNorm(), 3, 10)
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
    ],
)
def test_number_of_parameters_with_deconvolution(name: str, options: dict[str, int], millions: float) -> None:
    model = registry.classifier(name, options, methods.build("network_deconvolution", {}), 3, 10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "depthwise", "grouped"),
    [("mobilenet_v2", 17, {}), ("resnext29_2x64d", 0, {2: 9}), ("resnext29_32x4d", 0, {32: 9}), ("densenet100", 0, {})],
)
def test_groups(name: str, depthwise: int, grouped: dict[int, int]) -> None:
    found: dict[int, int] = {}
    for conv in convolutions(built(name, BatchNorm())):
        if conv.groups > 1:
            assert conv.kernel_size == (3, 3)
            groups = 0 if conv.groups == conv.in_channels == conv.out_channels else conv.groups
            found[groups] = found.get(groups, 0) + 1
    assert found.pop(0, 0) == depthwise
    assert found == grouped


# --- shapes ----------------------------------------------------------------------------------------------------------


@ON_ALL
def test_logits(name: str) -> None:
    """Of grey and colour images, and of larger ones."""
    for channels, size in ((1, 32), (3, 32), (3, 48)):
        found = logits_of(built(name, BatchNorm(), channels), images(0, 2, channels, size))
        assert found.shape == (2, CLASSES)
        assert found.isfinite().all()


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


# --- what methods are told -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spy(Method):
    """Writes down the roles that it is asked for."""

    convolutions: list[Role] = dataclasses.field(default_factory=list)
    norms: list[Role] = dataclasses.field(default_factory=list)
    linears: list[Role] = dataclasses.field(default_factory=list)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, *, role: Role, **where: int) -> nn.Module:
        self.convolutions.append(role)
        return super().conv(in_channels, out_channels, kernel_size, role=role, **where)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        self.norms.append(role)
        return super().norm(channels, role=role)

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        self.linears.append(role)
        return super().linear(in_features, out_features, role=role)


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


@ON_NARROW
def test_roles(name: str) -> None:
    convs, norms, last = globals()[f"{name}_roles"](functools.partial(Role, architecture=registry.CLASSIFIERS[name]))

    def counted(roles: list[Role]) -> list[str]:
        return sorted(map(repr, roles))

    def marked(roles: list[Role]) -> list[Role]:
        return [dataclasses.replace(role, last_stage=role.stage == last) for role in roles]

    spy = Spy()
    built(name, spy)
    assert counted(spy.convolutions) == counted(marked(convs))
    assert counted(spy.norms) == counted(marked(norms))
    assert spy.linears == marked([Role("head", last, architecture=registry.CLASSIFIERS[name])])
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
    assert sorted(outside) == sorted(expected)
    assert not any(found[place] for place in outside)


def test_roles_in_an_sngan() -> None:
    spy = Spy()
    registry.function("sngan")(spy, 3, 32, 8, width=4)
    role = functools.partial(Role, architecture="sngan")
    convs = [role("stem")] + [role("body", stage, stage == 3) for stage in (1, 1, 2, 2, 3, 3)]
    assert spy.convolutions == convs
    assert spy.norms == [dataclasses.replace(conv, last_in_block=i in (0, 2, 4, 6)) for i, conv in enumerate(convs)]
    assert spy.linears == [role("head", 3, True)]


# --- with every method -----------------------------------------------------------------------------------------------

# He's initialization alone lets deep residual branches grow beyond what a step can train.
OPTIONS = {"no_norm": {"residual_gain": 0.1}}
# Parameters whose gradient is zero, but for rounding: constants that the normalization after them takes away.
CANCELLED = {"conv_norm": r"affine\.bias$", "network_deconvolution": r"\.bias$"}
STEPS = {"fixup": 5}  # classifier and ends of branches start at zero, so that gradients come to the rest one by one
GATE = r"\.gate\."  # the ReLU in a gate has few units, which may all be off


@functools.cache
def trained(name: str, method_name: str) -> tuple[nn.Module, dict[str, float], list[float]]:
    """A network after two steps or more, the largest absolute gradient of each parameter in them, and the losses."""
    if (name, method_name) == ("densenet121", "fixup"):
        pytest.skip("without residual branches there is nothing that Fixup makes small, and 120 layers explode")
    method = methods.build(method_name, OPTIONS.get(method_name, {}))
    model = built(name, method).train()
    optim = torch.optim.SGD(method.param_groups(model, lr=0.01, weight_decay=0.0), lr=0.01)
    largest: dict[str, float] = {}
    losses = []
    for seed in range(STEPS.get(method_name, 2)):
        loss = functional.cross_entropy(model(images(seed)), torch.arange(8) % CLASSES)
        penalty = method.penalty(model)
        loss = loss if penalty is None else loss + penalty
        optim.zero_grad()
        loss.backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{key} has no gradient"
            assert parameter.grad.isfinite().all(), key
            largest[key] = max(largest.get(key, 0.0), parameter.grad.abs().max().item())
        optim.step()
        losses.append(loss.item())
    return model, largest, losses


@ON_EACH_METHOD
@ON_NARROW
def test_training_reaches_every_parameter(name: str, method_name: str) -> None:
    model, largest, losses = trained(name, method_name)
    assert torch.tensor(losses).isfinite().all()
    allowed = "|".join([GATE, *([CANCELLED[method_name]] if method_name in CANCELLED else [])])
    assert [key for key, value in largest.items() if value == 0 and not re.search(allowed, key)] == []
    if name == "senet18":
        gates = [value for key, value in largest.items() if re.search(GATE, key)]
        assert sum(value > 0 for value in gates) > len(gates) / 2
    x = images(5)
    expected = logits_of(model, x)
    assert expected.shape == (8, CLASSES)
    assert expected.isfinite().all()
    assert torch.equal(logits_of(model, x), expected)


@ON_EACH_METHOD
@ON_NARROW
def test_copies(name: str, method_name: str) -> None:
    """By deepcopy, and through the state dict into a network of other weights."""
    model, _, _ = trained(name, method_name)
    x = images(5, 2)
    expected = logits_of(model, x)
    assert torch.equal(logits_of(copy.deepcopy(model), x), expected)
    fresh = built(name, methods.build(method_name, OPTIONS.get(method_name, {})), seed=1)
    assert not torch.equal(logits_of(fresh, x), expected)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(fresh, x), expected)


@pytest.mark.parametrize("method_name", ["batch_norm", "network_deconvolution", "conv_norm"])
@ON_NARROW
def test_channels_last_and_bfloat16(name: str, method_name: str) -> None:
    """Another memory format changes nothing, and a step in bfloat16 is finite."""
    model, _, _ = trained(name, method_name)
    x = images(5, 2)
    expected = logits_of(model, x)
    found = logits_of(
        copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    )
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    model = copy.deepcopy(model).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(6, 4))
    functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# --- by name ---------------------------------------------------------------------------------------------------------

PARAMS = """
suite:
  seed: 0
  seeds: [0]
  datasets: [digits]
  tasks: [{tasks}]
  variants: [batch_norm]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {{names: all, severities: [1]}}
datasets:
  digits: {{source: digits, image_size: 32}}
tasks:
{lines}
gan_tasks: {{}}
variants:
  batch_norm: {{method: batch_norm}}
"""


def params(path: Path, tasks: dict[str, dict[str, int]]) -> Path:
    lines = [
        f"  {name}: {{dataset: digits, model: {name}, model_options: {options}, recipe: {{epochs: 1}}}}".replace(
            "'", ""
        )
        for name, options in tasks.items()
    ]
    path.write_text(PARAMS.format(tasks=", ".join(tasks), lines="\n".join(lines)))
    return path


def test_params_yaml_names_models_and_their_options(tmp_path: Path) -> None:
    outputs = resolve.resolve(params(tmp_path / "params.yaml", ALL))
    codes = {}
    for name, options in ALL.items():
        task = outputs[f"tasks/{name}"]
        assert task["model"] == name
        assert task["model_options"] == options
        codes[registry.source_file(name).stem] = task["model_code"]
        model = registry.classifier(name, task["model_options"], BatchNorm(), 1, 10)
        assert logits_of(model, images(0, 1, channels=1)).shape == (1, 10)
    assert len(set(codes.values())) == len(codes)
    with pytest.raises(UserError, match=r"unknown option of densenet121; .*'growth'"):
        resolve.resolve(params(tmp_path / "params.yaml", {"densenet121": {"groth": 2}}))
    with pytest.raises(UserError, match="unknown model; did you mean 'senet18'"):
        resolve.resolve(params(tmp_path / "params.yaml", {"senet81": {}}))


def test_every_name_is_a_function_of_its_file() -> None:
    for name in (*registry.CLASSIFIERS, *registry.GANS):
        assert registry.source_file(name).is_file()
        assert registry.function(name).__name__ == name
        assert all(isinstance(value, int) for value in registry.options(name).values())
