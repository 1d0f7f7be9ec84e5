"""Provable robustness in the 2-norm: radii within which no change of an image changes its class, beside an attack.

A radius is certified by Lipschitz constants (Tsuzuku et al., arXiv 1802.04034, with the rows of the last layer) or, for
chains of layers with differentiable activations, by bounds on curvature (Singla and Feizi, arXiv 2006.00731). All norms
are converged upper bounds (arXiv 1911.10258). docs/certificates.md has the formulas and what they do not show.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.evaluation.attacks import classifier_of
from normbench.evaluation.curved import Unsuited, curved_network
from normbench.evaluation.layer_bounds import layer_bounds
from normbench.evaluation.lipschitz import bounds
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import LEVELS, Scores, Subject
from normbench.spectral import margin_radius
from normbench.spectral.curvature_radius import curvature_radii
from normbench.system.errors import UserError
from normbench.system.quantities import Accuracy, Finite
from normbench.system.schema import NotNegativeReal, Positive, PositiveReal, Strict
from normbench.system.seeds import derive
from normbench.training.attacks import Classifier, pgd_l2

VERSION = 1  # of the entries of the metrics
SLACK = 4.0  # times the largest difference of logits in float32 and in float64 is taken from every margin, twice
ROUNDING = 1 + 1e-6  # by which Lipschitz constants are raised, as weights may be folded in float32
TRAVEL = 2.5  # the way of all steps of an attack, in radii
POINTS, SPAN = 50, 1.5  # of the curve: points besides the radius 0, and its end in the largest radii of the settings
BATCH = 250  # images at a time


class Certificates(ScoreSettings):
    """Certified radii in the 2-norm, and PGD in the 2-norm on the same images. Large layers take seconds each.

    examples: the number of test images. radii_l2: 2-norms of a change of an image with pixels in 0..1, by default the
    36/255, 72/255 and 108/255 that are usual for CIFAR; 0.5, 1.0 and 1.58 are for MNIST. steps, restarts: of PGD, whose
    step is 2.5 radii over the number of steps; steps 0 makes no attack.
    """

    examples: Positive = 200
    radii_l2: list[PositiveReal] = Field(default=[36 / 255, 72 / 255, 108 / 255], min_length=1)
    steps: int = Field(default=40, ge=0, le=10_000)
    restarts: Positive = 2


class AtRadius(Strict):
    """Shares of the images at a radius: see `certificates`."""

    radius: PositiveReal
    pgd: Accuracy | None
    lipschitz: Accuracy | None
    curvature: Accuracy | None


class Curve(Strict):
    """Certified accuracy at rising radii: see `certificates`."""

    radius: list[NotNegativeReal]
    lipschitz: list[Accuracy] | None
    curvature: list[Accuracy] | None


class Certified(Strict):
    """The entry `certificates` of the metrics: see `certificates`."""

    version: int
    examples: Positive
    clean: Accuracy
    slack: NotNegativeReal | None
    no_lipschitz: str | None = None
    no_curvature: str | None = None
    lipschitz_mean: NotNegativeReal | None
    curvature_mean: NotNegativeReal | None
    at: list[AtRadius]
    curve: Curve


class LayerNorms(Strict):
    """The bounds of a layer: see `normbench.evaluation.layer_bounds.layer_bounds`."""

    name: str
    kernel: str
    r: Finite | None
    s: Finite | None
    t: Finite | None
    u: Finite | None
    fantastic_four: Finite | None
    grid: Finite | None
    certificate: Finite
    gram: Finite | None
    circular: Finite | None
    zero_padded: Finite | None


class Results(Strict):
    """What the score stores."""

    certificates: Certified
    layer_bounds: list[LayerNorms]


@score("certificates", Certificates, results=Results)
def certificates(subject: Subject, settings: Certificates) -> Scores:
    """Measures `certificates`, on a random subset of the test images, and `layer_bounds` (see `layer_bounds`).

    Entries of `certificates`: `version`; `examples`, the number of images; `clean`, the accuracy on them; `slack`, what
    is taken from the margin between two logits for rounding (see `slack_of`); `at`, for each radius in rising order
    the share of images that are right under `pgd` and that are certified at least so far by `lipschitz` and by
    `curvature`; `lipschitz_mean` and `curvature_mean`, the mean radius, 0 for images that are not right; `curve`, the
    certified shares at rising radii. None without a bound, and `no_lipschitz` or `no_curvature` says why. No radius is
    above the distance between a black and a white image.

    The predictions file has the images (`certificate_index`), their predicted classes (`certificate_clean`, and
    `certificate_pgd`, a row for each radius) and their radii, float64 (`certificate_lipschitz`,
    `certificate_curvature`).

    Raises UserError, with the number of the image, if an attack succeeds within a certified radius.
    """
    images = subject.images
    chosen = subject.drawn("certificates", settings.examples).to(images.pixels.device)
    pixels, labels = images.pixels[chosen].float() / LEVELS, images.labels[chosen]
    classifier = classifier_of(subject)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in pixels.split(BATCH)])
    exact = Exact.of(subject)
    slack = slack_of(exact.logits(pixels), logits)
    radii: dict[str, Tensor | None] = {}
    found: dict[str, Any] = {"version": VERSION, "examples": len(chosen), "slack": slack}
    for name, method in {"lipschitz": by_lipschitz, "curvature": by_curvature}.items():
        try:
            if slack is None:
                raise Unsuited("its logits are not finite")
            longest = math.sqrt(pixels[0].numel())
            radii[name] = method(exact, pixels, labels, slack).clamp_max(longest).to(labels.device)
        except Unsuited as error:
            radii[name], found[f"no_{name}"] = None, str(error)
    right = logits.argmax(1) == labels
    sizes = sorted(set(settings.radii_l2))
    under = attacked(classifier, pixels, labels, logits.argmax(1), sizes, settings, subject.seed)
    known = {name: values for name, values in radii.items() if values is not None}
    check_order(chosen, labels, right, sizes, under, known)

    found["clean"] = share(right)
    for name, values in radii.items():
        found[f"{name}_mean"] = None if values is None else float(values.mean())
    found["at"] = [
        {"radius": size, "pgd": None if under is None else share(under[place] == labels)}
        | {name: None if values is None else share(values >= size) for name, values in radii.items()}
        for place, size in enumerate(sizes)
    ]
    found["curve"] = curve(radii, sizes[-1])
    predictions = {"certificate_index": chosen.to(torch.int32), "certificate_clean": logits.argmax(1).to(torch.int16)}
    if under is not None:
        predictions["certificate_pgd"] = under.to(torch.int16)
    predictions |= {f"certificate_{name}": values for name, values in known.items()}
    arrays = {name: values.cpu().numpy() for name, values in predictions.items()}
    norms = layer_bounds(exact.model, exact.normalized(pixels[:1]))
    return Scores({"certificates": found, "layer_bounds": norms}, {}, arrays)


def share(chosen: Tensor) -> float:
    """The fraction of true values."""
    return float(chosen.double().mean())


@dataclass(frozen=True)
class Exact:
    """A network in float64, on its device or, as MPS has no float64, on the CPU. mean, std: (C, 1, 1), of its input."""

    model: nn.Module
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, subject: Subject) -> Exact:
        """A copy of a subject's network, whose layers keep nothing that was computed in float32."""
        images = subject.images
        place = "cpu" if images.mean.device.type == "mps" else images.mean.device
        model = copy.deepcopy(subject.model).to(place).double().eval()
        return cls(model, images.mean.to(place).double(), images.std.to(place).double())

    def normalized(self, pixels: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0..1 as the network takes them."""
        return (pixels.to(self.mean) - self.mean) / self.std

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """The logits (N, classes) of images (N, C, H, W) in 0..1."""
        return torch.cat([self.model(self.normalized(part)) for part in pixels.split(BATCH)])


def slack_of(exact: Tensor, logits: Tensor) -> float | None:
    """What is taken from the margin between two logits for rounding; None if logits are not finite.

    What is certified are the weights of the network with exact sums. The network itself rounds each sum, to float32 or
    less. How far its logits (N, classes) are off is measured: the slack is twice `SLACK` times their largest distance
    from the `exact` ones, in float64. Twice, since a margin is of two logits; the factor allows for other images within
    the radius, and is no proof.
    """
    slack = 2 * SLACK * float((exact - logits.to(exact)).abs().max())
    return slack if math.isfinite(slack) else None


def by_lipschitz(exact: Exact, pixels: Tensor, labels: Tensor, slack: float) -> Tensor:
    """Radii (N,) by Lipschitz constants. Raises Unsuited if there is no bound."""
    found = bounds(exact.model, exact.normalized(pixels[:1]))
    if found["product"] is None:
        raise Unsuited(found["why"])
    constants = ROUNDING * found["differences"].to(exact.mean) / float(exact.std.min())
    logits, own = exact.logits(pixels), labels.to(exact.mean.device)[:, None]
    return margin_radius(logits.scatter_add(1, own, torch.full_like(logits, -slack)), own[:, 0], constants)


def by_curvature(exact: Exact, pixels: Tensor, labels: Tensor, slack: float) -> Tensor:
    """Radii (N,) by curvature. Raises Unsuited for a network of another form."""
    network = curved_network(exact.model, pixels[:1].to(exact.mean), exact.mean, exact.std)
    return curvature_radii(network, pixels.to(exact.mean), labels.to(exact.mean.device), slack).dual


def attacked(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    predicted: Tensor,
    sizes: list[float],
    settings: Certificates,
    seed: int,
) -> Tensor | None:
    """The predicted classes (radii, N) of images (N, C, H, W) in 0..1 under PGD within each of the rising `sizes`.

    predicted: those (N,) of the images as they are. An image that is not right, or is not any more within a smaller
    radius, is not attacked again and keeps its wrong class. None without steps. seed: the suite's.
    """
    if not settings.steps:
        return None
    current, rows = predicted.clone(), []
    for place, size in enumerate(sizes):
        step = TRAVEL * size / settings.steps
        still = (current == labels).nonzero()[:, 0]
        for number, some in enumerate(still.split(BATCH) if len(still) else []):
            generator = torch.Generator().manual_seed(derive(seed, "certificate_attack", place, number))
            moved = pgd_l2(
                classifier, pixels[some], labels[some], size, step, settings.steps, settings.restarts, generator
            )
            with torch.no_grad():
                current[some] = classifier(moved).argmax(1)
        rows.append(current.clone())
    return torch.stack(rows)


def check_order(
    chosen: Tensor,
    labels: Tensor,
    right: Tensor,
    sizes: list[float],
    under: Tensor | None,
    radii: dict[str, Tensor],
) -> None:
    """Raises UserError, with the number of the image, unless certified images are right under attack, and those clean.

    chosen: numbers of the images (N,). right: whether they are right as they are. under: see `attacked`. radii: by
    certificate (N,).
    """
    for name, values in radii.items():
        wrong = ((values > 0) & ~right).nonzero()[:, 0]
        if len(wrong):
            first = int(wrong[0])
            raise UserError(
                f"image {int(chosen[first])}: certified by {name}, but its class is wrong without an attack"
            )
    if under is None:
        return
    for place, size in enumerate(sizes):
        robust = under[place] == labels
        for name, values in radii.items():
            broken = ((values >= size) & ~robust).nonzero()[:, 0]
            if len(broken):
                first = int(broken[0])
                certified = f"certified by {name} up to {float(values[first]):.6g}"
                raise UserError(f"image {int(chosen[first])}: {certified}, but PGD changes its class within {size:.6g}")
        gained = (robust & ~right).nonzero()[:, 0]
        if len(gained):
            raise UserError(f"image {int(chosen[int(gained[0])])}: right under PGD, but not without an attack")


def curve(radii: dict[str, Tensor | None], largest: float) -> dict[str, Any]:
    """The certified shares of the images at evenly spaced radii from 0 to 1.5 times the largest one of the settings.

    At 0 it is the share of the images that have a certificate at all.
    """
    places = [SPAN * largest * point / POINTS for point in range(POINTS + 1)]
    found: dict[str, Any] = {"radius": places}
    for name, values in radii.items():
        found[name] = None if values is None else [share((values >= place) & (values > 0)) for place in places]
    return found
