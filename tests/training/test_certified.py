"""Training with losses of certified robustness: each step by its formula, and the whole as any training is."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.data.augmentation import Augmentation
from normbench.data.batches import Images, on_device
from normbench.data.prepared import Splits
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from normbench.training import certified, classifier
from normbench.training.classifier import Classifier
from normbench.training.recipe import Curvature, Loss
from normbench.training.task import Task
from tests.support.subjects import bound, recipe, task

MLP = {"side": 8, "width": 12, "depth": 1, "activation": "softplus", "norms": False}
MEAN, STD = 0.3, 0.4


def images(seed: int, count: int = 64) -> Images:
    """Images whose class is the one quadrant that is bright."""
    chance, labels = torch.Generator().manual_seed(seed), torch.arange(count) % 4
    pixels = torch.randint(0, 40, (count, 8, 8, 1), generator=chance)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 150
    return on_device(pixels.to(torch.uint8), labels, [MEAN], [STD], "cpu")


def of(loss: Loss | None, options: dict[str, Any] = MLP, model: str = "mlp", **changes: Any) -> Task:
    given = recipe(**{"epochs": 1, "lr": 0.05, "weight_decay": 0.0, "momentum": 0.0, "loss": loss} | changes)
    return task(model=model, model_options=options, recipe=given)


def prepared(one: Task, method: str = "no_norm", **options: Any) -> Classifier:
    model = models.get(one.model, "classifier")
    made = methods.build(method, options)
    return classifier.prepare(one, model, made, bound(), 0, Splits(images(0), images(1)))


def stepped(one: Task, method: str = "no_norm", **options: Any) -> tuple[nn.Module, nn.Module, float]:
    """The network before and after a step on all images at once, and the loss of that step.

    Its linear layers have a singular value that is far above the others, to which power iteration converges.
    """
    ready = prepared(one, method, **options)
    with torch.no_grad():
        for layer in ready.model.modules():
            if isinstance(layer, nn.Linear):
                far = torch.outer(
                    torch.linspace(-1, 1, len(layer.weight)), torch.linspace(-1, 1, layer.weight.shape[1])
                )
                layer.weight.add_(5 * far / far.norm())
    before = copy.deepcopy(ready.model)
    outcome = certified.fit(ready, one, 0, lambda *_: None)
    return before, ready.model, outcome.history[0]["loss"]


def all_images() -> tuple[Tensor, Tensor]:
    data = images(0)
    return data.pixels.float() / 255, data.labels


@pytest.mark.parametrize("kind", ["hinge", "offset_cross_entropy"])
@pytest.mark.parametrize("constant", ["one", "network"])
def test_a_step_by_the_formula_of_its_loss(kind: Any, constant: Any) -> None:
    """The margin is sqrt(2) * epsilon * 1/deviation of the pixels * the Lipschitz constant of the network."""
    loss = Loss(kind=kind, epsilon=0.4, lipschitz=constant, temperature=1.0 if kind == "hinge" else 0.5)
    before, after, found = stepped(of(loss, batch_size=64))
    x, labels = all_images()
    first, last = (m for m in before.modules() if isinstance(m, nn.Linear))
    logits = before((x - MEAN) / STD)
    norms = [torch.linalg.svdvals(layer.weight)[0] for layer in (first, last)]
    margin = math.sqrt(2) * 0.4 / STD * (norms[0] * norms[1] if constant == "network" else torch.tensor(1.0))
    own = logits.gather(1, labels[:, None])
    if kind == "hinge":
        others = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], value=False)
        expected = (margin - own + logits).clamp_min(0)[others].sum() / logits.numel()
    else:
        moved = logits + margin * (1 - functional.one_hot(labels, 4))  # what is taken at the label is added elsewhere
        expected = 0.5 * ((moved / 0.5).logsumexp(1) - own[:, 0] / 0.5).mean()
    assert found == pytest.approx(expected.item(), rel=1e-3)
    gradients = torch.autograd.grad(expected, [first.weight, last.weight])
    weights = [m.weight for m in after.modules() if isinstance(m, nn.Linear)]
    for old, new, gradient in zip((first.weight, last.weight), weights, gradients, strict=True):
        moved_by, wanted = new - old, -0.05 * gradient
        assert (moved_by - wanted).norm() <= 2e-2 * wanted.norm()


def test_the_radius_grows_over_the_first_epochs() -> None:
    """Of logits that stay zero, the hinge loss is the margin times the share of other classes."""
    loss = Loss(kind="hinge", epsilon=0.4, ramp_epochs=2.5)
    one = of(loss, epochs=4, batch_size=32, lr=1e-30)
    ready = prepared(one)
    with torch.no_grad():
        for parameter in ready.model.parameters():
            parameter.zero_()
    history = certified.fit(ready, one, 0, lambda *_: None).history
    shares = [(0 + 1) / 2 / 5, (2 + 3) / 2 / 5, (4 + 5) / 2 / 5, 1.0]  # two steps an epoch, so five steps to grow
    margins = [math.sqrt(2) * 0.4 / STD * share for share in shares]
    assert [epoch["loss"] for epoch in history] == pytest.approx([0.75 * margin for margin in margins], rel=1e-5)


def test_a_step_with_a_penalty_on_the_curvature() -> None:
    """On the images themselves: cross-entropy and coefficient * mean K, K in the units of pixels."""
    loss = Loss(curvature=Curvature(coefficient=0.3, epsilon=0.0))
    before, _, found = stepped(of(loss, batch_size=64))
    x, labels = all_images()
    first, last = (m for m in before.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        logits = before((x - MEAN) / STD)
        square = (torch.linalg.svdvals(first.weight)[0] / STD) ** 2
        curvatures = []
        for row, label in zip(logits, labels.tolist(), strict=True):
            other = max((value.item(), place) for place, value in enumerate(row) if place != label)[1]
            curvatures.append(square / 4 * (last.weight[label] - last.weight[other]).abs().max())
        expected = functional.cross_entropy(logits, labels) + 0.3 * torch.stack(curvatures).mean()
    assert found == pytest.approx(expected.item(), rel=1e-3)


def test_a_penalty_on_the_curvature_lowers_it() -> None:
    found = []
    for coefficient in (0.0, 0.05):
        loss = Loss(curvature=Curvature(coefficient=coefficient, epsilon=0.0))
        _, after, _ = stepped(of(loss, epochs=20, momentum=0.9))
        weights = [m.weight for m in after.modules() if isinstance(m, nn.Linear)]
        found.append((torch.linalg.svdvals(weights[0])[0] ** 2 * weights[1].abs().max()).item())
    assert found[1] < 0.7 * found[0]


def test_the_search_of_adversarial_examples_against_the_exact_minimum() -> None:
    """Of a quadratic function: on the sphere, the multiplier is the root of a monotone function of eigenvalues."""
    chance = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=chance, dtype=torch.float64))
    values = torch.tensor([-2.0, -0.5, 0.1, 0.7, 1.5, 3.0], dtype=torch.float64)
    matrix, slope = basis @ values.diag() @ basis.T, torch.randn(6, generator=chance, dtype=torch.float64)
    x0 = torch.randn(1, 1, 2, 3, generator=chance, dtype=torch.float64)

    def gradient(x: Tensor) -> Tensor:
        return (x.flatten() @ matrix + slope).view_as(x)

    at_start = basis.T @ (matrix @ x0.flatten() + slope)
    low, high = 2.0, 1e6
    for _ in range(200):
        eta = (low + high) / 2
        low, high = (eta, high) if (at_start / (values + eta)).norm() > 0.8 else (low, eta)
    expected = x0.flatten() - basis @ (at_start / (values + high))
    wanted = Curvature(epsilon=0.8, rounds=50, steps=200)
    least, most = (torch.tensor([each], dtype=torch.float64) for each in (2.0, 3.0))
    found = certified.nearest_within(gradient, x0, least, most, wanted)
    assert torch.allclose(found.flatten(), expected, atol=1e-6)
    assert (found - x0).norm().item() == pytest.approx(0.8, rel=1e-6)


def test_adversarial_examples_are_on_the_sphere_and_harder() -> None:
    """In the units of pixels, by the batch's own labels; and the loss of the step is theirs."""
    loss = Loss(curvature=Curvature(coefficient=0.0, epsilon=0.7))
    seen: list[Tensor] = []
    ready = prepared(of(loss, batch_size=64))
    before = copy.deepcopy(ready.model).eval()
    ready.model.register_forward_pre_hook(
        lambda network, given: seen.append(given[0].detach().clone()) if network.training else None
    )
    outcome = certified.fit(ready, of(loss, batch_size=64), 0, lambda *_: None)
    (x,) = seen
    shuffled, labels = next(images(0).batches(64, False, derive(0, "order", 0), Augmentation()).pixels(0))
    pixels = shuffled.float() / 255
    assert torch.allclose((x * STD + MEAN - pixels).flatten(1).norm(dim=1), torch.tensor(0.7), rtol=1e-3)
    with torch.no_grad():
        clean, hard = before((pixels - MEAN) / STD), before(x)
    assert outcome.history[0]["loss"] == pytest.approx(functional.cross_entropy(hard, labels).item(), rel=1e-4)
    nearest = clean.scatter(1, labels[:, None], -math.inf).argmax(1, keepdim=True)
    lead = [logits.gather(1, labels[:, None]) - logits.gather(1, nearest) for logits in (clean, hard)]
    assert (lead[1] < lead[0]).all()


def test_the_penalty_of_the_method_and_an_adversary_stay() -> None:
    """The loss with each of them differs from that without."""
    options = {"width": 4, "depth": 2, "side": 4, "hidden": 8, "linears": 1, "norms": False}
    loss = Loss(kind="hinge", epsilon=0.2)
    plain, penalised = (
        stepped(of(loss, options, "convnet", batch_size=64), "fantastic_four", coefficient=each)[2]
        for each in (0.0, 0.5)
    )
    assert penalised > plain + 0.5
    hard = stepped(of(loss, batch_size=64, adversary={"kind": "pgd", "epsilon": 16.0}))[2]
    assert hard > stepped(of(loss, batch_size=64))[2]


def test_without_a_loss_the_training_is_that_of_every_classifier() -> None:
    weights = []
    for fit in (certified.fit, classifier.fit):
        ready = prepared(of(None))
        fit(ready, of(None), 0, lambda *_: None)
        weights.append(torch.cat([p.flatten() for p in ready.model.parameters()]))
    assert torch.equal(*weights)


def test_with_the_cross_entropy_alone_the_steps_are_those_of_every_classifier() -> None:
    """So that a step here differs from one there in nothing but the loss."""
    options = {"momentum": 0.9, "weight_decay": 0.01, "gradient_clip": 0.5, "label_smoothing": 0.1, "epochs": 3}
    weights, outcomes = [], []
    for fit, loss in ((certified.fit, Loss()), (classifier.fit, None)):
        one = of(loss, **options)
        ready = prepared(one, "srip", schedule="constant")  # a penalty with random draws
        outcomes.append(fit(ready, one, 0, lambda *_: None))
        weights.append(torch.cat([p.flatten() for p in ready.model.parameters()]))
    assert torch.equal(*weights)
    assert outcomes[0].history == outcomes[1].history


class Stop(Exception):
    pass


@dataclass
class Memory:
    """Keeps the state of a training in memory, and ends it after a number of saves."""

    left: int
    spent: float = 0.0
    kept: dict[str, Any] | None = field(default=None)

    def resume(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.kept)

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Any]) -> None:
        self.kept, self.left = copy.deepcopy(state), self.left - 1
        if self.left == 0:
            raise Stop


@pytest.mark.parametrize(
    "loss",
    [
        Loss(kind="hinge", lipschitz="network"),
        Loss(kind="offset_cross_entropy", temperature=0.5, curvature=Curvature(epsilon=0.5, rounds=4, steps=2)),
    ],
)
def test_an_interrupted_training_ends_as_one_that_was_not(loss: Loss) -> None:
    one = of(loss, epochs=2, momentum=0.9)
    whole = prepared(one)
    certified.fit(whole, one, 0, lambda *_: None)
    keeper = Memory(left=3)
    with pytest.raises(Stop):
        certified.fit(prepared(one), one, 0, lambda *_: None, keeper)
    resumed = prepared(one)
    outcome = certified.fit(resumed, one, 0, lambda *_: None, keeper)
    assert outcome.resumed == {"epoch": 0, "step": 3}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    loss = Loss(kind="hinge")
    ready = prepared(of(loss, batch_size=64, lr=1e30, weight_decay=1e30))
    assert certified.fit(ready, of(loss, batch_size=64, lr=1e30, weight_decay=1e30), 0, lambda *_: None).diverged == {
        "epoch": 0,
        "step": 0,
    }


def test_weights_that_are_not_finite_end_the_training() -> None:
    """The bound of a convolution refuses such weights."""
    loss = Loss(kind="hinge", lipschitz="network")
    one = of(loss, {"width": 4, "depth": 2, "side": 4, "hidden": 8, "linears": 1, "norms": False}, "convnet", lr=1e30)
    outcome = certified.fit(prepared(one), one, 0, lambda *_: None)
    assert outcome.diverged == {"epoch": 0, "step": 1}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Loss(curvature=Curvature()), r"recipe\.loss\.curvature: MLP cannot have it: .*BatchNorm2d"),
        (
            Loss(kind="hinge", lipschitz="network"),
            r"recipe\.loss\.lipschitz = 'network': MLP cannot have it: .*BatchNorm2d",
        ),
    ],
)
def test_a_network_of_which_too_little_is_known(loss: Loss, message: str) -> None:
    one = of(loss, MLP | {"norms": True})
    with pytest.raises(UserError, match=message):
        certified.fit(prepared(one, "batch_norm"), one, 0, lambda *_: None)


@pytest.mark.parametrize("kind", ["hinge", "offset_cross_entropy"])
def test_a_larger_margin_gives_larger_radii(kind: Any) -> None:
    """Of orthogonal layers, where the margin of the logits is a radius."""
    radii = []
    for epsilon in (0.2, 1.5):
        loss = Loss(kind=kind, epsilon=epsilon, temperature=1.0 if kind == "hinge" else 0.1)
        one = of(loss, MLP | {"activation": "relu"}, epochs=8, momentum=0.9)
        ready = prepared(one, "cayley")
        certified.fit(ready, one, 0, lambda *_: None)
        with torch.no_grad():
            logits = ready.model.eval()(ready.test.normalized(ready.test.pixels))
        labels = ready.test.labels
        others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
        radius = (logits.gather(1, labels[:, None])[:, 0] - others) / math.sqrt(2) * STD
        radii.append(radius.median().item())
    assert radii[1] > 1.3 * radii[0]
