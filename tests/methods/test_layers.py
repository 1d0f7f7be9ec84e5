"""What every layer of the four methods must do with its inputs, with what is not finite, and with its state."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.methods import registry as methods
from normbench.methods.network_deconvolution import ChannelDeconv
from normbench.models import registry
from normbench.training import loop
from normbench.training.recipe import Recipe
from tests.support import layer_cases

ON_EACH_LAYER = pytest.mark.parametrize("name", layer_cases.LAYERS)
ON_IMAGES = pytest.mark.parametrize("name", [name for name in layer_cases.LAYERS if "Linear" not in name])
ON_EACH_METHOD = pytest.mark.parametrize("name", methods.names())


# --- layouts of the input --------------------------------------------------------------------------------------------


def sliced(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    base = x.new_full((n, channels + 1, 2 * height, width + 3), 100.0)
    base[:, 1:, ::2, 2:-1] = x
    return base[:, 1:, ::2, 2:-1]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": sliced,
    "transposed": lambda x: x.mT.contiguous().mT,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every other image": lambda x: x.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("size", [(7, 8), (4, 19), (9, 1), (1, 9)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@ON_IMAGES
def test_layout_of_images_and_gradients_does_not_matter(name: str, training: bool, size: tuple[int, int]) -> None:
    layer, x = layer_cases.layer(name), layer_cases.images(name, size=size)
    layer(layer_cases.images(name, 1, size=size))
    layer.train(training)
    shape = copy.deepcopy(layer)(x).shape
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reference = copy.deepcopy(layer)
    expected = layer_cases.step(reference, x, gradient)
    for layout in LAYOUTS.values():
        for of_gradient in (lambda g: g, *LAYOUTS.values()):
            one = copy.deepcopy(layer)
            found = layer_cases.step(one, layout(x), of_gradient(gradient))
            assert layer_cases.agree(found, expected, 1e-11)
            for a, b in zip(one.buffers(), reference.buffers(), strict=True):
                assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("along", ["images", "channels", "pixels"])
@ON_IMAGES
def test_gradient_of_an_expanded_image(name: str, along: str) -> None:
    """The gradient of each of many references to the same memory is added up there."""
    layer, full = layer_cases.layer(name), layer_cases.shape(name)
    shape = {"images": (1, *full[1:]), "channels": (full[0], 1, *full[2:]), "pixels": (*full[:2], 1, 1)}[along]
    base = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for copied in (False, True):
        leaf, one = base.clone().requires_grad_(), copy.deepcopy(layer)
        x = leaf.expand(full).contiguous() if copied else leaf.expand(full)
        y = one(x)
        (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
        found.append((y.detach(), leaf.grad, *[p.grad for p in one.parameters()]))
    assert layer_cases.agree(*found, 1e-9)


@ON_IMAGES
def test_images_are_left_as_they_are(name: str) -> None:
    for layout in (lambda x: x, *LAYOUTS.values()):
        layer, x = layer_cases.layer(name), layout(layer_cases.images(name))
        before = x.clone()
        layer_cases.step(layer, x)
        layer.eval()(x)
        assert torch.equal(x, before)


@ON_IMAGES
def test_channels_last_comes_out_as_it_goes_in(name: str) -> None:
    """In float32: a network is copied between formats nowhere, if there is no transform and no transposition in it."""
    if "frequency" in name or name == "ChannelDeconv":
        pytest.skip("it transforms or transposes the images, so that its output is contiguous by design")
    layer = layer_cases.layer(name, dtype=torch.float32).to(memory_format=torch.channels_last)
    x = layer_cases.images(name, dtype=torch.float32).contiguous(memory_format=torch.channels_last).requires_grad_()
    for training in (True, False):
        y = layer.train(training)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.is_contiguous(memory_format=torch.channels_last)


@ON_EACH_LAYER
def test_a_batch_of_one(name: str) -> None:
    layer, x = layer_cases.layer(name), layer_cases.images(name, count=1)
    assert all(value.isfinite().all() for value in layer_cases.step(layer, x))
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert all(value.isfinite().all() for value in layer_cases.step(layer.eval(), x))


@ON_EACH_LAYER
def test_an_empty_batch_in_evaluation(name: str) -> None:
    layer = layer_cases.layer(name)
    x = layer_cases.images(name)
    expected = layer(x).shape
    assert layer.eval()(x[:0]).shape == (0, *expected[1:])


# --- what is not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@ON_EACH_LAYER
def test_what_is_not_finite_goes_on_and_raises_nothing(name: str, value: float, everywhere: bool) -> None:
    """In both passes, in a later training step and in evaluation: a run that diverges ends as diverged."""
    layer, x = layer_cases.layer(name), layer_cases.images(name)
    layer(layer_cases.images(name, 1))
    x.view(-1)[: None if everywhere else 1] = value
    y, *gradients = layer_cases.step(layer, x)
    assert not y.isfinite().all()
    assert not all(gradient.isfinite().all() for gradient in gradients)
    if everywhere:
        assert y.isnan().all()
    later = layer_cases.images(name, 2)
    layer_cases.step(layer, later)
    layer_cases.step(layer.eval(), later)
    fresh = layer_cases.layer(name)
    fresh(later)
    assert not fresh.eval()(x).isfinite().all()


@pytest.mark.parametrize("scale", [1e10, 1e19, 1e30, 3e38])
@ON_EACH_LAYER
def test_what_is_too_large_raises_nothing(name: str, scale: float) -> None:
    """Finite images whose squares are not, in float32."""
    layer = layer_cases.layer(name, dtype=torch.float32)
    x = layer_cases.images(name, dtype=torch.float32).clamp(-1, 1) * scale
    y = layer_cases.step(layer, x)[0]
    later = layer_cases.step(layer, layer_cases.images(name, 1, dtype=torch.float32))[0]
    assert y.shape == later.shape


def data(mean: float) -> Images:
    """160 images in 40 batches, so that losses are read every 4 steps."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (160, 3, 8, 8), generator=generator, dtype=torch.uint8)
    centre, deviation = torch.full((3, 1, 1), mean), torch.full((3, 1, 1), 0.25)
    return Images(pixels, torch.arange(160) % 5, centre, deviation)


def recipe(lr: float) -> Recipe:
    """Everything else is left at its default, whatever there is."""
    return Recipe(epochs=1, batch_size=4, lr=lr, schedule="constant", crop_padding=0)


@ON_EACH_METHOD
def test_a_run_on_images_that_are_not_finite_ends_as_diverged(name: str) -> None:
    torch.manual_seed(0)
    method = methods.build(name, {})
    model = registry.classifier("resnet8", {"width": 4}, method, 3, 5)
    outcome = loop.fit(model, method, data(float("nan")), recipe(0.1), 0, lambda *_: None)
    assert outcome.diverged == {"epoch": 0, "step": 0}


@ON_EACH_METHOD
def test_a_run_with_an_absurd_learning_rate_raises_nothing(name: str) -> None:
    torch.manual_seed(0)
    method = methods.build(name, {})
    model = registry.classifier("resnet8", {"width": 4}, method, 3, 5)
    outcome = loop.fit(model, method, data(0.5), recipe(1e30), 0, lambda *_: None)
    assert outcome.diverged is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["sum", "log"])
def test_a_penalty_of_kernels_that_are_not_finite_is_not_either(form: str, value: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    method = methods.build("fantastic_four", {"form": form})
    method.initialize(model)
    with torch.no_grad():
        model[1].weight[0, 1, 2, 0] = value
    for _ in range(3):
        penalty = method.penalty(model)
        assert not penalty.isfinite()
        penalty.backward()
    assert model[0].weight.grad.isfinite().all()  # only the layer's own gradient is spoilt
    assert not model[1].weight.grad.isfinite().all()


# --- state -----------------------------------------------------------------------------------------------------------


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def trained(name: str, steps: int = 3, size: tuple[int, int] = (7, 8), **options: object) -> nn.Module:
    layer = layer_cases.layer(name, **options)
    dtype = next((p.dtype for p in layer.parameters()), torch.float64)
    for seed in range(steps):
        layer(layer_cases.images(name, seed, size=size, dtype=dtype))
    return layer


@pytest.mark.parametrize("before", [None, (7, 8), (9, 5)], ids=["fresh", "same size", "another size"])
@ON_EACH_LAYER
def test_state_dict_round_trip(name: str, before: tuple[int, int] | None) -> None:
    """Through a file into a layer that is fresh, or was trained at this or at another image size."""
    layer = trained(name)
    other = layer_cases.layer(name, seed=1) if before is None else trained(name, 2, before, seed=1)
    assert not equal(layer_cases.state(other), layer_cases.state(layer)) or name == "ChannelDeconv"
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    found = other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not found.missing_keys
    assert not found.unexpected_keys
    assert equal(layer_cases.state(other), layer_cases.state(layer))
    x = layer_cases.images(name, 7)
    assert torch.equal(other.eval()(x), layer.eval()(x))
    other.train(), layer.train()
    for a, b in zip(layer_cases.step(other, x), layer_cases.step(layer, x), strict=True):
        assert torch.equal(a, b)
    assert equal(layer_cases.state(other), layer_cases.state(layer))


@ON_EACH_LAYER
def test_loading_keeps_nothing_of_the_file(name: str) -> None:
    """Further training of the loaded layer leaves the state that it was loaded from as it is."""
    layer, other = trained(name), layer_cases.layer(name, seed=1)
    saved = layer.state_dict()
    before = copy.deepcopy(layer_cases.flat(saved))
    other.load_state_dict(saved)
    other(layer_cases.images(name, 7))
    after = layer_cases.flat(saved)
    assert all(torch.equal(torch.as_tensor(after[key]), torch.as_tensor(value)) for key, value in before.items())


@ON_EACH_LAYER
def test_a_deep_copy_is_equal_and_independent(name: str) -> None:
    for steps in (0, 3):
        layer = trained(name, steps)
        copied = copy.deepcopy(layer)
        before = copy.deepcopy(layer_cases.state(layer))
        x = layer_cases.images(name, 7)
        found = layer_cases.step(copied, x)
        assert equal(layer_cases.state(layer), before)
        assert not any(buffer.requires_grad for buffer in copied.buffers())
        for a, b in zip(found, layer_cases.step(layer, x), strict=True):
            assert torch.equal(a, b)
        assert equal(layer_cases.state(copied), layer_cases.state(layer))


@ON_EACH_LAYER
def test_a_graph_does_not_hold_the_layer_in_place(name: str) -> None:
    """A layer can be copied between the passes of a step, as an average of the weights does it."""
    layer, x = layer_cases.layer(name), layer_cases.images(name).requires_grad_()
    y = layer(x)
    copied = copy.deepcopy(layer)
    y.square().sum().backward()
    assert equal(layer_cases.state(copied), layer_cases.state(layer))


@ON_EACH_LAYER
def test_double_and_back(name: str) -> None:
    """Nothing is lost, and no number stays behind in the other precision."""
    layer = trained(name, dtype=torch.float32)
    copied = copy.deepcopy(layer).double()
    floating = [*copied.parameters(), *(b for b in copied.buffers() if b.is_floating_point())]
    assert {value.dtype for value in floating} <= {torch.float64}
    x = layer_cases.images(name, 7, dtype=torch.float32)
    found, expected = layer_cases.step(copied, x.double()), layer_cases.step(copy.deepcopy(layer), x)
    assert {value.dtype for value in found} == {torch.float64}
    assert {value.dtype for value in expected} == {torch.float32}
    assert layer_cases.agree(tuple(value.double() for value in expected), found, 1e-4)
    returned = copy.deepcopy(layer).double().float()
    assert equal(layer_cases.state(returned), layer_cases.state(layer))
    for a, b in zip(layer_cases.step(returned, x), layer_cases.step(layer, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@ON_EACH_LAYER
def test_a_layer_of_low_precision(name: str, training: bool, dtype: torch.dtype) -> None:
    """Parameters, statistics and images of 16 bits: the result is that of float32 to their precision."""
    layer = trained(name, dtype=torch.float32).to(dtype)
    wide = copy.deepcopy(layer).float()
    layer.train(training), wide.train(training)
    x = layer_cases.images(name, 7, dtype=dtype)
    y, of_images, *_ = layer_cases.step(layer, x)
    expected, of_wide_images, *_ = layer_cases.step(wide, x.float())
    tolerance = 30 * torch.finfo(dtype).eps
    assert y.dtype == of_images.dtype == dtype
    assert layer_cases.agree((y.float(), of_images.float()), (expected, of_wide_images), tolerance)
    assert all(b.dtype == dtype for b in layer.buffers() if b.is_floating_point())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@ON_EACH_LAYER
def test_low_precision_and_back(name: str, dtype: torch.dtype) -> None:
    """A layer that was stored in 16 bits goes on training in float32, near where it was."""
    layer = trained(name, dtype=torch.float32)
    returned = copy.deepcopy(layer).to(dtype).float()
    for key, value in layer_cases.state(layer).items():
        found = layer_cases.state(returned)[key]
        assert found.dtype == value.dtype
        assert torch.allclose(found, value, rtol=torch.finfo(dtype).eps, atol=1e-6)
    x = layer_cases.images(name, 7, dtype=torch.float32)
    assert layer_cases.agree(layer_cases.step(returned, x), layer_cases.step(layer, x), 30 * torch.finfo(dtype).eps)


@pytest.mark.filterwarnings("ignore:var\\(\\)")
def test_statistics_of_no_step_are_refused_and_loaded_ones_are_not() -> None:
    fresh, loaded = ChannelDeconv(3).eval(), ChannelDeconv(3).eval()
    x = torch.randn(4, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="no statistics"):
        fresh(x)
    trained_layer = ChannelDeconv(3)
    trained_layer(x)
    loaded.load_state_dict(trained_layer.state_dict())
    assert torch.equal(loaded(x), trained_layer.eval()(x))
