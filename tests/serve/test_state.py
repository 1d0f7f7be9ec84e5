"""How far the suite is, as it is told from what trainings leave on the disk."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from normbench.runs import store, under_way
from normbench.runs.run import Kind, Run
from normbench.runs.under_way import Note, Notes
from normbench.serve.state import Running, seconds_left, state
from normbench.system import files
from normbench.system.progress import Progress
from tests.serve.conftest import SEEDS, TASK, trained

Suite = dict[tuple[Kind, str, str, int], Run]
FIRST, SECOND = (Kind.CLASSIFICATION, TASK, "v", 0), (Kind.CLASSIFICATION, TASK, "v", 1)


def test_nothing_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state().summary == "The suite is not prepared yet: `make results` does so, and trains it."
    assert state().runs == 0


def test_damaged_settings_are_named(suite: Suite) -> None:
    Path("build/resolved/tasks/t.json").write_text("{")
    assert state().summary.startswith("build/resolved/tasks/t.json: Invalid JSON")


def test_waiting_trained_and_scored(suite: Suite) -> None:
    assert state().summary == "0 of 8 runs trained, 8 waiting; 0 scored"
    trained(suite[FIRST])
    shutil.copytree(store.folder(suite[FIRST].id), suite[SECOND].linked)  # which is no place of this run
    assert state().summary == "1 of 8 runs trained, 7 waiting; 0 scored"
    trained(suite[SECOND])
    shutil.rmtree(suite[SECOND].linked)
    store.folder(suite[SECOND].id).rename(suite[SECOND].linked)  # as after `dvc pull`
    files.write_json(f"build/scores/classification/{TASK}/v/0.json", {})
    assert state().summary == "2 of 8 runs trained, 6 waiting; 1 scored"
    for run in suite.values():
        trained(run)
    assert state().summary == "8 of 8 runs trained; 1 scored"


def test_a_dataset_that_is_not_prepared(suite: Suite) -> None:
    """Its runs have no ids yet, and wait."""
    trained(suite[FIRST])
    Path(f"build/bound/{TASK}.json").unlink()
    assert state().summary == "0 of 8 runs trained, 8 waiting; 0 scored"


def test_a_run_under_way(suite: Suite) -> None:
    run = suite[FIRST]
    with Progress("title", 4, also=Notes(run.id)) as progress:
        assert state().running == []
        progress.update(1, "epoch 2/4, loss 0.5")
    found = state()
    assert found.running == [Running(*FIRST, share=0.25, text="epoch 2/4, loss 0.5")]
    assert found.seconds_left is None  # A single note has no speed.
    assert found.summary == "0 of 8 runs trained, 1 running, 7 waiting; 0 scored"
    trained(run)
    assert state().running == []  # whatever is left of notes


def test_notes_are_at_most_one_a_second(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    notes = Notes("a" * 16)
    seen = []
    for share in (0.5, 0.6, 0.7, 0.8):
        notes(share, f"at {share}")
        seen.append(under_way.Note.read(under_way.path("a" * 16)))
        now[0] += 0.6
    assert [note.text for note in seen] == ["at 0.5", "at 0.5", "at 0.7", "at 0.7"]
    assert (seen[-1].share, seen[-1].first) == (0.7, 0.5)
    assert seen[-1].seconds == pytest.approx(1.2)
    assert [path.name for path in under_way.path("a" * 16).parent.iterdir()] == [f"{'a' * 16}.json"]
    notes.forget()
    assert under_way.note("a" * 16) is None


def test_a_note_that_cannot_be_written_stops_nothing(suite: Suite) -> None:
    Path("runs").write_text("a file")
    Notes("a" * 16)(0.5, "text")
    Notes("a" * 16).forget()


def test_a_run_whose_process_has_gone(suite: Suite) -> None:
    """Its note is old, and no process holds the run."""
    run = suite[FIRST]
    Notes(run.id)(0.5, "epoch 1/2")
    os.utime(under_way.path(run.id), (0, 0))
    assert state().running == []
    assert state().waiting == 8
    with store.claimed(run.id):  # A training of long steps notes seldom.
        assert [each.share for each in state().running] == [0.5]
    under_way.path(run.id).write_text("{")
    assert state().running == []


def note(share: float, seconds: float, first: float = 0.0) -> Note:
    return Note(share=share, text="", first=first, seconds=seconds)


def test_seconds_left() -> None:
    cell, other = FIRST[:3], (Kind.CLASSIFICATION, TASK, "w")
    w0, w1 = ((*other, seed) for seed in SEEDS)
    assert seconds_left({}, {SECOND: 0.0}, {cell: [10.0]}) is None  # Nothing runs.
    assert seconds_left({FIRST: note(0.2, 3.0, first=0.2)}, {}, {}) is None  # It goes on from 0.2, at no known speed.
    # 2 seconds for a fifth: 8 more. With one waiting, which takes 10: 18.
    assert seconds_left({FIRST: note(0.2, 2.0)}, {}, {}) == pytest.approx(8)
    assert seconds_left({FIRST: note(0.2, 2.0)}, {SECOND: 0.0}, {}) == pytest.approx(18)
    assert seconds_left({FIRST: note(0.4, 2.0, first=0.2)}, {SECOND: 0.5}, {}) == pytest.approx(6 + 5)
    # Of another variant, one takes as long as was measured there; two side by side take half of the sum.
    assert seconds_left({FIRST: note(0.2, 2.0)}, {w0: 0.0, w1: 0.0}, {other: [40.0, 20.0]}) == pytest.approx(8 + 60)
    assert seconds_left({FIRST: note(0.2, 2.0), w0: note(0.5, 15.0)}, {w1: 0.0}, {}) == pytest.approx((8 + 15 + 30) / 2)
    # No sooner than the longest that runs.
    assert seconds_left({FIRST: note(0.9, 9.0), w0: note(0.1, 10.0)}, {}, {}) == pytest.approx(90)
