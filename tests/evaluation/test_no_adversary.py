"""A search for adversarial examples within the certified radii of 1,000 images, which must find none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.batches import Images, on_device
from normbench.evaluation.certificates import Certificates, certificates
from tests.support.shared import mnist_test_images
from tests.support.subjects import subject

COUNT = 1000
Logits = Callable[[Tensor], Tensor]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 8, 8, 1) of written digits and their labels, as scikit-learn has them."""
    from sklearn import datasets

    found = datasets.load_digits()
    return (found.images[..., None] * 255 / 16).round().astype(np.uint8), found.target.astype(np.int64)


def trained(pixels: Tensor, labels: Tensor, network: nn.Sequential) -> nn.Module:
    """The network after a short training with weight decay, without which nothing would be certified."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1.0)
    for step in range(300):
        chosen = torch.arange(100 * step, 100 * step + 100) % len(pixels)
        loss = functional.cross_entropy(network(pixels[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def perceptron(pixels: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Three linear layers of 32 units."""
    layers = [nn.Linear(pixels, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def convolutions(side: int) -> nn.Sequential:
    """Two convolutions of stride 2 and a linear layer, with softplus."""
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 16, 3, 2, 1), nn.Softplus()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (side // 4) ** 2, 10))


NETWORKS: dict[str, Callable[[int], nn.Sequential]] = {
    "relu": lambda side: perceptron(side**2, nn.ReLU),
    "softplus": lambda side: perceptron(side**2, nn.Softplus),
    "tanh": lambda side: perceptron(side**2, nn.Tanh),
    "convolutions": convolutions,
}


@pytest.mark.parametrize(
    ("data", "name"), [*(("digits", name) for name in NETWORKS), ("mnist", "relu"), ("mnist", "softplus")]
)
def test_no_adversary_is_within_the_certified_radius(data: str, name: str) -> None:
    """By either certificate. The same attacks find some beyond it, for most of the images."""
    pixels, labels = digits() if data == "digits" else mnist_test_images()
    side, kept = pixels.shape[1], slice(-COUNT, None)
    given = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), [0.0], [1.0], "cpu")
    torch.manual_seed(0)
    rest = slice(0, min(len(pixels) - COUNT, 3000))
    network = trained(given.normalized(given.pixels[rest]), given.labels[rest], NETWORKS[name](side))
    images = Images(given.pixels[kept], given.labels[kept], given.mean, given.std)
    settings = Certificates.model_validate({"examples": COUNT, "radii_l2": [0.1], "steps": 0})
    arrays = certificates(subject(network, images), settings).predictions
    order = torch.from_numpy(arrays["certificate_index"].astype(np.int64))
    network.double()
    x, y = images.normalized(images.pixels[order]).double(), images.labels[order]
    kinds = ["lipschitz"] if name == "relu" else ["lipschitz", "curvature"]
    for kind in kinds:
        radii = torch.from_numpy(arrays[f"certificate_{kind}"])
        right = network(x).argmax(1) == y
        assert len(radii) == COUNT
        assert ((radii > 0) <= right).all()
        assert (radii > 0).sum() > 0.7 * COUNT
        some = radii > 0
        within = fooled(network, x[some], y[some], radii[some])
        assert not within.any(), f"{kind}: {int(within.sum())} images"
        assert fooled(network, x[some], y[some], 20 * radii[some]).float().mean() > 0.5


def fooled(network: Logits, x: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
    """For which images (N, C, H, W) any attack in the ball of their radius (N,) finds another class, (N,)."""
    generator = torch.Generator().manual_seed(0)
    broken = torch.zeros(len(x), dtype=torch.bool)

    def within(moved: Tensor) -> Tensor:
        length = moved.flatten(1).norm(dim=1).clamp_min(1e-300)
        return moved * (radii / length).clamp_max(1).view(-1, 1, 1, 1)

    def at_length(direction: Tensor) -> Tensor:
        return direction * (radii / direction.flatten(1).norm(dim=1).clamp_min(1e-300)).view(-1, 1, 1, 1)

    def note(moved: Tensor) -> None:
        nonlocal broken
        broken |= network(x + moved).argmax(1) != labels

    def descend(moved: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> None:
        for step in range(steps):
            given = (x + moved).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(network(given)).sum(), given)
            moved = within(moved - (1 - step / steps) * at_length(gradient))
            note(moved)

    def drawn() -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    own = labels[:, None]
    # PGD on the cross-entropy, from the image and from random starts.
    for start in range(3):
        descend(at_length(drawn()) * (start > 0), lambda z: -functional.cross_entropy(z, labels, reduction="none"), 10)
    # Descent on the difference to each other class.
    for shift in range(1, 10):
        other = (own + shift) % 10
        descend(torch.zeros_like(x), lambda z, other=other: (z.gather(1, own) - z.gather(1, other))[:, 0], 10)
    # Towards images of other classes, and at random.
    for shift in range(20):
        note(at_length(x.roll(shift + 1, 0) - x))
        note(at_length(drawn()))
    return broken
