"""The training of GANs: losses, the gradient penalty, classes, where a method applies, and what is noted on the way."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.checks import subjects
from normbench.data.batches import Images, on_device
from normbench.functional.class_affine import ClassAffine
from normbench.gan import diversity, loop, losses, norms, samples
from normbench.gan.losses import Labelled
from normbench.gan.recipe import COLLAPSED, GanRecipe
from normbench.methods import registry as methods
from normbench.methods.base import START, Method, Moment
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.no_norm import NoNorm
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models import registry as models
from normbench.models.build import ApplyTo, applied, build_gan
from normbench.system.errors import UserError
from tests.support.subjects import bound, gan_task
from tests.support.subjects import gan_recipe as recipe

SIZE, CLASSES, LATENT = 8, 4, 6
NARROW: dict[str, dict[str, Any]] = {"sngan": {"width": 4}, "sngan_resnet": {"width": 4, "generator_width": 8}}
PLACES: tuple[ApplyTo, ...] = ("discriminator", "generator", "both")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def images(count: int = 48, seed: int = 0) -> Images:
    """Noise with as many classes as `CLASSES`, whose brightness is that of the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = random.integers(0, 60, (count, SIZE, SIZE, 1)) + 60 * labels[:, None, None, None]
    return on_device(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), [0.5], [0.25], "cpu")


def built(
    model: str = "sngan", method: Method | None = None, classes: int | None = None, apply_to: ApplyTo = "discriminator"
) -> tuple[nn.Module, nn.Module]:
    return build_gan(
        model, NARROW[model], method or BatchNorm(), 1, SIZE, LATENT, 0, classes=classes, apply_to=apply_to
    )


def setting(
    method: Method | None = None, classes: int | None = None, apply_to: ApplyTo = "discriminator", **changes: Any
) -> loop.Setting:
    in_generator, in_discriminator = applied(method or BatchNorm(), apply_to)
    settings = recipe(**{"latent": LATENT, "batch_size": 8} | changes)
    return loop.Setting(in_discriminator, settings, 3, in_generator, shown=4, classes=classes)


def fitted(networks: tuple[nn.Module, nn.Module], given: loop.Setting, keeper: Any = None) -> loop.Outcome:
    return loop.fit(*networks, images(), given, lambda *_: None, keeper)


# Losses


def test_losses_are_their_formulas() -> None:
    real, fake = np.array([0.5, 2.0, -1.0]), np.array([-3.0, 0.25, 1.5])

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    expected = {
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "non_saturating": (
            -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
            -np.log(sigmoid(fake)).mean(),
        ),
        "wasserstein": (fake.mean() - real.mean(), -fake.mean()),
    }
    assert set(losses.LOSSES) == set(expected)
    for name, loss in losses.LOSSES.items():
        found = loss.discriminator(torch.tensor(real), torch.tensor(fake)), loss.generator(torch.tensor(fake))
        assert [each.item() for each in found] == pytest.approx(expected[name]), name


class Quadratic(nn.Module):
    """a |x|^2 / 2, or a times the number of the class instead, for images x; its gradient is a x."""

    def __init__(self, a: float):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        weight = 1 if labels is None else labels
        return self.a * weight * x.square().sum((1, 2, 3)) / 2


def test_the_gradient_penalty_by_hand() -> None:
    """At x = real + share (fake - real), |grad| = |a| |x|, and its derivative by a is 2 (a |x| - 1) |x|."""
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(5, 1, 3, 3, generator=generator) for _ in range(2))
    shares = torch.rand(5, 1, 1, 1, generator=generator)
    lengths = (real + shares * (fake - real)).flatten(1).norm(dim=1)
    network = Quadratic(0.7)
    found = losses.gradient_penalty(network, Labelled(real), fake, shares)
    assert found.item() == pytest.approx((0.7 * lengths - 1).square().mean().item(), rel=1e-5)
    found.backward()
    assert network.a.grad is not None
    assert network.a.grad.item() == pytest.approx((2 * (0.7 * lengths - 1) * lengths).mean().item(), rel=1e-5)
    labels = torch.tensor([1, 2, 3, 1, 2])
    of_classes = losses.gradient_penalty(network, Labelled(real, labels), fake, shares)
    assert of_classes.item() == pytest.approx((0.7 * labels * lengths - 1).square().mean().item(), rel=1e-5)


def test_the_penalty_of_the_recipe_is_in_the_loss() -> None:
    x = images().normalized(images().pixels[:8])
    network, real, fake = Quadratic(0.7), Labelled(x), Labelled(-x + 0.1)
    plain = loop.discriminator_loss(network, NoNorm(), real, fake, recipe(loss="wasserstein", gradient_penalty=0))
    added = [
        (loop.discriminator_loss(network, NoNorm(), real, fake, recipe(**given), Moment(seed=seed)) - plain).item()
        for given, seed in (
            ({"loss": "wasserstein"}, 0),
            ({"loss": "wasserstein", "gradient_penalty": 5.0}, 0),
            ({"loss": "wasserstein"}, 1),
        )
    ]
    assert added[0] > 0
    assert added[1] == pytest.approx(added[0] / 2, rel=1e-4)
    assert added[2] != added[0]  # other points in another step
    assert [recipe(loss=name).penalized for name in losses.LOSSES] == [0, 0, 10]


def penalty_of(network: nn.Module, state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The gradient penalty of a network whose buffers are as they were."""
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(state[name])
    shares = torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None, None, None]
    return losses.gradient_penalty(network, Labelled(x), -x, shares)


def twice(name: str) -> bool:
    """Whether normbench lets a method train with a gradient penalty."""
    task = gan_task(recipe=recipe(loss="wasserstein", latent=LATENT), model_options={"width": 4})
    try:
        subjects.check_twice(task, models.get("sngan", "gan"), methods.build(name, {}), bound(), "variant v, task t")
    except UserError as error:
        (line,) = error.args
        assert "\n" not in line
        assert "the gradient penalty needs second derivatives, which" in line
        assert f"normbench/methods/{name}.py:" in line
        return False
    return True


@pytest.mark.parametrize("name", methods.names())
def test_second_derivatives_are_right_or_refused(name: str) -> None:
    """The derivative of the penalty by the parameters, in a random direction, is that of finite differences."""
    if not twice(name):
        return
    method = methods.build(name, {})
    _, network = built(method=method)
    network.double()
    for key, parameter in network.named_parameters():
        if name == "batch_instance_norm" and key.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.6)  # At its first value, 1, it is clipped on one side.
    x = torch.randn(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        for _ in range(30):
            network(x)  # so that power iterations have converged
    state = {key: value.clone() for key, value in network.named_buffers()}
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(penalty_of(network, state, x), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(5)
    directions = [
        torch.randn(p.shape, generator=generator).double() * p.detach().square().mean().sqrt() for p in parameters
    ]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None)
    values, step = [], 1e-6  # less than to the next kink of an activation
    for sign in (1, -1):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data.add_(direction, alpha=sign * step)
        values.append(penalty_of(network, state, x).item())
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data.add_(direction, alpha=-sign * step)
    # The vectors of power iterations are constants for the gradient, which is exact as far as they have converged.
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.03, abs=1e-4)


# Networks


def test_numbers_of_parameters() -> None:
    """By the layers of table 4: 4x4x256 from 128 numbers, and so on; kwotsin/mimicry has the same."""

    def conv(inputs: int, outputs: int, side: int = 3) -> int:
        return inputs * outputs * side**2 + outputs

    up = 2 * conv(256, 256) + conv(256, 256, 1) + 2 * 2 * 256
    of_generator = 128 * 4096 + 4096 + 3 * up + 2 * 256 + conv(256, 3)
    first = conv(3, 128) + conv(128, 128) + conv(3, 128, 1)
    of_discriminator = first + 2 * conv(128, 128) + conv(128, 128, 1) + 4 * conv(128, 128) + 129
    assert (of_generator, of_discriminator) == (4_276_739, 1_053_825)
    found = build_gan("sngan_resnet", {}, SpectralNorm(batch_norm=False), 3, 32, 128)
    assert [sum(p.numel() for p in network.parameters()) for network in found] == [of_generator, of_discriminator]
    of_classes = build_gan("sngan_resnet", {}, SpectralNorm(batch_norm=False), 3, 32, 128, classes=10)
    # In each block two tables of gains and shifts in the place of a batch norm's own, and a vector for each class.
    more = [3 * 2 * (10 - 1) * 2 * 256, 10 * 128]
    assert [sum(p.numel() for p in network.parameters()) for network in of_classes] == [
        before + extra for before, extra in zip((of_generator, of_discriminator), more, strict=True)
    ]


@pytest.mark.parametrize("name", ["spectral_norm", "batch_norm"])
def test_weights_are_drawn_as_by_the_authors(name: str) -> None:
    """Glorot's uniform distribution, 3x3 convolutions in blocks sqrt(2) times as wide; biases start at 0."""
    method = SpectralNorm(batch_norm=False) if name == "spectral_norm" else BatchNorm()
    generator, discriminator = build_gan("sngan_resnet", {"width": 16}, method, 3, 32, 128, 0, classes=10)
    seen = 0
    for network, (place, module) in itertools.chain(
        *(zip(itertools.repeat(each), each.named_modules()) for each in (generator, discriminator))
    ):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        parametrized = parametrize.is_parametrized(module)
        weight = module.parametrizations.weight.original if parametrized else module.weight
        fans = weight[0].numel() + weight.shape[0] * math.prod(weight.shape[2:])
        in_block = "conv1" in place or "conv2" in place
        limit = math.sqrt((2 if in_block else 1) * 6 / fans)
        least = 0.85 if weight.numel() > 100 else 0.5
        assert least * limit < weight.abs().max().item() <= limit * (1 + 1e-6), place
        assert module.bias is None or not module.bias.any()
        seen += network is discriminator
    assert seen == 8 + 2 + 2


def test_a_residual_network_by_hand() -> None:
    """The blocks of a discriminator and of a generator without norms, written with functions of torch."""
    generator, discriminator = built("sngan_resnet", NoNorm(), apply_to="both")
    for network in (generator, discriminator):
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    from torch.nn import functional as f

    def conv(x: Tensor, layer: nn.Module) -> Tensor:
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        return f.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    x = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    first, second, *others = discriminator.blocks
    y = f.avg_pool2d(conv(conv(x, first.conv1).relu(), first.conv2), 2) + conv(f.avg_pool2d(x, 2), first.shortcut)
    z = conv(conv(y.relu(), second.conv1).relu(), second.conv2)
    y = f.avg_pool2d(z, 2) + f.avg_pool2d(conv(y, second.shortcut), 2)
    for block in others:
        y = conv(conv(y.relu(), block.conv1).relu(), block.conv2) + y
    expected = y.relu().sum((2, 3)) @ discriminator.head.weight[0] + discriminator.head.bias
    torch.testing.assert_close(discriminator(x), expected, rtol=1e-4, atol=1e-4)

    noise = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(3))
    y = generator.dense(noise).view(3, 8, 2, 2)
    for block in generator.blocks:
        wide = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        inner = conv(y.relu().repeat_interleave(2, 2).repeat_interleave(2, 3), block.conv1)
        y = conv(inner.relu(), block.conv2) + conv(wide, block.shortcut)
    torch.testing.assert_close(generator(noise), torch.tanh(conv(y.relu(), generator.image)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", NARROW)
def test_classes_in_both_networks(model: str) -> None:
    """At first classes change no image; the score has the product of the features and the vector of the class."""
    generator, discriminator = built(model, classes=CLASSES)
    noise, labels = torch.randn(5, LATENT), torch.tensor([0, 1, 2, 3, 1])
    generator.eval()
    before = generator(noise, labels)
    torch.testing.assert_close(generator(noise, labels.flip(0)), before)
    for module in generator.modules():
        if isinstance(module, ClassAffine):
            module.shift.data[2] += 1
    after = generator(noise, labels)
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [label == 2 for label in labels.tolist()]

    features: list[Tensor] = []
    discriminator.head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    found = discriminator(before.detach(), labels)
    (inputs,) = features
    projection = (discriminator.projection.weight[labels] * inputs).sum(1)
    expected = inputs @ discriminator.head.weight[0] + discriminator.head.bias + projection
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert discriminator.projection.bias is None


def test_the_table_of_a_class() -> None:
    layer = ClassAffine(3, 2)
    layer.gain.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    layer.shift.data.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    x = torch.ones(2, 2, 1, 1) * torch.tensor([1.0, 10.0])[:, None, None, None]
    assert layer(x, torch.tensor([2, 0])).flatten(1).tolist() == [[9, 11], [10, 21]]


# Where a method applies


@pytest.mark.parametrize("name", methods.names())
def test_every_method_everywhere(name: str) -> None:
    """In the discriminator, the generator and both, of each GAN with classes."""
    method = methods.build(name, {})
    for model, apply_to in itertools.product(NARROW, PLACES):
        # In colour, as a 1x1 convolution of one channel has a single weight for each output, and so no deviation.
        generator, discriminator = build_gan(
            model, NARROW[model], method, 3, SIZE, LATENT, 0, classes=CLASSES, apply_to=apply_to
        )
        given = setting(method, CLASSES, apply_to, iterations=1)
        grey = images(16)
        colour = Images(
            grey.pixels.repeat(1, 3, 1, 1), grey.labels, *(x.repeat(3, 1, 1) for x in (grey.mean, grey.std))
        )
        outcome = loop.fit(generator, discriminator, colour, given, lambda *_: None)
        assert outcome.diverged is None, (model, apply_to)
        for network in (generator, discriminator):
            missing = [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]
            # A network whose norms are spread over its convolutions has a table for no norm, of no effect at first.
            assert missing == [], (model, apply_to)


def test_the_reference_networks() -> None:
    """A generator without a method has batch norm, a discriminator without one spectral norm."""
    method = NoNorm()
    for model, apply_to in itertools.product(NARROW, PLACES):
        generator, discriminator = built(model, method, apply_to=apply_to)
        batch_norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
        assert bool(batch_norms) == (apply_to == "discriminator"), (model, apply_to)
        normalized = [module for module in discriminator.modules() if parametrize.is_parametrized(module)]
        assert bool(normalized) == (apply_to == "generator"), (model, apply_to)


@dataclass(frozen=True)
class Taxed(BatchNorm):
    """Adds 100 to the loss, and takes a hundredth of the learning rate."""

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor:
        return torch.tensor(100.0)

    def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        return [{"params": list(model.parameters()), "lr": lr / 100}]

    def initialize(self, model: nn.Module) -> None:
        model.register_buffer("marked", torch.ones(1))


@pytest.mark.parametrize("apply_to", PLACES)
def test_hooks_of_the_loss_and_of_the_optimizer(apply_to: ApplyTo) -> None:
    networks = built("sngan", Taxed(), apply_to=apply_to)
    marked = {"generator": (True, False), "discriminator": (False, True), "both": (True, True)}[apply_to]
    assert tuple("marked" in dict(network.named_buffers()) for network in networks) == marked
    given = setting(Taxed(), apply_to=apply_to, iterations=1)
    training = loop.Training(*networks, images(), given, lambda *_: None, loop.Nobody())
    rates = [each.param_groups[0]["lr"] for each in (training.generator_optim, training.discriminator_optim)]
    assert rates == pytest.approx([2e-5 if here else 2e-3 for here in marked])
    training.run()
    (entry,) = training.outcome.history
    assert (entry["generator_loss"] > 50, entry["discriminator_loss"] > 50) == marked


# The loop


class Memory:
    """A keeper that saves after each iteration, in memory, and ends the training after `stop` of them."""

    spent = 0.0

    def __init__(self, stop: int | None = None, state: dict[str, Any] | None = None):
        self.stop, self.state = stop, state

    def resume(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)
        if state["step"] == self.stop:
            raise KeyboardInterrupt


RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    "hinge, classes": ("sngan_resnet", {"classes": CLASSES, "discriminator_steps": 2}),
    "non-saturating, both": ("sngan", {"loss": "non_saturating", "apply_to": "both", "schedule": "linear"}),
    "Wasserstein, classes": ("sngan", {"loss": "wasserstein", "classes": CLASSES, "discriminator_steps": 2}),
    "Wasserstein, generator": ("sngan_resnet", {"loss": "wasserstein", "apply_to": "generator"}),
    "bfloat16": ("sngan_resnet", {"precision": "bfloat16", "average": 0.0}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resumed_at_any_step_with_the_same_bits(case: str) -> None:
    """One state holds both networks, their optimizers, the noise and what was noted; nothing else is needed."""
    model, changes = RESUMED[case]
    given, method = setting(NoNorm(), iterations=4, **changes), NoNorm()

    def networks() -> tuple[nn.Module, nn.Module]:
        return built(model, method, given.classes, changes.get("apply_to", "discriminator"))

    whole = networks()
    expected = fitted(whole, given)
    for step in (1, 2, 3):
        kept = Memory(step)
        with pytest.raises(KeyboardInterrupt):
            fitted(networks(), given, kept)
        torch.manual_seed(step)  # the state of no global generator matters
        others = networks()
        for network in others:
            for parameter in network.parameters():
                parameter.data.add_(1)
        found = fitted(others, given, Memory(state=kept.state))
        assert found.resumed == {"step": step}
        for one, other in zip((*whole, expected.average), (*others, found.average), strict=True):
            for (key, value), again in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
                assert torch.equal(value, again), (step, key)
        assert found.history == expected.history
        assert all(map(torch.equal, found.shown, expected.shown))
        assert len(found.shown) == len(expected.shown) == 4


def test_the_linear_schedule() -> None:
    rates = []
    training = loop.Training(
        *built(), images(), setting(iterations=4, schedule="linear"), lambda *_: None, loop.Nobody()
    )
    step = training.discriminator_optim.step
    training.discriminator_optim.step = lambda: (
        rates.append(training.discriminator_optim.param_groups[0]["lr"]),
        step(),
    )
    training.run()
    assert rates == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3])
    assert training.generator_optim.param_groups[0]["lr"] == pytest.approx(0.5e-3)
    assert [loop.lr_factor(recipe(iterations=4), step) for step in range(4)] == [1, 1, 1, 1]


def test_bfloat16_is_in_layers_and_not_in_losses() -> None:
    generator, discriminator = built("sngan_resnet", NoNorm())
    seen: dict[str, set[torch.dtype]] = {"image": set(), "head": set()}
    # Not of samples: the moving average is in evaluation mode.
    generator.image.register_forward_hook(
        lambda *given: seen["image"].add(given[2].dtype) if given[0].training else None
    )
    discriminator.head.register_forward_hook(lambda *given: seen["head"].add(given[2].dtype))
    found = losses.LOSSES["hinge"]
    given: list[torch.dtype] = []
    noting = losses.Loss(
        lambda *x: (given.extend(each.dtype for each in x), found.discriminator(*x))[1], found.generator
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "hinge", noting)
        settings = setting(NoNorm(), precision="bfloat16", iterations=1, gradient_penalty=1.0)
        assert fitted((generator, discriminator), settings).diverged is None
    assert seen["image"] == {torch.bfloat16}
    assert seen["head"] == {torch.bfloat16, torch.float32}  # float32 in the gradient penalty
    assert set(given) == {torch.float32}


def test_real_batches_have_their_labels() -> None:
    batches = loop.real_batches(images(), 8, 0, conditional=True)
    for x, labels in (next(batches) for _ in range(8)):
        assert labels is not None
        brightness = (x.mean((1, 2, 3)) + 1) * 127.5
        assert ((brightness - 30) / 60).round().long().tolist() == labels.tolist()
    assert next(loop.real_batches(images(), 8, 0)).labels is None


def test_classes_of_generated_images() -> None:
    """In the training each is as likely; of samples, they take turns, whatever the size of the blocks."""
    source = samples.Noise(3, 0, "cpu", CLASSES)
    drawn = torch.cat([source.draw_labels(100) for _ in range(40)])  # type: ignore[misc]  # there are classes
    counts = torch.bincount(drawn, minlength=CLASSES)
    assert len(counts) == CLASSES
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000 * 3 / 4)).all()
    assert samples.Noise(3, 0, "cpu").draw_labels(5) is None

    class Says(nn.Module):
        classes = 3

        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            return (labels / 2 - 1)[:, None, None, None].expand(-1, 1, 2, 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "BATCH", 4)
        found = samples.sample(Says(), 5, 10, 0, "cpu")
    assert found[:, 0, 0, 0].tolist() == [0, 64, 128] * 3 + [0]


# What is noted


class Constant(nn.Module):
    """A generator of one image, whatever its noise is."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(1, 1, SIZE, SIZE))

    def forward(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.image).expand(len(noise), -1, -1, -1)


def test_a_generator_that_has_collapsed_is_noticed() -> None:
    _, discriminator = built()
    outcome = fitted((Constant(), discriminator), setting(iterations=6))
    assert outcome.diverged is None
    assert [entry["diversity"] for entry in outcome.history] == [0] * 6
    assert outcome.collapsed == {"step": 1}
    generator, _ = built()
    generator.image.weight.data.mul_(20)  # of an untrained generator, whose images are all but grey
    assert fitted((generator, discriminator), setting(iterations=6, lr=1e-5)).collapsed is None


def test_the_collapse_begins_with_the_first_entry_after_which_there_is_no_diversity() -> None:
    def collapsed(*values: float | None) -> dict[str, int] | None:
        history = [{"iteration": 10 * (i + 1), "diversity": value} for i, value in enumerate(values)]
        return loop.Outcome(nn.Identity(), history).collapsed

    assert collapsed(0.9, 0.05, 0.02) == {"step": 20}
    assert collapsed(0.01, 0.5, 0.02) == {"step": 30}
    assert collapsed(0.01, 0.02, 0.5) is None
    assert collapsed(0.01, None) is None
    assert collapsed() is None


def test_diversity() -> None:
    """About 1 for other real images, and near 0 for a few images with little noise, though they differ among them."""
    pixels = images(200).pixels
    measured = diversity.Diversity(pixels, 64)
    assert measured.of(images(200, seed=1).pixels[:64]) == pytest.approx(1, abs=0.2)
    few = pixels[torch.arange(64) % 8].clone()
    few[:, 0, 0, 0] = torch.arange(64).to(torch.uint8) % 3
    found = measured.of(few)
    assert found is not None
    assert found < COLLAPSED
    flat = few.float().flatten(1)
    distances = torch.stack([(flat - one).norm(dim=1) for one in flat])
    own = torch.stack([row[torch.arange(64) != i].min() for i, row in enumerate(distances)]).median()
    assert diversity.nearest(few).item() == pytest.approx(own.item())
    assert diversity.Diversity(pixels[:1].repeat(5, 1, 1, 1), 64).of(few[:5]) is None


def test_spectral_norms_of_a_network() -> None:
    """Those of numpy, of the weights that are used; and nothing in the network has changed."""
    _, network = built("sngan_resnet", SpectralNorm(batch_norm=False), CLASSES)
    network.blocks[1].eval()
    before = copy.deepcopy(network.state_dict())
    found = norms.spectral_norms(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [module.training for module in network.blocks] == [True, False, True, True]
    assert len(found) == 8 + 2 + 2
    network.eval()
    for name, norm in found.items():
        weight = network.get_submodule(name).weight.detach().flatten(1).double().numpy()
        assert norm == pytest.approx(np.linalg.svd(weight, compute_uv=False)[0], rel=1e-6)
        assert 0.9 < norm < 1.5
    with torch.no_grad():
        network.head.parametrizations.weight.original.fill_(float("nan"))
    assert set(norms.spectral_norms(network)) == set(found) - {"head"}
    assert norms.spectral_norms(nn.ReLU()) == {}


def test_what_is_noted_does_not_change_the_training() -> None:
    given, ends = setting(SpectralNorm(batch_norm=False), iterations=6), []
    for points in (1, 6):
        networks = built(method=SpectralNorm(batch_norm=False))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "POINTS", points)
            outcome = fitted(networks, given)
        assert len(outcome.history) == len(outcome.shown) == points
        assert set(outcome.history[-1]["spectral_norms"]) >= {"layers.0", "head"}
        assert outcome.shown[0].shape == (loop.SHOWN, 1, SIZE, SIZE)
        ends.append(networks)
    for one, other in zip(*ends, strict=True):
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_divergence_with_each_loss(loss: str) -> None:
    networks = built("sngan_resnet", NoNorm())
    outcome = fitted(networks, setting(NoNorm(), iterations=50, lr=1e30, loss=loss))
    assert outcome.diverged is not None
    assert outcome.diverged["step"] < 50
    assert len(outcome.history) < 20


def test_a_recipe_of_before_there_were_the_new_keys() -> None:
    old = {"iterations", "batch_size", "lr", "beta1", "beta2", "discriminator_steps", "latent", "average", "threads"}
    assert set(gan_task(recipe=GanRecipe(iterations=5)).identity()["recipe"]) == old
    assert "conditional" not in gan_task().identity()
    assert gan_task(conditional=True).identity()["conditional"] is True
