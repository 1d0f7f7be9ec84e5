"""AutoAttack against linear classifiers, whose worst case is known, on networks, and on what has no gradient."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, on_device
from normbench.evaluation.attacks import Attacks, attacks
from normbench.evaluation.auto_attack import auto_attack, parts
from normbench.suite import resolve
from normbench.system.errors import UserError
from tests.support.subjects import subject

ROOT = Path(__file__).resolve().parents[2]
EPSILON = 0.04
SETTINGS = Attacks(examples=40, batch_size=25, long_examples=0, auto_attack_examples=30)


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square, which needs no gradient, asks as little as 300 times instead of 5,000; that takes most of the time."""
    from pyautoattack.square import SquareAttack

    whole = SquareAttack.perturb

    def perturb(self: Any, *given: Any, **more: Any) -> Any:
        self.n_queries = 300
        return whole(self, *given, **more)

    monkeypatch.setattr(SquareAttack, "perturb", perturb)


def attacked(model: nn.Module, images: Images, **changes: Any) -> dict[str, Any]:
    """What the score of the evaluation has in a record, with SETTINGS but for these."""
    settings = Attacks.model_validate(SETTINGS.model_dump() | changes)
    return attacks(subject(model, images), settings).metrics["attacks"]


def linear(classes: int) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """A linear classifier of 5 x 5 images, images, their labels, and by how much the worst image in reach is right.

    By the difference of two classes, each pixel goes to the end of its range that its weight is against, so that the
    worst margin is the sum over pixels; the worst over all other classes decides. Far from 0 for all images, and one
    label is wrong to begin with.
    """
    draws = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 25, generator=draws, dtype=torch.float64)
    images = torch.rand(40, 1, 5, 5, generator=draws)
    pixels = images.flatten(1).double()
    labels = (pixels @ weight.T).argmax(1)
    labels[0] = (labels[0] + 1) % classes
    difference = weight[labels][:, None] - weight  # (N, classes, pixels)
    low, high = (pixels - EPSILON).clamp(0)[:, None], (pixels + EPSILON).clamp(max=1)[:, None]
    margins = torch.where(difference > 0, difference * low, difference * high).sum(2)
    margins[torch.arange(40), labels] = torch.inf
    worst = margins.amin(1)
    clear = worst.abs() > 1e-3
    assert clear[0]

    def classifier(values: Tensor) -> Tensor:
        return values.flatten(1) @ weight.float().T

    return classifier, images[clear], labels[clear], worst[clear]


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_of_a_linear_classifier_it_finds_the_worst_case(classes: int) -> None:
    classifier, images, labels, worst = linear(classes)
    assert 0.2 < float((worst > 0).double().mean()) < 0.95
    moved, predicted, found = auto_attack(classifier, images, labels, EPSILON, 16, 0)
    assert torch.equal(classifier(moved).argmax(1) == labels, worst > 0)
    assert torch.equal(predicted == labels, worst > 0)
    assert found["accuracy"] == pytest.approx(float((worst > 0).double().mean()), abs=1e-12)
    assert (moved - images).abs().max() <= EPSILON + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.equal(moved[worst > 0], images[worst > 0])
    assert found["warnings"] == []
    assert re.fullmatch(r"pyautoattack \d+\.\d+\.\d+", found["package"])


@pytest.mark.usefixtures("few_queries")
def test_in_the_two_norm_it_finds_the_worst_case_of_a_linear_classifier() -> None:
    """Away from the limits of the image, which is the distance to the nearest boundary."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 25, generator=draws, dtype=torch.float64)
    images = 0.5 + 0.1 * (torch.rand(24, 1, 5, 5, generator=draws) - 0.5)
    logits = images.flatten(1).double() @ weight.T
    labels = logits.argmax(1)
    gaps = (logits.gather(1, labels[:, None]) - logits) / (weight[labels][:, None] - weight).norm(dim=2)
    distances = gaps.nan_to_num(torch.inf).amin(1)
    radius = distances.median().item() + 1e-3
    clear = (distances - radius).abs() > 5e-4

    def classifier(values: Tensor) -> Tensor:
        return values.flatten(1) @ weight.float().T

    moved, predicted, found = auto_attack(classifier, images[clear], labels[clear], radius, 16, 0, "l2")
    assert torch.equal(predicted == labels[clear], distances[clear] > radius)
    assert 0.3 < found["accuracy"] < 0.7
    length = (moved - images[clear]).flatten(1).norm(dim=1)
    assert (length <= radius + 1e-6).all()
    assert length.max() > 0.9 * distances.min()


def test_the_attacks_are_those_of_the_standard_version() -> None:
    """As the package sets them for 10 classes and more; without the targeted DLR loss below 4."""
    from pyautoattack import AutoAttack

    assert parts(10) == parts(4) == AutoAttack(lambda x: x).attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert parts(3) == parts(2) == ["apgd-ce", "fab-t", "square"]


@pytest.mark.usefixtures("few_queries")
def test_another_size_of_batch_finds_the_same_of_a_linear_classifier() -> None:
    classifier, images, labels, worst = linear(4)
    for size in (7, 1000):
        moved, _, _ = auto_attack(classifier, images, labels, EPSILON, size, 0)
        assert torch.equal(classifier(moved).argmax(1) == labels, worst > 0)


# --- as a part of the evaluation --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> Images:
    """Noise, and a bar in one of four places, which is the label."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    pixels = torch.randint(0, 200, (120, 8, 8, 1), generator=draws, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[2 * label : 2 * label + 2] += 20
    return on_device(pixels, labels, [0.4], [0.25], "cpu")


@pytest.fixture(scope="module")
def network(images: Images) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    x = images.normalized(images.pixels)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), images.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def test_a_network_under_all_attacks(network: nn.Module, images: Images) -> None:
    """Each leaves no more than the weaker one; the same again; generators, parameters and tracer are as before."""

    def tracer(*event: object) -> None:
        """Follows nothing."""

    network[0].bias.requires_grad_(False)
    generator, before = torch.get_rng_state(), sys.gettrace()
    sys.settrace(tracer)
    try:
        found = attacked(network, images)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    result = found["auto_attack"]
    assert result["examples"] == 30
    assert 0 < result["accuracy"] <= result["pgd"] < found["clean"]
    assert result["attacks"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    torch.manual_seed(7)
    assert attacked(network, images) == found


@pytest.mark.usefixtures("few_queries")
def test_more_images_than_there_are(network: nn.Module, images: Images) -> None:
    found = attacked(network, images, examples=12, auto_attack_examples=500, epsilon=0.5)
    assert found["auto_attack"]["examples"] == 12


class Odd(nn.Module):
    """The network, and something that an attack may stumble over."""

    def __init__(self, network: nn.Module, kind: str):
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "no gradient":
            return self.network(x.detach()).detach()
        if self.kind == "steps":
            return self.network((x * 4).round() / 4)
        if self.kind == "gradient is no number":
            return self.network(x) + (0 * x).flatten(1).sum(1, keepdim=True).sqrt()
        scores = self.network(x)
        return torch.where(scores[:, :1] > scores[:, 1:2], torch.nan, scores * torch.inf)


@pytest.mark.usefixtures("few_queries")
@pytest.mark.parametrize("kind", ["no gradient", "steps", "gradient is no number", "logits are no numbers"])
def test_what_has_no_gradient_or_no_numbers(
    kind: str, network: nn.Module, images: Images, capfd: pytest.CaptureFixture[str]
) -> None:
    """Square needs no gradient, and finds what the others did not; the package doubts the result."""
    found = attacked(Odd(network, kind), images)
    result = found["auto_attack"]
    assert 0 <= result["accuracy"] <= result["pgd"] <= 1
    if kind != "logits are no numbers":
        assert result["accuracy"] < found["fgsm"]
        assert any("zero gradient" in text for text in result["warnings"])
        assert any(text.startswith("Square Attack has decreased") for text in result["warnings"])
        assert len(result["warnings"]) == 2
    assert capfd.readouterr() == ("", "")


# --- without the package ----------------------------------------------------------------------------------------------

LINE = "needs the package pyautoattack: pip install 'normbench[autoattack]'"


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyautoattack" else find(name))


@pytest.mark.usefixtures("without_package")
def test_without_the_package_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images, labels, _ = linear(2)
    with pytest.raises(UserError, match=f"^{re.escape(LINE)}$"):
        auto_attack(classifier, images, labels, EPSILON, 16, 0)
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    for count, wrong in ((0, False), (50, True)):
        path.write_text(text.replace("attacks: {", f"attacks: {{auto_attack_examples: {count}, "), encoding="utf-8")
        if wrong:
            with pytest.raises(UserError) as caught:
                resolve.resolve(path)
            expected = rf"{re.escape(str(path))}:\d+: evaluation\.attacks\.auto_attack_examples = 50: {re.escape(LINE)}"
            assert re.fullmatch(expected, str(caught.value))
        else:
            assert resolve.resolve(path).evaluation["attacks"]["auto_attack_examples"] == 0


@pytest.mark.usefixtures("without_package")
def test_without_the_package_other_attacks_run(network: nn.Module, images: Images) -> None:
    assert "auto_attack" not in attacked(network, images, auto_attack_examples=0)
