"""The stages that train use the code that is in the ids of their runs, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.suite_folder import SuiteFolder, records


@pytest.mark.slow
def test_code_that_has_changed_since_it_was_resolved_trains_nothing(tmp_path: Path) -> None:
    """As after an edit in the middle of a `dvc repro`: the run would be stored under the id of other code."""
    folder = SuiteFolder(tmp_path)
    folder.bind()
    for place, key, what in (
        ("code/train", "digest", "training code"),
        ("tasks/small", "model_code", "model resnet8"),
        ("variants/batch_norm", "method_code", "method batch_norm"),
    ):
        path = tmp_path / f"build/resolved/{place}.json"
        whole = path.read_text(encoding="utf-8")
        path.write_text(json.dumps(json.loads(whole) | {key: "0" * 64}), encoding="utf-8")
        printed = folder.run("stages.train", "--task", "small", "--variant", "batch_norm", code=1)
        (line,) = printed.splitlines()
        assert line.startswith(f"the {what} here is not that of the run: bring the code up to date; ")
        path.write_text(whole, encoding="utf-8")
    assert records(tmp_path / "runs") == {}
    folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    assert len(records(tmp_path / "runs")) == 2
