"""What `dvc pull` brings is taken into the run store where it is whole, and else is named and left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.runs import store
from normbench.runs.run import Run
from normbench.suite import runs
from normbench.suite.suite import Suite
from tests.support import sample_runs

RUN = sample_runs.run()
SUITE = Suite(
    seeds=[0, 1], datasets=["d"], tasks=[RUN.task.name], variants=[RUN.variant.name], gan_tasks=[], gan_variants=[]
)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run in the output of its stage; the run store is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_STORE", "runs")
    return written(RUN)


def written(run: Run) -> Path:
    sample_runs.finished(run, run.linked)
    return run.linked


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_whole_run_is_taken_byte_for_byte(output: Path) -> None:
    assert store.done(RUN)
    assert not store.finished(RUN.id)
    runs.adopt_outputs(SUITE)
    assert content(store.folder(RUN.id)) == content(output)
    runs.adopt_outputs(SUITE)  # It is there, which is no error.
    assert content(store.folder(RUN.id)) == content(output)


@pytest.mark.parametrize("name", ["weights.pt", "predictions.npz"])
def test_a_flipped_bit_is_seen(name: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also in the middle of the numbers, where the file can still be read."""
    whole = (output / name).read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 4
    (output / name).write_bytes(damaged)
    runs.adopt_outputs(SUITE)
    assert not store.finished(RUN.id)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{output}: {name} cannot be read (")
    assert line.endswith("; not taken into the run store")


@pytest.mark.parametrize("name", ["weights.pt", "predictions.npz", "record.json"])
def test_half_a_file_is_seen(name: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (output / name).read_bytes()
    (output / name).write_bytes(whole[: len(whole) // 2])
    other = written(sample_runs.run(seed=1))
    runs.adopt_outputs(SUITE)
    assert store.all_finished() == [sample_runs.run(seed=1).id]  # One that is damaged leaves the others alone.
    assert content(store.folder(sample_runs.run(seed=1).id)) == content(other)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(output) in line
    assert name in line


def test_what_the_suite_does_not_ask_for_is_left_where_it_is(output: Path) -> None:
    """So that what was pruned from the run store does not come back."""
    runs.adopt_outputs(SUITE.model_copy(update={"variants": ["another"]}))
    assert store.all_finished() == []


def test_a_damaged_record_in_an_output_is_not_done(output: Path) -> None:
    for text in ("{", "[1]", "{}"):
        (output / "record.json").write_text(text)
        assert not store.done(RUN)
