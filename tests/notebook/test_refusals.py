"""Arguments that are not valid: each gives one line, with the argument, its value and the nearest valid one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import normbench
from normbench.methods.batch_norm import BatchNorm
from normbench.notebook import comparison
from normbench.system.errors import UserError

CHANCE = np.random.default_rng(0)
IMAGES, LABELS = CHANCE.integers(0, 256, (30, 8, 8), dtype=np.uint8), np.arange(30) % 3
FOUR = (IMAGES, LABELS, IMAGES[:9], LABELS[:9])
ANY = "a name, a reference, a class, a Method, or a pair"


class Needing(nn.Module):
    def __init__(self, channels: int, power: float):
        super().__init__()


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison.Every, "train", lambda *_: pytest.fail("a run is trained"))


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        ("batch_norm", "methods: 'batch_norm': a list is needed"),
        (BatchNorm(), "methods: a BatchNorm: a list is needed"),
        (nn.BatchNorm2d, "methods: the class BatchNorm2d: a list is needed"),
        ([], "methods: the list is empty"),
        ([3], f"methods: 3: is no method; {ANY}"),
        ([len], f"methods: the function len: is no method; {ANY}"),
        ([nn.BatchNorm2d(3)], "methods: a BatchNorm2d: is no method; give the class, BatchNorm2d"),
        (["batch_nrm"], "methods: 'batch_nrm': unknown method; did you mean 'batch_norm'?"),
        (["torch.nn:BatchNorm4d"], "methods: 'torch.nn:BatchNorm4d': "),
        (["no/file.py:Norm"], "methods: 'no/file.py:Norm': no such file no/file.py"),
        ([("group_norm", {"grups": 3})], "methods: GroupNorm: grups = 3: unknown option of GroupNorm; did you mean"),
        ([("group_norm", {"groups": "x"})], "methods: GroupNorm: groups = 'x': must be a whole number"),
        ([("group_norm", 3)], f"methods: a tuple: {ANY}"),
        ([(BatchNorm(), {})], f"methods: a tuple: {ANY}"),
        ([("batch_norm", {}, {})], f"methods: a tuple: is no method; {ANY}"),
        ([Needing], "methods: Needing: power: missing; Needing needs it"),
        ([nn.Identity], "methods: Identity: Identity takes no arguments"),
        (["batch_norm", BatchNorm()], "methods: two are called 'batch_norm'; give names, {name: method, ...}"),
        ({"a\nb": "batch_norm"}, "variant.name: has a control character"),
    ],
)
def test_methods(methods: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        normbench.compare(methods, FOUR, quiet=True)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"modle": "resnet8"}, "modle = 'resnet8': unknown; did you mean 'model'?"),
        ({"epoch": 3}, "epoch = 3: unknown; did you mean 'epochs'?"),
        ({"epochs": 0}, "epochs = 0: must be greater than 0"),
        ({"adversary": {"kind": "fre"}}, "adversary.kind: not valid; did you mean 'free'?"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov = True: needs a momentum above 0"),
        ({"crop_padding": 9}, "crop_padding: more than the 8 pixels"),
        ({"batch_size": 40, "drop_last": True}, "batch_size: there are fewer training images (30)"),
        ({"batch_size": 29, "model": "resnet18", "model_options": {"width": 2}}, "a last batch of 1 image"),
        ({"model": "resnet9"}, "model = 'resnet9': unknown model; did you mean 'resnet8'?"),
        ({"model": "vgg11"}, "model = 'vgg11': does not fit images of 8 x 8"),
        ({"model": "sngan"}, "model = 'sngan': unknown model; "),
        ({"model_options": {"widht": 4}}, "model_options: widht = 4: unknown option of resnet8; did you mean 'width'?"),
        ({"image_size": 2}, "image_size = 2: must be at least 4 pixels"),
        ({"image_size": (8, "x")}, "image_size = (8, 'x'): must be the side"),
        ({"image_size": 6}, "images of shape (9, 6, 6, 1): corruptions need a side of 8 pixels or more"),
        ({"baseline": "batch"}, "baseline = 'batch': is not compared; did you mean 'batch_norm'?"),
        ({"seeds": 0}, "seeds = 0: a number of runs is needed"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: a number of runs is needed"),
        ({"seeds": [0, "1"]}, "seeds = [0, '1']: a number of runs is needed"),
        ({"seeds": [-1]}, "seeds = [-1]: a number of runs is needed"),
        ({"seed": -1}, "seed: "),
        ({"corrupted_examples": 0}, "corrupted_examples: "),
        ({"corruptions": "fogg"}, "unknown corruption 'fogg': did you mean 'fog'?"),
        ({"corruptions": []}, "corruptions: none is named"),
        ({"severities": 6}, "severities [6]: valid: some of 1, 2, 3, 4, 5"),
        ({"scores": "attacks"}, "scores = 'attacks': a list of names is needed"),
        ({"scores": ["attack"]}, "scores: 'attack': unknown score; did you mean 'attacks'?"),
        ({"scores": {"attacks": {"step": 0}}}, "scores: attacks.step: must be greater than 0"),
        ({"scores": {"attacks": 3}}, "scores: attacks: must be a mapping of keys to values"),
        ({"dataset": "digit"}, "dataset = 'digit': unknown; did you mean 'digits'?"),
        ({"dataset": 3}, "dataset: 3; a name is needed, or four arrays: train_images, "),
        ({"dataset": FOUR[:3]}, "dataset: a tuple; a name is needed, or four arrays"),
        ({"dataset": {"train_images": IMAGES}}, "dataset: has no 'train_labels'"),
        (
            {"dataset": (IMAGES / 255, *FOUR[1:])},
            "dataset 'arrays': train_images are float64, uint8 (0..255) is needed",
        ),
        ({"dataset": (IMAGES, LABELS + 1, *FOUR[2:])}, "dataset 'arrays': train_labels go up to 3 without any 0"),
    ],
)
def test_settings(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        normbench.compare(["batch_norm"], **({"dataset": FOUR, "quiet": True} | given))
    assert line in str(error.value) if line.startswith("a last") else str(error.value).startswith(line)
    assert "\n" not in str(error.value)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": nn.Linear}, "model: the class Linear is no network"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))}, "model: made a tensor of shape (1, 2)"),
        ({"model": Two()}, "model: made a tuple of an image 1 x 1 x 8 x 8; logits of shape (1, classes) are needed"),
        ({"model": nn.Conv2d(3, 3, 1)}, "model: fails on an image 1 x 1 x 8 x 8: RuntimeError"),
        ({"images": IMAGES[:, 0]}, "images are 30 x 8; N x H x W x C is needed"),
        ({"images": IMAGES.astype(np.float32)[:, None]}, "images are floats from 0 to 255, which are not levels over"),
        ({"images": np.full((30, 1, 8, 8), 0.3)}, "images are floats from 0.3 to 0.3, which are not levels over 255"),
        ({"images": IMAGES / 255}, "images are floats 30 x 8 x 8; N x C x H x W is needed"),
        ({"labels": LABELS[:7]}, "labels are 7 for 30 images"),
        ({"mean": [0.1, 0.2]}, "mean = [0.1, 0.2]: a number is needed, or one for each of 1 channels"),
        ({"std": 0.0}, "std = 0.0: a number above 0 is needed, or one for each of 1 channels"),
        ({"mean": "x"}, "mean = 'x': a number is needed"),
        ({"scores": ["attack"]}, "scores: 'attack': unknown score; did you mean 'attacks'?"),
        ({"scores": {"corruptions": {"names": 3}}}, "scores: corruptions: has no settings"),
        ({"scores": "all"}, "scores = 'all': a list of names is needed"),
        ({"precision": "float16"}, "precision: "),
        ({"threads": 0}, "threads: "),
        ({"corruptions": ["fog", "fogg"]}, "unknown corruption 'fogg'"),
        ({"corrupted_examples": 0.5}, "corrupted_examples: "),
    ],
)
def test_what_is_scored(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        normbench.score(**({"model": NETWORK, "images": IMAGES, "labels": LABELS, "quiet": True} | given))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
