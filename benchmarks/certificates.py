"""Measures what certificates cost: margins by Lipschitz constants, radii by curvature, and each bound on a convolution.

The margins of 10,000 images are compared with one clean evaluation of them. Curvature is that of a multi-layer
perceptron with softplus, 784-1024-1024-10, which is trained for a moment with the penalty on its curvature, so that its
radii are not all zero; the time does depend on how many classes are near. The images are those of a file, such as
`mnist.npz` with `train_images` and `train_labels` (N, 28, 28, 1), or else handwritten digits of 8 x 8 pixels, enlarged.

    python -m benchmarks.certificates [--images mnist.npz] [--threads 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import machine
from benchmarks.turns import clock, seconds, take_turns
from normbench import spectral
from normbench.data.batches import Images, on_device
from normbench.evaluation.certificates import Exact, by_curvature
from normbench.evaluation.lipschitz import bounds
from normbench.methods import registry
from normbench.models.build import build_classifier
from normbench.spectral import CurvedLayer, derivatives_of, hessian_bounds, margin_radius, norm_of
from normbench.training.logits import logits
from tests.support.subjects import subject

IMAGES, CURVED = 10_000, 1000  # of which margins and radii are computed
STEPS, BATCH, PENALTY = 150, 64, 5e-3  # of the training of the perceptron
SHAPES = ((64, 64, 3, 1, 32), (128, 64, 3, 2, 32), (256, 256, 3, 1, 8))  # out, in, kernel, stride, size


def of_margins(rounds: int) -> None:
    """Prints the time of the margins of 10,000 images beside that of classifying them, for a ResNet."""
    torch.manual_seed(0)
    model = build_classifier("resnet8", {"width": 16}, registry.build("batch_norm", {}), 3, 10, seed=0).eval()
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    images = on_device(pixels, torch.zeros(IMAGES, dtype=torch.long), [0.5] * 3, [0.25] * 3, "cpu")
    scores = logits(model, images, images.pixels, "float32").double()
    labels = scores.argmax(1)
    found = bounds(model, images.normalized(images.pixels[:1]))["differences"]
    works = {
        "clean evaluation of 10,000 images": lambda: logits(model, images, images.pixels, "float32"),
        "bounds of the network, once": lambda: bounds(model, images.normalized(images.pixels[:1])),
        "margins of 10,000 images": lambda: margin_radius(scores, labels, found),
    }
    times = take_turns(works, rounds)
    base = times["clean evaluation of 10,000 images"]
    print(f"ResNet-8 of width 16, 32 x 32 pixels; {clock()}")
    for name, spent in times.items():
        print(f"  {name:<36} {spent:>10.1f} ms  {spent / base:>8.4f} of the evaluation")


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits as images (N, 1, 28, 28) in 0..1, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = torch.from_numpy(found.images).float()[:, None] / 16
    return functional.interpolate(small, size=28, mode="bilinear"), torch.from_numpy(found.target).long()


def stored(path: Path) -> tuple[Tensor, Tensor]:
    """The training images (N, 1, 28, 28) in 0..1 of an .npz file, and their labels."""
    with np.load(path) as found:
        pixels, labels = found["train_images"], found["train_labels"]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels).long()


def perceptron(images: Tensor, labels: Tensor) -> nn.Sequential:
    """A perceptron with softplus, trained for some steps with a penalty on the bound of its curvature."""
    torch.manual_seed(0)
    first, second, head = nn.Linear(784, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 10)
    model = nn.Sequential(nn.Flatten(), first, nn.Softplus(), second, nn.Softplus(), head)
    optimizer, known = torch.optim.Adam(model.parameters(), 1e-3), derivatives_of(nn.Softplus())
    vectors = [torch.randn(layer.in_features) for layer in (first, second)]
    if known is None:
        raise AssertionError
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,))
        for place, layer in enumerate((first, second)):  # A tracked norm is enough for a penalty.
            with torch.no_grad():
                vectors[place] = functional.normalize(layer.weight.T @ (layer.weight @ vectors[place]), dim=0)
        layers = [
            CurvedLayer(layer.weight, (layer.weight @ vector).norm(), known)
            for layer, vector in zip((first, second), vectors, strict=True)
        ]
        y = labels[chosen]
        other = (y + torch.randint(1, 10, (BATCH,))) % 10
        least, most = hessian_bounds(layers, head.weight[y] - head.weight[other])
        loss = functional.cross_entropy(model(images[chosen]), y) + PENALTY * torch.maximum(least, most).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def of_curvature(path: Path | None) -> None:
    """Prints the time of the radii of 1,000 images by curvature, with that of the norms of the layers in it."""
    pixels, labels = digits() if path is None else stored(path)
    model = perceptron(pixels, labels)
    pixels, labels = pixels[:CURVED], labels[:CURVED]
    none = torch.zeros(1, 1, 1)
    exact = Exact.of(subject(model, Images((255 * pixels).to(torch.uint8), labels, none, none + 1)))
    found: list[Tensor] = []
    spent = seconds(lambda: found.append(by_curvature(exact, pixels, labels, 0.0)))
    norms = seconds(lambda: [norm_of(layer.weight.double()) for layer in (model[1], model[3])])
    right = (model(pixels).argmax(1) == labels).double().mean()
    print(f"Curvature of 784-1024-1024-10 with softplus, {len(pixels)} images, {right:.1%} right; {clock()}")
    print(f"  radii, norms of layers included      {spent:>8.1f} s")
    print(f"  norms of layers                      {norms:>8.1f} s")
    print(f"  median radius {found[0].median():.3f}")


def of_bounds(rounds: int) -> None:
    """Prints the time of each bound on a convolution."""
    for out, given, side, stride, size in SHAPES:
        torch.manual_seed(0)
        weight = torch.randn(out, given, side, side, dtype=torch.float64)
        kernel, small = spectral.polyphase(weight, stride), size // stride
        works = {
            "four bounds": lambda kernel=kernel: spectral.fantastic_four(kernel),
            "grid of 16 with Riesz": lambda kernel=kernel: spectral.grid_bound(kernel, 16),
            "bound of certificates": lambda weight=weight, stride=stride: spectral.conv_bound(weight, stride),
            "Gram iteration": lambda kernel=kernel, small=small: spectral.gram_bound(kernel, small),
            "exact, circular": lambda kernel=kernel, small=small: spectral.exact_norm(kernel, small),
            "zero-padded, 100 iterations": lambda weight=weight, size=size, stride=stride: spectral.zero_padded_norm(
                weight, size, stride
            ),
        }
        print(f"{out} x {given} x {side} x {side}, stride {stride}, {size} x {size} pixels; {clock()}")
        for name, spent in take_turns(works, rounds).items():
            print(f"  {name:<36} {spent:>10.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(machine.description())
    of_margins(given.rounds)
    of_curvature(given.images)
    of_bounds(given.rounds)


if __name__ == "__main__":
    main()
