"""Training with the losses of certified robustness: margins, and bounds on the curvature.

It is apart from `normbench.training.loop`, which all classifiers are trained by, so that its digest is in the ids of
those runs alone whose recipe has a `loss`.

Curvature-regularised training, Singla and Feizi, ICML 2020, arXiv 2006.00731, section 5, with the search of their code
(singlasahil14/so-robust at ed7560c2). Deviations: bounds on the Hessian for both signs and any depth (see
`normbench.spectral.curvature`), where theirs takes the absolute values of rows; the adversarial examples are found in
evaluation mode; bounds and radii are those of pixels, also where the network normalizes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.methods.base import Moment
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training import classifier as plain
from normbench.training.adversary import LEVELS
from normbench.training.chain import Link, chain, check_curved, curvature, lipschitz
from normbench.training.classifier import Classifier
from normbench.training.keeper import Keeper, Nobody
from normbench.training.loop import Outcome, Report, Training
from normbench.training.losses import hinge, offset_cross_entropy
from normbench.training.optimization import autocast
from normbench.training.recipe import Curvature, Loss
from normbench.training.task import Task

WIDEST = 1000.0  # by how much the multiplier of the search may exceed its least value, as in the authors' code


def fit(classifier: Classifier, task: Task, seed: int, report: Report, keeper: Keeper | None = None) -> Outcome:
    """Trains a prepared classifier in place, with the loss of its recipe (see `normbench.training.loop.fit`).

    Raises UserError if that needs the norms or the curvature of layers for which they are not known.
    """
    if classifier.recipe.loss is None:
        return plain.fit(classifier, task, seed, report, keeper)
    order = derive(task.seed, "order", seed)
    training = CertifiedTraining(
        classifier.model, classifier.method, classifier.train, classifier.recipe, order, report, keeper or Nobody()
    )
    return training.run()


class CertifiedTraining(Training):
    """`Training` whose steps have the loss of the recipe."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        assert self.recipe.loss is not None
        self.loss = self.recipe.loss
        self.penalty: Tensor | None = None  # on the curvature, of the current batch
        images = self.images.normalized(self.images.pixels[:1])
        self.links = links_for(self.loss, self.model, images)
        # The largest factor by which the normalization of pixels stretches a difference.
        self.stretch = float(self.images.std.amin().reciprocal())

    def passes(self, pixels: Tensor, labels: Tensor, moment: Moment, seed: int) -> Iterator[Tensor]:
        """Yields normalized images (B, C, H, W) for each pass over a batch, and notes the penalty on the curvature."""
        wanted = self.loss.curvature
        if wanted is None:
            yield from super().passes(pixels, labels, moment, seed)
            return
        x, self.penalty = self.curved(pixels.float() / LEVELS, labels, wanted, moment.seed)
        yield self.normalized(x)

    def loss_of(self, x: Tensor, labels: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """The loss of normalized images, and the number of correct predictions, both 0-d."""
        with autocast(self.recipe.precision, x.device.type):
            logits = self.forward(x).float()
        loss = self.of_logits(logits, labels, moment)
        for more in (self.penalty, self.method.penalty(self.model, moment)):
            loss = loss if more is None else loss + more
        return loss, (logits.detach().argmax(1) == labels).sum()

    def curved(self, x: Tensor, labels: Tensor, wanted: Curvature, seed: int) -> tuple[Tensor, Tensor]:
        """Adversarial examples of pixels (B, C, H, W) in 0..1, and the penalty on the curvature, 0-d.

        The curvature is that of the difference between the logits of the label and of the class that is next to it.
        """
        mode = self.model.training
        self.model.eval()
        with torch.no_grad():
            logits = self.model(self.normalized(x)).float()
            runner_up = logits.scatter(1, labels[:, None], -math.inf).argmax(1)

        def gradient(at: Tensor) -> Tensor:
            at = at.detach().requires_grad_()
            found = self.model(self.normalized(at)).float()
            difference = found.gather(1, labels[:, None]) - found.gather(1, runner_up[:, None])
            return torch.autograd.grad(difference.sum(), at)[0]

        least, most = (self.stretch**2 * each for each in curvature(self.links, labels, runner_up, seed))
        if wanted.epsilon:
            x = nearest_within(gradient, x, least.detach(), most.detach(), wanted)
        self.model.train(mode)
        return x, wanted.coefficient * torch.maximum(least, most).mean()

    def normalized(self, x: Tensor) -> Tensor:
        """Pixels in 0..1, (B, C, H, W), as the network takes them."""
        return ((x - self.images.mean) / self.images.std).contiguous(memory_format=self.images.memory_format)

    def of_logits(self, logits: Tensor, labels: Tensor, moment: Moment) -> Tensor:
        """The loss of logits (B, classes), 0-d, without penalties."""
        kind, smoothing = self.loss.kind, self.recipe.label_smoothing
        if kind == "cross_entropy":
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        ramp = self.loss.ramp_epochs * self.steps
        share = min(1.0, moment.step / ramp) if ramp else 1.0
        margin: Tensor | float = math.sqrt(2) * share * self.loss.epsilon * self.stretch
        if self.loss.lipschitz == "network":
            margin = margin * lipschitz(self.links, moment.seed)
        if kind == "hinge":
            return hinge(logits, labels, margin)
        return offset_cross_entropy(logits, labels, margin, self.loss.temperature, smoothing)


def needs_links(loss: Loss) -> bool:
    """Whether a loss needs bounds on the layers of a network, and so a network that is a chain."""
    return loss.curvature is not None or (loss.kind != "cross_entropy" and loss.lipschitz == "network")


def links_for(loss: Loss, model: nn.Module, images: Tensor) -> list[Link]:
    """The chain of a network if a loss needs it, and nothing otherwise. images: normalized, (N, C, H, W).

    Raises UserError, with the key of the recipe, if the network is none for which the loss is known.
    """
    if not needs_links(loss):
        return []
    try:
        links = chain(model, images)
        if loss.curvature is not None:
            check_curved(links)
    except UserError as error:
        key = "lipschitz = 'network'" if loss.curvature is None else "curvature"
        raise UserError(f"recipe.loss.{key}: {type(model).__name__} cannot have it: {error}") from None
    return links


def nearest_within(
    gradient: Callable[[Tensor], Tensor], x0: Tensor, least: Tensor, most: Tensor, wanted: Curvature
) -> Tensor:
    """The x (N, C, H, W) with the least f in a ball around each x0, as far as a bisection finds it.

    It is the minimum of f(x) + eta |x - x0|^2 / 2, which is unique for eta >= m, for the eta at which it lies on the
    sphere. Each step is to the minimum of a quadratic function that is above f, with the curvature M. Pixels may leave
    0..1. gradient: of f, of the shape of x. least, most: m and M (N,). wanted: the radius, rounds and steps.
    """
    low, high, x = least, least + WIDEST, x0
    for _ in range(wanted.rounds):
        eta = (low + high) / 2
        factor = eta[:, None, None, None]
        for _ in range(wanted.steps):
            curve = most[:, None, None, None]
            x = (curve * x + factor * x0 - gradient(x)) / (curve + factor)
        outside = (x - x0).flatten(1).norm(dim=1) > wanted.epsilon
        low, high = torch.where(outside, eta, low), torch.where(outside, high, eta)
    return x.detach()
