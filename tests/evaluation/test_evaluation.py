"""Calibration, prediction-time statistics and attacks against their definitions, and what evaluation leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import on_device
from normbench.evaluation.batch_statistics import batch_layers, with_batch_statistics
from normbench.evaluation.calibration import accuracy, calibration, finite
from normbench.evaluation.evaluate import attacked, on_corrupted
from normbench.methods import registry
from normbench.models import registry as models
from normbench.training.attacks import fgsm, pgd
from normbench.training.logits import logits


def test_calibration_by_hand() -> None:
    """Two bins of predictions, one too confident by 0.3, one not confident enough by 0.25."""
    confident, hesitant = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.25, 0.75]).log()
    logits = torch.stack([confident] * 5 + [hesitant] * 4)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    found = calibration(logits, labels)
    assert found["ece"] == pytest.approx((5 * 0.3 + 4 * 0.25) / 9)
    assert found["nll"] == pytest.approx(-(3 * np.log(0.9) + 2 * np.log(0.1) + 4 * np.log(0.75)) / 9)
    assert found["brier"] == pytest.approx((3 * 0.02 + 2 * 2 * 0.81 + 4 * 2 * 0.0625) / 9)
    assert accuracy(logits, labels) == pytest.approx(7 / 9)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    torch.manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        logits, labels = scale * torch.randn(500, 7, dtype=torch.float64), torch.randint(7, (500,))
        expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=7, n_bins=15, norm="l1")
        assert calibration(logits, labels)["ece"] == pytest.approx(float(expected), rel=1e-6)


def test_logits_that_are_not_numbers_are_scored_as_wrong() -> None:
    logits = finite(torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0]]))
    assert logits.argmax(1).tolist() == [1, 0]
    assert np.isfinite(calibration(logits, torch.tensor([1, 0]))["ece"])


# --- statistics of the test batch -------------------------------------------------------------------------------------


def trained(name: str, network: str = "resnet8", **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = models.classifier(network, {"width": 4}, registry.build(name, options), 3, 5)
    for _ in range(5):
        model(torch.randn(16, 3, 16, 16))
    return model.eval()


def test_a_batch_norm_mixes_training_and_test_statistics() -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=0.1)
    layer(torch.randn(50, 3, 4, 4) * 2 + 1)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(12, 3, 4, 4) * 3 - 2
    y = with_batch_statistics(layer, 4.0)(x)
    share = 12 / (4 + 12)
    mean = (1 - share) * before["running_mean"] + share * x.mean((0, 2, 3))
    variance = (1 - share) * before["running_var"] + share * x.var((0, 2, 3))
    expected = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    assert torch.allclose(y, expected, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "name", ["batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four"]
)
def test_no_call_has_an_effect_on_the_next(name: str) -> None:
    model = trained(name)
    assert batch_layers(model)
    before = copy.deepcopy(model.state_dict())
    adapted = with_batch_statistics(model, 16.0)
    x, other = torch.randn(10, 3, 16, 16), torch.randn(7, 3, 16, 16) * 5
    with torch.inference_mode():
        first = adapted(x)
        adapted(other)
        assert torch.equal(adapted(x), first)
        assert not torch.allclose(first, model(x))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if torch.is_tensor(v))
    assert not model.training
    # A prior that outweighs every batch is the network as it was trained.
    with torch.inference_mode():
        assert torch.allclose(with_batch_statistics(model, 1e12)(x), model(x), atol=1e-4)


def test_without_batch_statistics_there_is_nothing_to_mix() -> None:
    assert not batch_layers(trained("group_norm"))
    assert not batch_layers(trained("no_norm"))


def test_statistics_of_the_batch_repair_a_shift() -> None:
    """Inputs brighter and flatter than in training: with statistics of the batch the outputs are as before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
    x = torch.randn(200, 3, 16, 16)
    for _ in range(50):
        model(x)
    model.eval()
    shifted = 0.3 * x + 2
    with torch.inference_mode():
        plain = (model(shifted) - model(x)).norm()
        adapted = (with_batch_statistics(model, 0.0)(shifted) - with_batch_statistics(model, 0.0)(x)).norm()
    assert adapted < 0.01 * plain


# --- attacks ----------------------------------------------------------------------------------------------------------


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


class Limited(nn.Module):
    """Takes batches of at most so many images, as a device with little memory does."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.sizes = most, []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no room")
        self.sizes.append(len(x))
        return x.flatten(1)[:, :2]


def test_batches_are_halved_where_memory_runs_out(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = torch.arange(1100 * 4, dtype=torch.int64).remainder(256).to(torch.uint8).view(1100, 2, 2, 1)
    images = on_device(pixels, torch.zeros(1100, dtype=torch.long), [0.5], [0.5], "cpu")
    model = Limited(130)
    found = logits(model, images, images.pixels, "float32")
    assert torch.equal(found, images.normalized(images.pixels).flatten(1)[:, :2])
    assert model.sizes == [125] * 8 + [100]
    assert capsys.readouterr().err == "".join(
        f"out of memory: evaluating in batches of {size} from here on\n" for size in (250, 125)
    )
    with pytest.raises(torch.OutOfMemoryError):  # statistics of a batch depend on its size
        logits(Limited(130), images, images.pixels, "float32", 200)
    with pytest.raises(torch.OutOfMemoryError):
        logits(Limited(0), images, images.pixels, "float32")


def test_attacks_on_a_network() -> None:
    """Attacked accuracy falls from clean to FGSM to PGD; the subset, and so the result, is the seed's."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (60, 8, 8, 1), dtype=torch.uint8)
    labels = (pixels[:, :4].float().mean((1, 2, 3)) > pixels[:, 4:].float().mean((1, 2, 3))).long()
    images = on_device(pixels, labels, [0.5], [0.25], "cpu")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0] * 32 + [1.0] * 32, [1.0] * 32 + [-1.0] * 32]) / 10)
        model[1].bias.zero_()
    settings = {"examples": 40, "epsilon": 8.0, "step": 2.0, "steps": 20, "restarts": 1, "batch_size": 16}
    settings |= {"long_examples": 10, "long_steps": 30, "auto_attack_examples": 0}
    found = attacked(model, images, settings, 0)
    assert found["examples"] == 40
    assert found["clean"] == 1.0
    assert found["pgd"] <= found["fgsm"] < 1.0
    assert found["pgd_long"]["examples"] == 10
    assert "warning" not in found
    assert "auto_attack" not in found
    assert attacked(model, images, settings, 0) == found


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
    settings = {"examples": 20, "epsilon": 16.0, "step": 2.0, "steps": 20, "restarts": 1, "batch_size": 16}
    found = attacked(Masked(), images, settings | {"long_examples": 0, "auto_attack_examples": 0}, 0)
    assert found["fgsm"] > found["pgd"] + 0.2
    assert "FGSM leaves" in found["warning"]


def test_corruptions_are_scored_on_a_drawn_subset(tmp_path: Path) -> None:
    """The same images for every run of a suite; and all of them where no number is given."""
    count, severities = 40, [2, 4]
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
    labels = torch.from_numpy(chance.integers(0, 2, count))
    stored = chance.integers(0, 256, (2 * count, 2, 2, 1), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    clean = on_device(torch.from_numpy(pixels), labels, [0.5], [0.5], "cpu")
    corrupted = {"names": ["fog"], "severities": severities, "path": str(tmp_path)}
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def scored(examples: int | None, seed: int = 0) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        settings = {"batch_statistics": None, "corrupted_examples": examples}
        return on_corrupted(model, clean, corrupted, settings, "float32", seed, "evaluate")

    metrics, predicted = scored(None)
    assert predicted["index"].tolist() == list(range(count))
    assert predicted["corrupted"].shape == (1, 2, count)
    for level in range(2):
        images = clean.normalized(torch.from_numpy(stored[level * count :][:count]).permute(0, 3, 1, 2))
        expected = model(images).argmax(1)
        assert predicted["corrupted"][0, level].tolist() == expected.tolist()
        assert metrics["corruption_accuracy"]["fog"][level] == pytest.approx(
            float((expected == labels).double().mean())
        )
    some, fewer = scored(15)
    assert fewer["index"].shape == (15,)
    assert fewer["clean"].shape == (count,)
    np.testing.assert_array_equal(fewer["corrupted"], predicted["corrupted"][:, :, fewer["index"]])
    right = fewer["corrupted"][0, 1] == labels.numpy()[fewer["index"]]
    assert some["corruption_accuracy"]["fog"][1] == pytest.approx(right.mean())
    np.testing.assert_array_equal(scored(15)[1]["index"], fewer["index"])
    assert scored(15, seed=1)[1]["index"].tolist() != fewer["index"].tolist()
