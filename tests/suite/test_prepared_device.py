"""Scores compute with the settings of the training: the device is prepared as the recipe of the run says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from normbench.data.bound import Corrupted
from normbench.runs import store
from normbench.runs.finished import record_in
from normbench.runs.train import claim_and_train
from normbench.suite.evaluate import subject_of
from normbench.system import device as devices
from tests.support import kill_and_resume, sample_runs


def test_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path))
    recipe = {"epochs": 1, "batch_size": 16, "precision": "bfloat16", "deterministic": True, "threads": 2}
    run = sample_runs.run(task=sample_runs.task(recipe=recipe), variant=sample_runs.variant(options={}))
    before = torch.get_num_threads()
    try:
        claim_and_train(run, kill_and_resume.splits)
        record, given = record_in(store.folder(run.id)), dict[str, Any]()
        prepare = devices.prepare

        def noted(*arguments: Any, **named: Any) -> None:
            given.update(inspect.signature(prepare).bind(*arguments, **named).arguments)
            prepare(*arguments, **named)

        monkeypatch.setattr(devices, "prepare", noted)
        torch.set_num_threads(1)
        images = kill_and_resume.images(1)
        subject_of(record, store.folder(run.id), images, Corrupted.model_construct(), None, "cpu")
        assert given == {"kind": "cpu", "precision": "bfloat16", "deterministic": True}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
