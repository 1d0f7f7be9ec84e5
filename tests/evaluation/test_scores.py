"""What every score must do, whatever it measures: run over all of them, those of the future included."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.evaluation import corrupted
from normbench.evaluation.registry import SCORES, Score, ScoreSettings
from normbench.evaluation.subject import Scores, Subject
from normbench.methods import registry as methods
from normbench.models.build import build_classifier
from normbench.suite.schema import Params
from tests.support.subjects import corrupted_subject

ON_EACH_SCORE = pytest.mark.parametrize("name", SCORES.names())
# Settings that make a score quick, by name: a new score that has none of them is measured with its defaults.
QUICK = {"examples": 12, "steps": 3, "long_examples": 6, "long_steps": 4}
# Scores that measure nothing of a network with batch norm, and a method for which they do.
METHODS = {"filters": "network_deconvolution"}


def entry(name: str) -> Score:
    return SCORES.get(name)


def quick(name: str) -> ScoreSettings:
    fields = entry(name).settings.model_fields
    return entry(name).settings.model_validate({key: value for key, value in QUICK.items() if key in fields})


def network(method: str) -> nn.Module:
    return build_classifier("resnet8", {"width": 4}, methods.build(method, {}), 1, 4, seed=0)


def subject(folder: Path, method: str = "batch_norm") -> Subject:
    """A network that has seen some images in training mode, and test images of which 30 have corrupted copies."""
    model = network(method)
    for _ in range(3):
        model(torch.randn(16, 1, 8, 8))
    given = corrupted_subject(model, folder, examples=30)
    return dataclasses.replace(given, initial=functools.partial(network, method))


def generators() -> list[Any]:
    """The states of all global random generators."""
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]


def about(model: nn.Module) -> dict[str, Any]:
    """All that a score may not change: modes, hooks, what is trained, and that there are no gradients."""
    found: dict[str, Any] = {}
    for place, module in model.named_modules():
        hooks = [list(value) for key, value in vars(module).items() if key.endswith("_hooks") and value]
        found[place] = (type(module), module.training, hooks)
    return found | {place: (p.requires_grad, p.grad) for place, p in model.named_parameters()}


def same(one: Scores, other: Scores) -> bool:
    """Whether two scores are equal to the last bit."""
    arrays = one.predictions.keys() == other.predictions.keys() and all(
        np.array_equal(value, other.predictions[key]) for key, value in one.predictions.items()
    )
    return json.dumps([one.metrics, one.columns]) == json.dumps([other.metrics, other.columns]) and arrays


@ON_EACH_SCORE
def test_name_settings_and_what_is_measured_are_documented(name: str) -> None:
    score = entry(name)
    assert re.fullmatch("[a-z][a-z0-9_]*", name)
    assert name in (score.measure.__doc__ or ""), "the docstring of a score names its entry among the metrics"
    explained = score.settings.__doc__ or ""
    for key in score.settings.model_fields:
        assert re.search(rf"\b{key}\b", explained), f"the docstring of the settings does not explain {key}"
    assert score.source[0].parent == Path(corrupted.__file__).parent


@ON_EACH_SCORE
def test_settings_have_valid_defaults(name: str) -> None:
    """`evaluation: {name: {}}` asks for the score; without it there is its default, which is a valid value too."""
    score = entry(name)
    settings = score.settings()
    assert score.settings.model_validate(settings.json_value()) == settings
    assert settings.problems() == []
    assert score.default is None or type(score.default) is score.settings
    suite = {"seeds": [0], "datasets": ["digits"], "gan_tasks": [], "gan_variants": [], "tasks": [], "variants": []}
    for given, expected in (({}, score.default), ({name: {}}, settings), ({name: None}, None)):
        params = Params.model_validate({"suite": suite, "evaluation": given})
        assert getattr(params.evaluation, name) == expected


@pytest.mark.parametrize("method", ["batch_norm", "group_norm", "network_deconvolution"])
@ON_EACH_SCORE
def test_a_score_changes_nothing_and_is_the_same_twice(name: str, method: str, tmp_path: Path) -> None:
    """Whatever was drawn before it, and whatever was drawn from the generators meanwhile."""
    given = subject(tmp_path, method)
    weights, before = copy.deepcopy(given.model.state_dict()), about(given.model)
    pixels = given.images.pixels.clone()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        state = generators()
        found.append(entry(name).measure(given, quick(name)))
        assert generators() == state
    assert same(*found)
    assert about(given.model) == before
    for key, value in given.model.state_dict().items():
        assert torch.equal(value, weights[key]) if isinstance(value, Tensor) else value == weights[key], key
    assert torch.equal(given.images.pixels, pixels)


@ON_EACH_SCORE
def test_what_a_score_leaves_can_be_stored(name: str, tmp_path: Path) -> None:
    """Metrics are JSON, columns finite numbers, predictions one class an image, or numbers of images, or finite radii.

    No two scores share a name.
    """
    given = subject(tmp_path, METHODS.get(name, "batch_norm"))
    found = entry(name).measure(given, quick(name))
    assert found.metrics
    json.dumps(found.metrics, allow_nan=False)
    for column, value in found.columns.items():
        assert type(value) in (int, float), column
        assert math.isfinite(value), column
    for key, array in found.predictions.items():
        if key.endswith("_index"):
            assert array.dtype == np.int32
            assert 0 <= array.min() <= array.max() < len(given.images)
            continue
        if array.dtype == np.float64:
            assert ((array >= 0) & (array < math.inf)).all(), key
            continue
        assert array.dtype == np.int16, key
        assert array.min() >= 0, key
        assert array.max() < 4, key
    others = [corrupted.measure(given, lambda *_: None)]
    others += [entry(other).measure(given, quick(other)) for other in SCORES.names() if other != name]
    for other in others:
        for part in ("metrics", "columns", "predictions"):
            assert not getattr(found, part).keys() & getattr(other, part).keys()
