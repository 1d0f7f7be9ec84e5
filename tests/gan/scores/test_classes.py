"""The Inception Score: of probabilities whose score is known, and against torch-fidelity."""

from __future__ import annotations

import math

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from normbench.gan.scores.classes import InceptionScore, inception_score


def test_scores_that_are_known() -> None:
    sure = 1000 * torch.eye(5).repeat(20, 1)  # every class as often, without doubt
    assert inception_score(sure, 1, 0) == (pytest.approx(5), pytest.approx(0))
    one = 1000 * torch.eye(5)[:1].repeat(100, 1)
    assert inception_score(one, 4, 0) == (pytest.approx(1), pytest.approx(0))
    assert inception_score(torch.zeros(100, 7), 4, 0)[0] == pytest.approx(1)
    # Two classes with probabilities p and 1 - p: exp of the divergence from one half.
    p = 0.8
    logits = torch.tensor([[math.log(p), math.log(1 - p)], [math.log(1 - p), math.log(p)]]).repeat(10, 1)
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert inception_score(logits, 1, 0)[0] == pytest.approx(math.exp(divergence), rel=1e-6)


def test_the_same_as_torch_fidelity() -> None:
    logits = 3 * torch.randn(503, 12, generator=torch.Generator().manual_seed(0))
    found = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
    mean, std = inception_score(logits, 10, 2020)
    assert mean == pytest.approx(found["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(found["inception_score_std"], rel=1e-9)


def test_batches_give_the_score_of_all() -> None:
    logits = 3 * torch.randn(101, 6, generator=torch.Generator().manual_seed(0))
    score = InceptionScore(101, 10, 3)
    for batch in logits.split(17):
        score.add(batch)
    assert score.result() == pytest.approx(inception_score(logits, 10, 3), rel=1e-12)
