"""What a GPU would be asked to do, without one: architectures with methods, traced with fake CUDA tensors.

That includes which products it may round to TF32 (see `tests.support.tf32`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normbench.data.batches import Images
from normbench.evaluation.folding import fold
from normbench.functional.placement import FORMATS, placed
from normbench.gan import loop as gan_loop
from normbench.gan.losses import Labelled
from normbench.methods import registry
from normbench.methods.base import Method
from normbench.models import build
from normbench.models.sngan import sngan
from normbench.system.schema import MemoryFormat
from normbench.training import loop
from normbench.training.attacks import pgd
from normbench.training.optimization import autocast
from tests.support import subjects
from tests.support.covering import KINDS, covering
from tests.support.dispatch import NOT_DETERMINISTIC, Operations, same_strides
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.short_models import CHANNELS, SHORT, SIDES, short_classifier
from tests.support.tf32 import Rounded, of_a_layer, only_layers, tf32_on_cuda

REASON = obstacle()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning"),
]

BATCH, SIZE = 4, 8
# TF32 is switched on in all of them. It concerns products of float32 alone, so that it does the least with bfloat16.
SETTINGS: list[tuple[str, MemoryFormat]] = [
    ("bfloat16", "channels_last"),
    ("float32", "contiguous"),
    ("float32", "channels_last"),
    ("bfloat16", "contiguous"),
]
# Options that change what is computed.
VARIANTS = [
    ("batch_norm", {"momentum": None, "ghost_batch": 3}),
    ("conv_norm", {"affine": False, "batch_norm": False}),
    ("fantastic_four", {"form": "log", "layers": "all", "batch_norm": True, "polyphase": True}),
    ("filter_response_norm", {"learned_eps": True}),
    ("gram_penalty", {"polyphase": True, "threshold": 0.0}),
    ("network_deconvolution", {"linear_block": 0, "covariance": "bfloat16"}),
    ("ocnn", {"padding": "released", "layers": "all"}),
    ("spectral_batch_norm", {"placement": "all", "statistics": "full", "fft_norm": "full"}),
    ("spectral_batch_norm", {"statistics": "frequency"}),
    ("spectral_norm", {"batch_norm": False, "power_iterations": 2}),
    ("switchable_whitening", {"kinds": "bw_iw_bn_in_ln", "tied": True}),
]


def shown(value: str | tuple[str, ...]) -> str:
    """A parameter in the name of a test."""
    return value if isinstance(value, str) else "-".join(value)


def images(layout: MemoryFormat, count: int = BATCH, size: int = SIZE) -> Images:
    """Fake images and labels."""
    pixels = torch.empty(count, CHANNELS, size, size, dtype=torch.uint8, device="cuda")
    labels = torch.zeros(count, dtype=torch.long, device="cuda")
    mean, std = (torch.empty(CHANNELS, 1, 1, device="cuda") for _ in range(2))
    return Images(pixels, labels, mean, std, FORMATS[layout])


def test_every_architecture_is_traced() -> None:
    """A new file of models has a short network here, is a GAN's, or has the layers of others."""
    files = {path.stem for path in Path(build.__file__).parent.glob("*.py")}
    assert files - {"__init__", "activations", "base", "build", "kaiming", "registry", "trial"} == {
        *SHORT,
        *("imagenet_densenet", "imagenet_vgg", "segmentation"),
        "sngan",
        "sngan_resnet",
    }


def test_few_architectures_have_all_kinds_of_layers() -> None:
    """With which every method is traced."""
    kinds = {name: kinds_of(short_classifier(name, registry.build("no_norm", {}))) for name in SHORT}
    assert set.union(*(kinds[name] for name in KINDS)) == set.union(*kinds.values())


def kinds_of(network: nn.Module) -> set[tuple[Any, ...]]:
    """The layers of a network but for their numbers of channels: each kernel, stride and way of grouping."""
    found: set[tuple[Any, ...]] = {(nn.Linear,) for layer in network.modules() if isinstance(layer, nn.Linear)}
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            groups = "one" if layer.groups == 1 else "each" if layer.groups == layer.in_channels else "several"
            found.add((layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups))
    return found


def leaves_nothing_behind(done: Operations, what: str) -> None:
    """The host neither waited for the GPU nor computed anything itself, and a deterministic run has all kernels."""
    assert not done.waits, f"{what}: the host waits: {sorted(set(done.waits))}"
    assert not done.on_cpu, f"{what}: tensors of the CPU: {sorted(set(done.on_cpu))}"
    assert not done.seen.keys() & NOT_DETERMINISTIC, what


def same_layout(network: nn.Module, optimizer: torch.optim.Optimizer, names: tuple[str, ...]) -> None:
    """Gradients and the state of the optimizer have the device, dtype and strides of their parameters."""
    for name, parameter in network.named_parameters():
        state = [optimizer.state[parameter][key] for key in names if parameter.grad is not None]
        for value in (parameter.grad, *state):
            if value is not None:
                assert value.device == parameter.device, name
                assert value.dtype == parameter.dtype, name
                assert same_strides(parameter, value), (name, parameter.shape, parameter.stride(), value.stride())


@pytest.mark.parametrize(("model", "method", "setting"), covering(SETTINGS), ids=shown)
def test_classifier(model: str, method: str, setting: tuple[str, MemoryFormat]) -> None:
    """A training step, then the evaluation of the network and of what it folds into, and an attack."""
    traced(model, registry.build(method, {}), *setting)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_options(method: str, options: dict[str, Any], precision: str) -> None:
    traced("resnet", registry.build(method, options), precision, "channels_last")


def traced(model: str, method: Method, precision: str, layout: MemoryFormat) -> None:
    network = short_classifier(model, method)
    with fake_cuda(), tf32_on_cuda():
        trained(network, method, precision, layout, SIDES[model])
        evaluated(network, precision, layout, SIDES[model])


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("kind", ["pgd", "free"])
def test_adversaries(kind: str, layout: MemoryFormat) -> None:
    """Adversarial training, on batches that are cropped and flipped, with clipped gradients."""
    made = registry.build("batch_norm", {})
    network = short_classifier("resnet", made)
    adversary = {"kind": kind, "epsilon": 8.0} | ({"steps": 2} if kind == "pgd" else {"repeats": 2})
    with fake_cuda():
        trained(network, made, "bfloat16", layout, adversary=adversary, gradient_clip=1.0, crop_padding=2, flip=True)


def trained(
    network: nn.Module, method: Method, precision: str, layout: MemoryFormat, size: int = SIZE, **recipe: Any
) -> None:
    """Places a network and trains it for a step."""
    placed(network, "cuda", layout)
    settings = subjects.recipe(precision=precision, batch_size=BATCH, **recipe)
    training = loop.Training(network.train(), method, images(layout, size=size), settings, 0, print, loop.Nobody())
    with Operations() as done:
        batch = next(training.batches.pixels(0))
    assert not done.waits  # The order of an epoch is drawn on the CPU.
    with Operations() as done, Rounded() as rounded:
        training.train_on(0, 0, *batch)
    leaves_nothing_behind(done, "training")
    if precision == "float32":
        only_layers(rounded.places)
    same_layout(network, training.optimizer, ("momentum_buffer",))


def evaluated(network: nn.Module, precision: str, layout: MemoryFormat, size: int) -> None:
    """Evaluates a network and what it folds into, and attacks it by PGD, which does all that FGSM does."""
    data = images(layout, size=size)
    network.eval()

    def classifier(x: torch.Tensor) -> torch.Tensor:
        with autocast(precision, "cuda"):
            return network(((x - data.mean) / data.std).contiguous(memory_format=data.memory_format)).float()

    x = data.pixels.float()
    with Operations() as done, Rounded() as rounded, torch.inference_mode():
        classifier(x)
    leaves_nothing_behind(done, "evaluation")
    assert {where for where in rounded.places if not of_a_layer(where)} == set()
    with Operations() as done:
        pgd(classifier, x, data.labels, 0.03, 0.01, 1, 1, torch.Generator().manual_seed(0))
    leaves_nothing_behind(done, "an attack")
    with Operations() as done, Rounded() as rounded:
        folded = fold(network)
        with torch.no_grad():
            folded(x)
    leaves_nothing_behind(done, "folding")
    assert {where for where in rounded.places if not of_a_layer(where)} == set()


@pytest.mark.parametrize(("method", "layout"), list(zip(registry.names(), itertools.cycle(FORMATS))))
def test_gan(method: str, layout: MemoryFormat) -> None:
    """An iteration: two steps of the discriminator and one of the generator, and the generator's moving average."""
    made, recipe = registry.build(method, {}), subjects.gan_recipe(batch_size=BATCH, discriminator_steps=2)
    generator, discriminator = sngan(made, CHANNELS, SIZE, recipe.latent, width=4)
    made.initialize(discriminator)
    with fake_cuda(), tf32_on_cuda():
        for network in (generator, discriminator):
            placed(network, "cuda", layout).train()
        data = images(layout)
        setting = gan_loop.Setting(made, recipe, 0)
        training = gan_loop.Training(generator, discriminator, data, setting, print, gan_loop.Nobody())
        drawn = torch.empty(BATCH, CHANNELS, SIZE, SIZE, device="cuda").contiguous(memory_format=FORMATS[layout])
        real = Labelled(drawn)
        with Operations() as done, Rounded() as rounded:
            training.train_on(itertools.repeat(real), 0)
        leaves_nothing_behind(done, "an iteration")
        only_layers(rounded.places)
        for network, optimizer in (
            (generator, training.generator_optim),
            (discriminator, training.discriminator_optim),
        ):
            same_layout(network, optimizer, ("exp_avg", "exp_avg_sq"))
