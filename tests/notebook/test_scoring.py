"""`score`: what it takes as images, and what it measures of networks of anybody's own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normbench
from normbench.corruptions import corrupt
from normbench.notebook import scoring

CHANCE = np.random.default_rng(0)
IMAGES, LABELS = CHANCE.integers(0, 256, (30, 9, 8, 3), dtype=np.uint8), np.arange(30) % 4
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network whose layers nothing of normbench knows, after some batches in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 4),
    )
    for _ in range(3):
        model(torch.randn(16, 3, 9, 8))
    return model


def scored(model: nn.Module, images: Any, **given: Any) -> dict[str, Any]:
    settings = {
        "scores": ["corruptions"],
        "corruptions": ["fog", "contrast"],
        "severities": np.array([2, 5]),
        "quiet": True,
    }
    return normbench.score(model, images, LABELS, **({"mean": MEAN, "std": STD} | settings | given))


def by_hand(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    """The classes of images (N, H, W, C), in float64."""
    x = (torch.from_numpy(images).double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    with torch.no_grad():
        return model.double().eval()(x.permute(0, 3, 1, 2)).argmax(1)


def test_accuracies_by_hand(network: nn.Module) -> None:
    found = scored(network, IMAGES)
    network = copy.deepcopy(network)
    labels = torch.from_numpy(LABELS)
    assert found["clean_accuracy"] == pytest.approx((by_hand(network, IMAGES) == labels).double().mean().item())
    for name, accuracies in found["corruption_accuracy"].items():
        for severity, accuracy in zip((2, 5), accuracies, strict=True):
            right = by_hand(network, corrupt(IMAGES, name, severity)) == labels
            assert accuracy == pytest.approx(right.double().mean().item())
    assert found["predictions"]["clean"].tolist() == by_hand(network, IMAGES).tolist()
    assert found["predictions"]["names"].tolist() == ["fog", "contrast"]


def test_images_may_be_floats_before_or_after_the_normalization(network: nn.Module) -> None:
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    expected = scored(network, IMAGES)
    arrays = expected.pop("predictions")
    for given in (pixels, pixels / 255, (pixels / 255 - mean) / std, ((pixels / 255 - mean) / std).numpy()):
        found = scored(network, given)
        assert all(np.array_equal(array, arrays[name]) for name, array in found.pop("predictions").items())
        assert found == expected
    same = normbench.score(network, pixels.half() / 255, LABELS, scores=["corruptions"], corruptions="fog", quiet=True)
    assert same["clean_accuracy"] == scored(network, IMAGES, mean=0.0, std=1.0)["clean_accuracy"]


def test_every_score_of_a_network_of_somebodys_own(network: nn.Module) -> None:
    few = {"attacks": {"examples": 6, "steps": 2, "long_steps": 2, "long_examples": 2}, "smoothness": {"examples": 2}}
    found = scored(network, IMAGES, scores={"corruptions": {}, "batch_statistics": None, **few})
    assert found["attacks"]["examples"] == 6
    assert found["batch_statistics"]["batch_size"] == 200
    assert found["smoothness"]["bound"] is None
    assert found["smoothness"]["why"] == "no Lipschitz constant is known for GELU, the layer 2"
    assert found["smoothness"]["local"]["max"] > 0
    assert found["features"] == {"trained": []}  # It has neither parts of somebody's own nor ReLUs.
    with_initial = scored(network, IMAGES, scores={"smoothness": {"examples": 2}}, initial=lambda: nn.ReLU())
    assert len(with_initial["features"]["initial"]) == 1


def test_only_what_is_asked_for_is_computed(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "corrupt", lambda *_: pytest.fail("an image is corrupted"))
    found = scored(network, IMAGES, scores={"smoothness": {"examples": 2}})
    assert set(found) == {"clean_accuracy", "smoothness", "features", "columns", "predictions"}
    assert found["predictions"] == {}


def test_all_scores_are_measured_by_default() -> None:
    wanted = scoring._wanted(None)
    assert wanted[0] is None
    assert [score.name for score, _ in wanted[1:]] == scoring.names()
    assert all(settings == score.settings() for score, settings in wanted[1:])


def test_no_result_hangs_on_what_ran_before(network: nn.Module) -> None:
    one = scored(network, IMAGES, seed=3, corrupted_examples=11, scores=["corruptions", "batch_statistics"])
    torch.manual_seed(5)
    other = scored(network.train(), IMAGES, seed=3, corrupted_examples=11, scores=["corruptions", "batch_statistics"])
    one_arrays, other_arrays = one.pop("predictions"), other.pop("predictions")
    assert one == other
    assert all(np.array_equal(one_arrays[name], other_arrays[name]) for name in one_arrays)
    assert one_arrays["corrupted"].shape == (2, 2, 11)
    another = scored(network, IMAGES, seed=4, corrupted_examples=11)["predictions"]["index"]
    assert another.tolist() != one_arrays["index"].tolist()
