"""The Lipschitz bound of a discriminator: above every gradient, and exact where it must be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.gan.lipschitz import lipschitz_bound
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.models.build import new_gan

MODELS = {"sngan": {"width": 8}, "sngan_resnet": {"width": 8, "generator_width": 8}}
METHODS = ["spectral_norm", "batch_norm", "network_deconvolution", "conv_norm", "no_norm", "orthogonal"]


def discriminator(model: str, method: str, classes: int | None) -> nn.Module:
    """A discriminator in float64 that has seen some images in training, so that its statistics are not the first."""
    built = methods.build(method, {})
    _, found = new_gan(models.get(model, "gan"), MODELS[model], built, 2, 16, 8, 0, classes, "discriminator")
    torch.manual_seed(1)
    labels = [] if classes is None else [torch.arange(8) % classes]
    for _ in range(3):
        found.train()(torch.randn(8, 2, 16, 16), *labels)
    return found.double().eval()


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_it_is_above_every_gradient(model: str, method: str, classes: int | None) -> None:
    network = discriminator(model, method, classes)
    bound, why = lipschitz_bound(network, torch.zeros(1, 2, 16, 16, dtype=torch.float64), classes)
    assert bound is not None, why
    torch.manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        x = (scale * torch.randn(6, 2, 16, 16, dtype=torch.float64)).requires_grad_()
        scores = network(x, *([] if classes is None else [torch.arange(6) % classes]))
        (gradients,) = torch.autograd.grad(scores.sum(), x)
        assert 0 < gradients.flatten(1).norm(dim=1).max() <= bound


def test_with_classes_it_is_that_of_the_class_whose_vector_is_longest() -> None:
    """The features are those of the network without classes, and the vectors are known."""
    network = discriminator("sngan", "spectral_norm", 3)
    plain = discriminator("sngan", "spectral_norm", None)
    image = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    plain.layers.load_state_dict(network.layers.state_dict())
    plain.head.load_state_dict(network.head.state_dict())
    head, rows = network.head.weight[0], network.projection.weight
    longest = max((head + row).norm().item() for row in rows)
    (with_classes, _), (without, _) = lipschitz_bound(network, image, 3), lipschitz_bound(plain, image, None)
    assert with_classes == pytest.approx(without * longest / head.norm().item(), rel=1e-6)


def test_a_linear_discriminator_has_its_norm() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 1)).double().eval()
    bound, _ = lipschitz_bound(network, torch.zeros(1, 2, 2, 2, dtype=torch.float64), None)
    assert bound == pytest.approx(network[1].weight.norm().item(), rel=1e-9)


class Own(nn.Module):
    """A discriminator that is not of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(images.flatten(1))[:, 0] + (0 if labels is None else labels)


def test_why_there_is_none() -> None:
    image = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    for classes in (None, 3):
        bound, why = lipschitz_bound(discriminator("sngan", "layer_norm", classes), image, classes)
        assert (bound, why) == (None, "no Lipschitz constant is known for Float32GroupNorm, the layer layers.1")
    assert lipschitz_bound(Own(), torch.zeros(1, 2, 2, 2), 3)[0] is None
    assert lipschitz_bound(Own(), torch.zeros(1, 2, 2, 2), None)[0] is not None
