"""Attacks against classifiers whose worst case is known, and the score that is made of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import on_device
from normbench.evaluation.attacks import Attacks, attacks
from normbench.training.attacks import fgm, fgsm, pgd, pgd_l2
from tests.support.subjects import subject


def linear(x: Tensor) -> Tensor:
    """Two classes, by the sum of the left and of the right half."""
    return torch.stack([x[..., :2].sum((1, 2, 3)), x[..., 2:].sum((1, 2, 3))], 1)


def test_fgsm_on_a_linear_classifier_is_the_worst_case() -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    moved = fgsm(linear, x, torch.tensor([0]), 0.1)
    assert torch.allclose(moved[..., :2], torch.tensor(0.4))
    assert torch.allclose(moved[..., 2:], torch.tensor(0.6))


def test_pgd_stays_in_the_ball_and_in_the_image_and_reaches_the_corner() -> None:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1] * 4)
    moved = pgd(linear, x, labels, 0.1, 0.03, 20, 1, torch.Generator().manual_seed(1))
    assert (moved - x).abs().max() <= 0.1 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.allclose(moved, fgsm(linear, x, labels, 0.1), atol=1e-6)


def test_a_step_in_the_two_norm_is_along_the_gradient() -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    moved = fgm(linear, x, torch.tensor([0]), 0.4)  # 16 pixels change by 0.1 each
    assert torch.allclose(moved[..., :2], torch.tensor(0.4))
    assert torch.allclose(moved[..., 2:], torch.tensor(0.6))


def test_pgd_in_the_two_norm_stays_in_the_ball_and_reaches_the_worst_case() -> None:
    """Of a linear classifier the worst case in the ball, without the limits of the image, is along the gradient."""
    x = 0.3 + 0.4 * torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1] * 4)
    moved = pgd_l2(linear, x, labels, 0.4, 0.1, 40, 1, torch.Generator().manual_seed(1))
    length = (moved.double() - x.double()).flatten(1).norm(dim=1)
    assert (length <= 0.4).all()
    assert torch.allclose(moved, fgm(linear, x, labels, 0.4), atol=2e-3)
    # At the edge of what an image can be, it stays an image.
    black = pgd_l2(linear, torch.zeros_like(x), labels, 0.4, 0.1, 40, 1, torch.Generator().manual_seed(1))
    assert black.min() >= 0
    expected = torch.where((labels[:, None, None, None] == 0) == (torch.arange(4) >= 2), 0.4 / math.sqrt(8), 0.0)
    assert torch.allclose(black, expected.expand_as(black), atol=2e-3)


def test_starts_of_the_two_norm_fill_the_ball() -> None:
    """Uniform in a ball of 3 dimensions: an eighth of the starts lies within half of the radius."""
    x, labels = torch.full((4000, 1, 1, 3), 0.5), torch.zeros(4000, dtype=torch.long)
    flat = lambda values: values.flatten(1)[:, :2] * 0  # noqa: E731 - a classifier without gradient, so the starts stay
    starts = pgd_l2(flat, x, labels, 0.4, 0.1, 1, 1, torch.Generator().manual_seed(0)) - x
    length = starts.flatten(1).norm(dim=1)
    assert length.max() <= 0.4
    assert (length < 0.2).double().mean().item() == pytest.approx(1 / 8, abs=0.02)
    assert starts.mean(0).abs().max() < 0.02


def test_restarts_keep_an_example_that_fools() -> None:
    """A classifier that only a start in one half of the ball gets past."""
    x, labels = torch.full((64, 1, 1, 1), 0.5), torch.zeros(64, dtype=torch.long)

    def narrow(values: Tensor) -> Tensor:
        wrong = (values.flatten(1)[:, 0] > 0.55).float()
        return torch.stack([1 - wrong, wrong + 0 * values.flatten(1)[:, 0]], 1)

    once, often = (
        (narrow(pgd(narrow, x, labels, 0.1, 0.0, 1, n, torch.Generator().manual_seed(0))).argmax(1) == 1).sum().item()
        for n in (1, 8)
    )
    assert 5 < once < 32
    assert often > 55


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_on_a_network(norm: str) -> None:
    """Attacked accuracy falls from clean to FGSM to PGD; the subset, and so the result, is the seed's."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (60, 8, 8, 1), dtype=torch.uint8)
    labels = (pixels[:, :4].float().mean((1, 2, 3)) > pixels[:, 4:].float().mean((1, 2, 3))).long()
    images = on_device(pixels, labels, [0.5], [0.25], "cpu")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0] * 32 + [1.0] * 32, [1.0] * 32 + [-1.0] * 32]) / 10)
        model[1].bias.zero_()
    size = {"epsilon": 8.0, "step": 2.0} if norm == "linf" else {"epsilon": 64.0, "step": 16.0}
    settings = Attacks.model_validate(
        {"examples": 40, "batch_size": 16, "long_examples": 10, "long_steps": 30, "norm": norm} | size
    )
    score = attacks(subject(model, images), settings)
    found = score.metrics["attacks"]
    assert found["examples"] == 40
    assert found["clean"] == 1.0
    assert found["pgd"] <= found["fgsm"] < 1.0
    assert found.get("norm", "linf") == norm
    assert found["pgd_long"]["examples"] == 10
    assert "warning" not in found
    assert "auto_attack" not in found
    columns = {"attack_examples": 40, "attack_pgd_long": found["pgd_long"]["pgd_long"]}
    assert score.columns == columns | {f"attack_{name}": found[name] for name in ("clean", "fgsm", "pgd")}
    under, right = score.predictions, labels.numpy()[score.predictions["attack_index"]]
    assert len(right) == 40
    for name, count in (("fgsm", 40), ("pgd", 40), ("pgd_long", 10)):
        accuracy = found["pgd_long"]["pgd_long"] if name == "pgd_long" else found[name]
        assert (under[f"attack_{name}"] == right[:count]).mean() == accuracy
    again = attacks(subject(model, images), settings)
    assert (again.metrics, again.columns) == (score.metrics, score.columns)
    assert all((again.predictions[name] == values).all() for name, values in under.items())


def test_masked_gradients_are_marked() -> None:
    """A classifier whose gradient points the wrong way for one large step, and the right way nearby."""

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value = x.flatten(1)[:, 0]
            margin = torch.where(value.abs() < 0.02, 1 - 20 * value, (value - 0.03).abs() * 100 - 0.5)
            return torch.stack([margin, -margin], 1)

    images = on_device(
        torch.full((20, 1, 1, 1), 0, dtype=torch.uint8), torch.zeros(20, dtype=torch.long), [0], [1], "cpu"
    )
    settings = Attacks(examples=20, epsilon=16.0, batch_size=16, long_examples=0)
    found = attacks(subject(Masked(), images), settings).metrics["attacks"]
    assert found["fgsm"] > found["pgd"] + 0.2
    assert "FGSM leaves" in found["warning"]
