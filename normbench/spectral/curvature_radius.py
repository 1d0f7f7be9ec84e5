"""Radii within which a prediction cannot change, by bounds on curvature: Singla and Feizi, ICML 2020, arXiv 2006.00731.

Let f = z_y - z_t be positive at x0, with a Hessian of at least -m I everywhere. For 0 <= eta < 1/m the function
phi(x) = |x - x0|^2 / 2 + eta f(x) is strongly convex with modulus 1 - eta m, and where f <= 0 it is at most
|x - x0|^2 / 2. So every x gives a lower bound on the distance r from x0 to f <= 0:

    r^2 >= 2 min phi >= |x - x0|^2 + 2 eta f(x) - |x - x0 + eta grad f(x)|^2 / (1 - eta m).

The paper maximises 2 min phi over eta (section 3, the dual of its problem). The last term, by strong convexity, is what
a minimum that is not quite found may cost: the bound holds for each eta and x, however they were found, so that the
search is in float32 and the bound itself in float64. The paper's range of eta, -1/M to 1/m, includes images that are
classified wrongly, whose radius is zero here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.spectral.curvature import CurvedLayer, hessian_bounds

ROUNDS, STEPS = 14, 20  # values of eta that are tried, and descent steps for each
GROWTH = 4.0  # from one eta to the next while f is above zero
EDGE = 0.999  # the largest eta m, as the last term of the bound grows without limit
CLOSE = 1e-4  # of the squared radius: how much the last term may cost before the search for x goes on
FLATTEST = 1e-3  # m is at least this part of M, so that eta is bounded where a function is convex
ROUNDING = 1 + 1e-9  # by which curvatures are raised and radii lowered, as they are sums and products in float64
BATCH = 500  # images at a time


@dataclass(frozen=True)
class CurvedNetwork:
    """A network with differentiable activations, in float64 and without gradients of its parameters.

    hidden: images (N, C, H, W) to features (N, F). head: the linear layer from features to logits. layers: the hidden
    layers, whose bounds hold for `hidden` as a function of its images.
    """

    hidden: nn.Module
    head: nn.Linear
    layers: Sequence[CurvedLayer]

    def rounded(self) -> CurvedNetwork:
        """The same network in float32, for a search."""
        return CurvedNetwork(copy.deepcopy(self.hidden).float(), copy.deepcopy(self.head).float(), self.layers)

    def differences(self, x: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """z_own - z_other (N,) of images (N, C, H, W) for classes (N,), and its gradient in the images."""
        rows = self.head.weight[own] - self.head.weight[other]
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            values = (self.hidden(x) * rows).sum(1) + self.head.bias[own] - self.head.bias[other]
            (gradient,) = torch.autograd.grad(values.sum(), x)
        return values.detach(), gradient

    def curvatures(self) -> tuple[Tensor, Tensor]:
        """m and M of `hessian_bounds` for z_y - z_t, each (classes, classes), [y, t]."""
        weight = self.head.weight
        least = torch.stack([hessian_bounds(self.layers, row - weight)[0] for row in weight]) * ROUNDING
        least = torch.maximum(least, FLATTEST * least.mT)
        return least, least.mT  # z_t - z_y is z_y - z_t with its sign changed


@dataclass(frozen=True)
class CurvatureRadii:
    """Radii (N,), float64, in the 2-norm of the images.

    closed: by the gradient at the image alone. dual: by the search, at least `closed`.
    """

    closed: Tensor
    dual: Tensor


@torch.no_grad()
def curvature_radii(network: CurvedNetwork, images: Tensor, labels: Tensor, slack: float = 0.0) -> CurvatureRadii:
    """Radii within which the label's logit exceeds all others by more than `slack`; 0 where it does not at the image.

    images: float64 (N, C, H, W). labels: (N,). The radius is the least over all other classes, where the paper takes
    the most likely one alone, though a third class may be the nearest. The search is made for those classes only whose
    closed form does not show already that they are farther than another.
    """
    search, (least, most) = network.rounded(), network.curvatures()
    found = [
        of_batch(network, search, x, y, slack, least, most)
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)
    ]
    return CurvatureRadii(*(torch.cat(each) / ROUNDING for each in zip(*found, strict=True)))


def of_batch(
    network: CurvedNetwork, search: CurvedNetwork, x: Tensor, y: Tensor, slack: float, least: Tensor, most: Tensor
) -> tuple[Tensor, Tensor]:
    """The radii `closed` and `dual` (N,) of images x with labels y. least, most: see `CurvedNetwork.curvatures`."""
    classes = len(least)
    closed = torch.full((len(x), classes), torch.inf, dtype=x.dtype, device=x.device)
    for other in range(classes):
        different = (y != other).nonzero()[:, 0]
        target = torch.full_like(different, other)
        values, gradient = network.differences(x[different], y[different], target)
        closed[different, other] = closed_form(values - slack, gradient, least[y[different], target])
    nearest, dual = closed.sort(1), torch.full_like(closed[:, 0], torch.inf)
    for bound, target in zip(nearest.values.T, nearest.indices.T, strict=True):
        open_ = ((bound < dual) & (bound > 0)).nonzero()[:, 0]
        if len(open_):
            own, other = y[open_], target[open_]
            pair = (own, other, least[own, other], most[own, other])
            eta, place = best_found(search, x[open_], *pair, slack)
            by_search = lower_bound(network, x[open_], place.to(x), eta.to(x), own, other, pair[2], slack)
            dual[open_] = torch.minimum(dual[open_], torch.maximum(bound[open_], by_search.clamp_min(0).sqrt()))
        dual = torch.where(bound > 0, dual, 0)
    return nearest.values[:, 0], dual


def closed_form(values: Tensor, gradient: Tensor, least: Tensor) -> Tensor:
    """The r at which f(x0) - |grad f| r - m r^2 / 2 is zero, (N,); 0 where f(x0) is not above 0.

    values: f(x0) (N,). gradient: (N, ...). least: m (N,). By Taylor's theorem f is above 0 within r.
    """
    slope, values = gradient.flatten(1).norm(dim=1), values.clamp_min(0)
    return torch.where(values > 0, 2 * values / (slope + (slope.square() + 2 * least * values).sqrt()), 0)


def lower_bound(
    network: CurvedNetwork, x0: Tensor, x: Tensor, eta: Tensor, own: Tensor, other: Tensor, least: Tensor, slack: float
) -> Tensor:
    """The lower bound on the squared radius (N,) at these x and eta, see above; it may be below zero.

    An eta outside of 0..1/m, for which the inequality does not hold, is moved into it.
    """
    eta = torch.minimum(eta.clamp_min(0), EDGE / least)
    values, gradient = network.differences(x, own, other)
    bound, _ = evaluated(x - x0, values - slack, gradient, eta, least)
    return bound


def evaluated(moved: Tensor, values: Tensor, gradient: Tensor, eta: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The lower bound on the squared radius (N,), and its last term, at x = x0 + moved. eta, least: (N,)."""
    rest = moved + eta.view(-1, 1, 1, 1) * gradient
    cost = rest.flatten(1).square().sum(1) / (1 - eta * least)
    return moved.flatten(1).square().sum(1) + 2 * eta * values - cost, cost


def best_found(
    network: CurvedNetwork, x0: Tensor, own: Tensor, other: Tensor, least: Tensor, most: Tensor, slack: float
) -> tuple[Tensor, Tensor]:
    """The eta (N,) and x (N, C, H, W) with the highest lower bound that a search meets, in the network's precision.

    The derivative of min phi in eta is f at the minimum. So eta grows from that of a straight line, which is f over the
    square of its slope, while f is above zero there, and then the range between the last two is halved. own, other:
    classes (N,). least, most: m and M (N,).
    """
    x0, least, most = x0.to(network.head.weight), least.to(network.head.weight), most.to(network.head.weight)
    best, best_eta, best_x = torch.full_like(least, -torch.inf), torch.zeros_like(least), x0.clone()
    values, gradient = network.differences(x0, own, other)
    low, high, top = torch.zeros_like(least), torch.full_like(least, torch.inf), EDGE / least
    eta = torch.minimum(2 * (values - slack).clamp_min(0) / gradient.flatten(1).square().sum(1), top)
    rows, x = torch.arange(len(x0), device=x0.device), x0
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            values, gradient = network.differences(x, own[rows], other[rows])
            values, moved = values - slack, x - x0[rows]
            bound, cost = evaluated(moved, values, gradient, eta, least[rows])
            better = bound > best[rows]
            chosen = rows[better]
            best[chosen], best_eta[chosen], best_x[chosen] = bound[better], eta[better], x[better]
            if (cost <= CLOSE * bound).all():
                break
            step = (1 + eta * most[rows]).view(-1, 1, 1, 1)
            x = x - (moved + eta.view(-1, 1, 1, 1) * gradient) / step
        positive = values > 0
        low[rows[positive]], high[rows[~positive]] = eta[positive], eta[~positive]
        going = (low < top)[rows]
        rows, x = rows[going], x[going]
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        eta = torch.where(middle.isfinite(), middle, torch.minimum(GROWTH * low[rows], top[rows]))
    return best_eta, best_x
