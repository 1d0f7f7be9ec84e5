"""Training against an adversary: the protocol step by step, and what it changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, on_device
from normbench.methods import registry
from normbench.models import registry as models
from normbench.training import loop
from normbench.training.adversary import inputs
from normbench.training.recipe import Adversary
from tests.support.subjects import recipe


def images(count: int = 64, size: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 1), dtype=torch.uint8, generator=generator)
    labels = (pixels[:, :4].float().mean((1, 2, 3)) > pixels[:, 4:].float().mean((1, 2, 3))).long()
    return on_device(pixels, labels, [0.4], [0.3], "cpu")


def test_without_an_adversary_a_batch_is_trained_on_once() -> None:
    data = images()
    (x,) = inputs(nn.Identity(), data, data.pixels[:4], data.labels[:4], None, 0)
    assert torch.equal(x, data.normalized(data.pixels[:4]))


def test_free_training_follows_the_protocol() -> None:
    """Noise from zero; each pass moves it by the sign of its own gradient, within the ball; images stay in 0..1."""
    data = images()
    pixels, labels = data.pixels[:8], data.labels[:8]
    adversary = Adversary(kind="free", epsilon=8.0, step=5.0, repeats=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    noise, passes = torch.zeros(8, 1, 8, 8), 0
    for x in inputs(model, data, pixels, labels, adversary, 0):
        expected = ((pixels / 255 + noise).clamp(0, 1) - 0.4) / 0.3
        assert torch.allclose(x, expected, atol=1e-6)
        # The gradient at the weights of this pass, before the step.
        probe = noise.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(((pixels / 255 + probe).clamp(0, 1) - 0.4) / 0.3), labels)
        (gradient,) = torch.autograd.grad(loss, probe)
        noise = (noise + 5 / 255 * gradient.sign()).clamp(-8 / 255, 8 / 255)
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        passes += 1
    assert passes == 4
    assert noise.abs().max() == pytest.approx(8 / 255)


def test_pgd_examples_are_found_in_evaluation_mode() -> None:
    data = images()
    model = models.classifier("resnet8", {"width": 4}, registry.build("batch_norm", {}), 1, 2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adversary = Adversary(kind="pgd", epsilon=8.0, steps=5)
    (x,) = inputs(model, data, data.pixels[:8], data.labels[:8], adversary, 3)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = x * 0.3 + 0.4 - data.pixels[:8] / 255
    assert 6 / 255 < moved.abs().max() <= 8 / 255 + 1e-6
    (again,) = inputs(model, data, data.pixels[:8], data.labels[:8], adversary, 3)
    assert torch.equal(x, again)


def test_fit_takes_a_step_for_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free training makes `repeats` optimizer steps a batch, and one step of the schedule."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *arguments: object) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    method = registry.build("batch_norm", {})
    torch.manual_seed(0)
    model = models.classifier("resnet8", {"width": 4}, method, 1, 2)
    settings = recipe(adversary=Adversary(kind="free", repeats=3))
    outcome = loop.fit(model, method, images(), settings, 0, lambda *_: None)
    assert len(rates) == 4 * 3
    assert len(set(rates)) == 4
    assert outcome.diverged is None


def test_robust_training_is_more_robust() -> None:
    """A linear problem with a weak but accurate feature and a strong one: the adversary teaches to use the strong one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (512,), generator=generator)
    sign = (2 * labels - 1).view(-1, 1, 1, 1)
    pixels = torch.full((512, 8, 8, 1), 128.0) + torch.randn(512, 8, 8, 1, generator=generator)
    pixels[:, 4:] += 4 * sign  # many pixels that tell the class, less than epsilon
    flips = (torch.rand(512, 1, 1, 1, generator=generator) < 0.95) * 2 - 1
    pixels[:, :2] += 60 * sign * flips  # few that mostly do, far more than epsilon
    data = on_device(pixels.clamp(0, 255).byte(), labels, [0.5], [0.25], "cpu")

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1))

    accuracy = {}
    for kind in (None, "free", "pgd"):
        torch.manual_seed(0)
        model, method = Linear(), registry.build("batch_norm", {})
        adversary = None if kind is None else Adversary(kind=kind)
        settings = recipe(epochs=15, lr=0.05, weight_decay=0.0, adversary=adversary)
        loop.fit(model, method, data, settings, 0, lambda *_: None)
        attack = Adversary(kind="pgd", epsilon=8.0, steps=20)
        (x,) = inputs(model, data, data.pixels, data.labels, attack, 9)
        accuracy[kind] = (model(x).argmax(1) == data.labels).double().mean().item()
    assert accuracy[None] < 0.6
    assert accuracy["free"] > 0.9
    assert accuracy["pgd"] > 0.9
