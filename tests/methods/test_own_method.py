"""The method of docs/extending.md, run exactly as it is written there."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from normbench.evaluation import fold
from normbench.methods import registry
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.build import build_classifier
from normbench.suite import resolve
from normbench.system.errors import UserError
from tests.support.documentation import ROOT, block, section

SUITE = """
suite: {seeds: [0], datasets: [digits], tasks: [task], variants: [weight_standardization], baseline: weight_standardization, gan_tasks: [], gan_variants: []}
tasks:
  task: {dataset: digits, model: resnet8, recipe: {epochs: 1}}
"""
REFERENCE = "my_methods/weight_standardization.py:WeightStandardization"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's, with the file of the example and a suite with its variant."""
    monkeypatch.chdir(tmp_path)
    name = re.search(r"`(my_methods/\w+\.py)`:\n\n```python", section("A method"))
    assert name is not None
    (tmp_path / "my_methods").mkdir()
    (tmp_path / name[1]).write_text(block("A method", "python"), encoding="utf-8")
    (tmp_path / "params.yaml").write_text(SUITE + block("A method", "yaml"), encoding="utf-8")
    return tmp_path


def test_params_yaml_names_the_example_and_its_options(folder: Path) -> None:
    variant = resolve.resolve().variants["weight_standardization"]
    assert variant.method == REFERENCE
    assert variant.options == {"groups": 32, "channels_per_group": 4, "eps": 1e-5, "kernel_eps": 1e-5}
    text = (folder / "params.yaml").read_text()
    for options, line in (
        ("{kernel_eps: 0}", r"options\.kernel_eps = 0: must be above 0"),
        ("{kernel_epz: 1}", r"options\.kernel_epz = 1: unknown option of WeightStandardization; .*'kernel_eps'"),
    ):
        (folder / "params.yaml").write_text(text.replace(REFERENCE, f"{REFERENCE}, options: {options}"))
        with pytest.raises(UserError, match=rf"^params\.yaml:\d+: variants\.weight_standardization\.{line}[^\n]*$"):
            resolve.resolve()


def standardized(kernel: np.ndarray, eps: float) -> np.ndarray:
    """As the paper writes it: each output channel by its own mean and standard deviation, one after the other."""
    found = np.empty_like(kernel)
    for channel, weights in enumerate(kernel):
        count = weights.size
        mean = weights.sum() / count
        found[channel] = (weights - mean) / np.sqrt((weights**2).sum() / count - mean**2 + eps)
    return found


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(6, 4, 3, role=Role("body"), padding=1),
        ConvSpec(6, 4, 1, role=Role("downsample"), stride=2),
        ConvSpec(6, 6, 3, role=Role("grouped"), stride=2, padding=1, groups=3),
    ],
)
def test_a_convolution_has_the_kernel_of_the_paper(spec: ConvSpec) -> None:
    layer = registry.build(REFERENCE, {"kernel_eps": 1e-3}).conv(spec).double()
    raw = layer.parametrizations.weight.original.detach()
    x = torch.randn(5, 6, 7, 7, dtype=torch.float64)
    kernel = torch.from_numpy(standardized(raw.numpy(), 1e-3))
    expected = nn.functional.conv2d(x, kernel, None, spec.stride, spec.padding, groups=spec.groups)
    assert torch.allclose(layer(x), expected, atol=1e-10)
    assert layer.bias is None


def test_the_convolutions_of_a_gate_stay_plain() -> None:
    layer = registry.build(REFERENCE, {}).conv(ConvSpec(6, 4, 1, role=Role("gate")))
    assert not hasattr(layer, "parametrizations")
    assert layer.bias is not None


def network(method: Method) -> nn.Module:
    return build_classifier("resnet8", {"width": 8}, method, 3, 10, seed=0)


def test_a_network_trains_with_it() -> None:
    """Forwards and backwards through resnet8: as with kernels that were standardized before, by other code."""
    model = network(registry.build(REFERENCE, {}))
    plain = network(registry.build("group_norm", {}))
    state = {key.replace("parametrizations.weight.original", "weight"): v for key, v in model.state_dict().items()}
    for key, value in state.items():
        if value.dim() == 4:
            state[key] = torch.from_numpy(standardized(value.double().numpy(), 1e-5))
    plain.load_state_dict(state)
    model, plain = model.double(), plain.double()
    x, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6)
    with torch.no_grad():
        assert torch.allclose(model(x), plain(x), atol=1e-5)  # the kernels were loaded in float32
        assert torch.allclose(fold(model)(x), model.eval()(x), atol=1e-10)
    before = copy.deepcopy(model.train().state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if parameter.dim() == 4:  # what shifts or scales a kernel as a whole changes nothing
                across = parameter.grad.sum((1, 2, 3))
                assert across.abs().max() <= 1e-8 * parameter.grad.abs().sum(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_files_that_the_section_names_are_there() -> None:
    for name in re.findall(r"`((?:normbench|tests)/[\w/]+\.py)`", section("A method")):
        assert (ROOT / name).is_file(), name
