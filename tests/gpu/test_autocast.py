"""Autocast on a GPU and on a CPU: torch's lists of what it computes in float32 differ, the methods' layers do not.

The GPU is one of fake tensors (see `tests.support.fake_cuda`), which have a dtype and no numbers.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.functional.placement import placed
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.methods.fixup import ScalarAffine, ScalarBias
from normbench.methods.group_norm import Float32GroupNorm
from normbench.training.optimization import autocast, step_loss
from normbench.training.recipe import Recipe
from tests.support.covering import covering
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.short_models import CHANNELS, SIDES, short_classifier

REASON = obstacle()
BFLOAT16 = {torch.bfloat16}


def dtypes(model: nn.Module, method: Method, device: str, side: int = 8) -> dict[str, set[torch.dtype]]:
    """The dtypes of what each layer of a network returns in a training step under autocast, and that of the loss."""
    found: dict[str, set[torch.dtype]] = {}

    def note(layer: str):
        def hook(_: nn.Module, __: object, result: object) -> None:
            if isinstance(result, Tensor):
                found.setdefault(layer, set()).add(result.dtype)

        return hook

    hooks = [module.register_forward_hook(note(layer)) for layer, module in model.named_modules()]
    x = torch.randn(4, CHANNELS, side, side, device=device)
    y = torch.zeros(4, dtype=torch.long, device=device)
    model = placed(model, device).train()
    loss, _ = step_loss(model, model, method, x, y, Recipe(epochs=1, precision="bfloat16"))
    for hook in hooks:
        hook.remove()
    return found | {"loss": {loss.dtype}}


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
@pytest.mark.parametrize(("name", "method_name", "_"), covering(["bfloat16"]))
def test_every_layer_returns_the_same_precision_on_both(name: str, method_name: str, _: str) -> None:
    method = methods.build(method_name, {})
    on_cpu = dtypes(short_classifier(name, method), method, "cpu", SIDES[name])
    model = short_classifier(name, method)
    with fake_cuda():
        on_cuda = dtypes(model, method, "cuda", SIDES[name])
    assert on_cuda == on_cpu
    assert on_cpu["loss"] == {torch.float32}


@pytest.mark.parametrize("method_name", ["batch_norm", "group_norm", "fixup", "no_norm"])
def test_what_follows_a_norm_is_in_bfloat16(method_name: str) -> None:
    method = methods.build(method_name, {})
    found = dtypes(short_classifier("resnet", method), method, "cpu")
    del found["loss"]
    assert set.union(*found.values()) == BFLOAT16


def test_fixups_scalars_are_those_of_the_formula_up_to_rounding() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4, 6, 6)
    for layer in (ScalarBias(), ScalarAffine()):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(1))
        given = [x.clone().requires_grad_(), x.bfloat16().requires_grad_()]
        results = [layer(each) for each in given]
        assert results[1].dtype == torch.bfloat16
        torch.testing.assert_close(results[1].float(), results[0], rtol=2e-2, atol=2e-2)
        weights = torch.randn_like(x)
        expected, found = (
            torch.autograd.grad((result * weights.to(result.dtype)).sum(), [each, *layer.parameters()])
            for result, each in zip(results, given, strict=True)
        )
        assert [each.dtype for each in found] == [torch.bfloat16, *[torch.float32] * (len(found) - 1)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.float(), other, rtol=3e-2, atol=0.3)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_group_norm_computes_in_float32(kind: str) -> None:
    """The formula in float64, rounded once to bfloat16, whether or not the kernel takes both precisions at once."""
    torch.manual_seed(0)
    layer = Float32GroupNorm(3, 12)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(12))
        layer.bias.copy_(torch.randn(12))
    x = (100 + torch.randn(4, 12, 5, 5)).bfloat16()
    exact = functional.group_norm(x.double(), 3, layer.weight.double(), layer.bias.double(), layer.eps)
    if kind == "cuda":  # what the layer does there, with numbers
        with torch.autocast("cpu", enabled=False):
            found = nn.GroupNorm.forward(layer, x.float()).to(x.dtype)
    else:
        with autocast("bfloat16", "cpu"):
            found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)
    wide = x.double()
    torch.testing.assert_close(layer.double()(wide), exact)
