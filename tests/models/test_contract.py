"""What every model must do, whatever it is: run over all models of the table, those of the future included."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.models import registry, trial
from normbench.models.build import build_classifier, build_gan, load_weights
from normbench.runs.checkpoint import save_weights
from tests.models.networks import ALL, CLASSES, ON_ALL, SMALL, built, images, logits_of

LATENT = 6
# The layers that take maps of pixels as one vector, and the height and width of those.
FLAT = {
    "convnet": ("hidden.0.weight", SMALL["side"]),
    "imagenet_vgg11": ("hidden.0.weight", 7),
    "lenet": ("linear1.weight", 5),
    "mlp": ("layers.0.weight", SMALL["side"]),
}
ON_GANS = pytest.mark.parametrize("name", registry.names("gan"))


@dataclasses.dataclass(frozen=True)
class Zeros(Method):
    """A method that sets every parameter that it is given to zero, and draws numbers."""

    def initialize(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        torch.rand(3)


@dataclasses.dataclass(frozen=True)
class Marked(Method):
    """Keeps the modules that it built, in the order of its calls, with their roles."""

    made: list[tuple[nn.Module, Role]] = dataclasses.field(default_factory=list)

    def conv(self, spec: ConvSpec) -> nn.Module:
        self.made.append((super().conv(spec), spec.role))
        return self.made[-1][0]

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        self.made.append((super().norm(channels, role=role), role))
        return self.made[-1][0]

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        self.made.append((super().linear(in_features, out_features, role=role), role))
        return self.made[-1][0]


def small_gan(name: str, method: Method, channels: int, size: int, seed: int | None = 0) -> tuple[nn.Module, nn.Module]:
    options = {option: SMALL[option] for option in registry.get(name).options() if option in SMALL}
    return build_gan(name, options, method, channels, size, LATENT, seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def sizes(name: str) -> list[int]:
    """The least size of a model, and larger ones, one of them a bad fit for halvings."""
    model = registry.get(name)
    least = max(model.least_size, 8)
    return [size for size in (least, 28, 32, 48) if model.size_problem(size, size) is None]


@ON_ALL
def test_logits(name: str) -> None:
    """Of grey and colour images of every size that the model says it takes."""
    for channels, size in ((1, sizes(name)[0]), *((3, size) for size in sizes(name))):
        found = logits_of(built(name, BatchNorm(), channels), images(0, 2, channels, size))
        assert found.shape == (2, CLASSES)
        assert found.isfinite().all()


@ON_ALL
def test_images_that_are_not_square(name: str) -> None:
    """Logits that are those of the images and kernels with rows and columns exchanged."""
    least = sizes(name)[0]
    network, x = built(name, BatchNorm(), 3).double(), images(0, 2, 3, least + 16)[..., :least].double()
    assert trial.size_problem(registry.get(name), ALL[name], *x.shape[2:]) is None
    found = logits_of(network, x)
    assert found.shape == (2, CLASSES)
    for key, weight in network.named_parameters():
        if weight.dim() == 4:
            weight.data = weight.data.transpose(2, 3).contiguous()
        elif name in FLAT and key == FLAT[name][0]:
            maps = weight.data.unflatten(1, (-1, FLAT[name][1], FLAT[name][1]))
            weight.data = maps.transpose(2, 3).flatten(1)
    torch.testing.assert_close(logits_of(network, x.transpose(2, 3)), found)


@ON_ALL
def test_a_seed_gives_the_weights(name: str) -> None:
    one = built(name, BatchNorm(), seed=1)
    assert same(one, built(name, BatchNorm(), seed=1))
    assert not same(one, built(name, BatchNorm(), seed=2))
    torch.manual_seed(1)
    assert same(one, build_classifier(name, ALL[name], BatchNorm(), 3, CLASSES))
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert one.training


@ON_ALL
def test_every_layer_comes_from_the_method(name: str) -> None:
    method = Marked()
    network = built(name, method)
    layers = [m for m in network.modules() if next(iter(m.children()), None) is None and list(m.parameters())]
    made = [module for module, _ in method.made]
    assert {id(layer) for layer in layers} == {id(module) for module in made}
    roles = [role for _, role in method.made]
    assert [role.place for role in roles].count("head") == 1
    first = next((role for module, role in method.made if isinstance(module, nn.Conv2d)), None)
    assert first is None or first.place == "stem"
    (architecture,) = {role.architecture for role in roles}
    assert architecture in (registry.get(name).source[0].stem, name)
    last = max(role.stage for role in roles)
    assert all(role.last_stage == (role.stage == last) for role in roles)
    assert {role.stage for role in roles} == set(range(last + 1))


@ON_ALL
def test_the_method_initialises_the_network(name: str) -> None:
    assert not any(parameter.any() for parameter in built(name, Zeros()).parameters())


@ON_ALL
def test_options_change_the_network(name: str) -> None:
    def count(options: dict[str, int]) -> int:
        with torch.device("meta"):
            network = registry.get(name).function(BatchNorm(), 3, CLASSES, **options)
        return sum(p.numel() for p in network.parameters())

    for option, default in registry.get(name).options().items():
        if isinstance(default, int) and not isinstance(default, bool):
            assert count({option: 2 * default}) > count({option: default}) == count({})


@ON_ALL
def test_stored_weights(name: str, tmp_path: Path) -> None:
    network = built(name, BatchNorm(), seed=1)
    save_weights(network, tmp_path / "weights.pt")
    other = built(name, BatchNorm(), seed=2)
    assert load_weights(other, tmp_path / "weights.pt") is other
    assert same(network, other)


def test_stored_weights_that_do_not_fit(tmp_path: Path) -> None:
    save_weights(built("resnet8", BatchNorm()), tmp_path / "weights.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(built("resnet20", BatchNorm()), tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError):
        load_weights(built("resnet8", BatchNorm()), tmp_path / "nothing.pt")


@ON_GANS
def test_a_gan(name: str) -> None:
    for channels, size in ((1, sizes(name)[0]), *((3, size) for size in sizes(name))):
        generator, discriminator = small_gan(name, BatchNorm(), channels, size)
        found = generator(10 * torch.randn(3, LATENT))
        assert found.shape == (3, channels, size, size)
        assert found.abs().max() <= 1
        assert discriminator(found).shape == (3,)


@ON_GANS
def test_a_method_shapes_the_discriminator_alone(name: str) -> None:
    size = sizes(name)[0]
    generator, discriminator = small_gan(name, BatchNorm(), 3, size)
    again, zeros = small_gan(name, Zeros(), 3, size)
    assert same(generator, again)
    assert not any(parameter.any() for parameter in zeros.parameters())
    torch.manual_seed(0)
    unseeded = small_gan(name, BatchNorm(), 3, size, seed=None)
    assert same(generator, unseeded[0])
    assert same(discriminator, unseeded[1])
    marked = Marked()
    _, discriminator = small_gan(name, marked, 3, size)
    layers = [m for m in discriminator.modules() if next(iter(m.children()), None) is None and list(m.parameters())]
    assert {id(layer) for layer in layers} == {id(module) for module, _ in marked.made}
