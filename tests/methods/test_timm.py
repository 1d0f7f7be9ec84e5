"""timm's norm layers as methods, by their names in the installed package, as docs/methods.md lists them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench.methods import registry
from normbench.methods.plain import PlainNorm, adapted
from normbench.models.build import build_classifier
from tests.models.networks import images

layers = pytest.importorskip("timm.layers", reason="timm is not installed")

# Layers with "Norm" in their names that are none for feature maps: they project, or take the place of a block.
NO_NORMS = {"NormMlpClassifierHead", "ClNormMlpClassifierHead", "GlobalResponseNormMlp"}
NAMES = sorted(
    name
    for name, value in vars(layers).items()
    if inspect.isclass(value)
    and issubclass(value, nn.Module)
    and "Norm" in name
    and name not in NO_NORMS
    and issubclass(adapted(value), PlainNorm)
)
# Norms of tokens, whose channels come last: on feature maps their last dimension is a row of pixels.
CHANNELS_LAST = {
    *("LayerNorm", "LayerNormAct", "LayerNormActFp32", "LayerNormFp32"),
    *("RmsNorm", "RmsNormAct", "RmsNormActFp32", "RmsNormFp32", "SimpleNorm", "SimpleNormFp32"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_trains_and_evaluates(name: str) -> None:
    method = registry.build(f"timm.layers:{name}", {})
    network = build_classifier("resnet8", {"width": 32}, method, 3, 10, 0)  # EvoNorm-S has 32 groups
    x, y = images(0, 4, 3, 12), torch.arange(4)
    if name in CHANNELS_LAST:
        with pytest.raises(RuntimeError, match=r"normalized_shape|must match the size of tensor"):
            network(x)
        return
    nn.functional.cross_entropy(network(x), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        assert network.eval()(x[:1]).isfinite().all()
    kinds = {type(module).__name__ for module in network.modules()}
    assert name in kinds
    assert ("ReLU" in kinds) or not method.contains  # the activation after an addition stays


def test_the_documentation_lists_them() -> None:
    text = (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")
    section = text[text.index("## timm's layers") :]
    assert set(re.findall(r"`(\w+)`", section[: section.index("\n## ", 5)])) >= {*NAMES}
