"""Records of earlier versions, as these versions wrote them: migrated when they are read, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from normbench.runs import store
from normbench.runs.finished import record_in
from normbench.runs.record import FORMAT, Record, TrainedRecord
from normbench.system import files
from normbench.system.errors import UserError

OLD = Path(__file__).parent / "old"
ID = "8aaff7d2ea75df06"  # of the run of version 2


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of version 2 in a run store."""
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path))
    shutil.copytree(OLD / "2/run", tmp_path / ID)
    return tmp_path / ID


def test_there_is_an_example_of_every_version() -> None:
    assert {path.name for path in OLD.iterdir()} == {str(version) for version in range(1, FORMAT)}


def test_version_2(run: Path) -> None:
    found, before = TrainedRecord.read(run / "record.json"), json.loads((run / "record.json").read_text())
    now = found.json_value()
    assert now.pop("format") == FORMAT
    assert now.pop("files") == {
        name: {"bytes": (run / name).stat().st_size, "sha256": files.sha256(run / name)}
        for name in ("weights.pt", "predictions.npz")
    }
    assert before.pop("format") == 2
    for key in ("run", "kind", "seed", "status", "diverged", "metrics", "cost"):
        assert now[key] == before[key], key
    assert found.described_run().id == ID == found.run
    assert store.sound(ID)
    found.write(run / "record.json")
    assert record_in(run) == found


def test_version_2_without_the_files(run: Path) -> None:
    (run / "predictions.npz").unlink()
    with pytest.raises(
        UserError, match="is a record of version 2, which has no checksums of the run's files, and these"
    ):
        TrainedRecord.read(run / "record.json")
    assert not store.finished(ID)
    with pytest.raises(UserError, match="scores are measured again by the evaluation"):
        Record.read(OLD / "2/scored.json")
    with pytest.raises(ValueError, match="these are not beside it"):  # as from an archive
        Record.model_validate_json((OLD / "2/scored.json").read_bytes())


def test_version_1() -> None:
    with pytest.raises(UserError) as error:
        Record.read(OLD / "1/scored.json")
    assert str(error.value) == (
        f"{OLD / '1/scored.json'}: is a record of version 1, which does not say all that shapes a run, so the run has to "
        "be trained again"
    )


@pytest.mark.parametrize("version", [0, -1, FORMAT + 1, True, None, "3", 2.0, [3]])
def test_other_versions(version: object, run: Path) -> None:
    path = run / "record.json"
    files.write_json(path, files.read_json(path) | {"format": version})
    with pytest.raises(
        UserError, match="is a record of another version of normbench, so the run has to be trained again"
    ):
        TrainedRecord.read(path)


@pytest.mark.parametrize("key", ["kind", "status"])
def test_a_damaged_record_of_version_2(key: str, run: Path) -> None:
    path = run / "record.json"
    for value in ({}, {key: "x"}, {key: []}):
        files.write_json(path, {k: v for k, v in files.read_json(path).items() if k != key} | value)
        with pytest.raises(UserError, match="is a damaged record of version 2"):
            TrainedRecord.read(path)
