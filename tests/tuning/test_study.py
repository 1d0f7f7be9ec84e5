"""Studies: their trials as runs, their journal, and which trial is the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from normbench.data import prepared
from normbench.data.bound import Validation
from normbench.methods.fantastic_four import FantasticFour
from normbench.runs.record import TrainedRecord
from normbench.runs.run import Status
from normbench.runs.variant import Tuned, Variant
from normbench.system.errors import UserError
from normbench.tuning import space
from normbench.tuning.command import without_test
from normbench.tuning.study import Study
from tests.support import sample_runs

FF = Variant(name="ff", method="fantastic_four", method_code="c" * 64, options={"coefficient": 8e-4, "form": "sum"})


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    return tmp_path / "runs"


def study(**changes: object) -> Study:
    bound = sample_runs.bound(validation=Validation(fraction=0.2, seed=1))
    given = {"task": sample_runs.task(), "variant": FF, "bound": bound, "seed": 0, "code": "3" * 64}
    return Study(**given | {"axes": space.axes(FantasticFour)} | changes)


def record(of: Study, number: int, accuracy: float | None) -> TrainedRecord:
    """The record of a trial; None for one that diverged."""
    found = sample_runs.record(of.run(number), Status.FINISHED if accuracy is not None else Status.DIVERGED)
    metrics = found.metrics if accuracy is None else found.metrics | {"clean_accuracy": accuracy}
    return found.model_copy(update={"metrics": metrics})


def test_the_run_of_a_trial() -> None:
    each = study()
    for number in range(3):
        tried, run = each.point(number), each.run(number)
        assert (run.task.recipe.lr, run.task.recipe.weight_decay) == (tried["lr"], tried["weight_decay"])
        assert run.variant.options == {"coefficient": tried["options.coefficient"], "form": "sum"}
        assert run.bound.validation == Validation(fraction=0.2, seed=1)
        assert run.name == ("t", f"ff-trial-{number}", 0)
    assert len({each.run(number).id for number in range(3)}) == 3


def test_the_id_of_a_study() -> None:
    """What the trials replace is not in it, nor are names; all else that shapes them is."""
    task = sample_runs.task()
    other_lr = task.model_copy(update={"name": "x", "recipe": task.recipe.model_copy(update={"lr": 0.7})})
    retuned = FF.model_copy(update={"name": "y", "options": FF.options | {"coefficient": 1.0}})
    assert study(task=other_lr, variant=retuned).id == study().id
    longer = task.model_copy(update={"recipe": task.recipe.model_copy(update={"epochs": 77})})
    others = [
        study(task=longer),
        study(variant=FF.model_copy(update={"options": FF.options | {"form": "log"}})),
        study(seed=1),
        study(code="4" * 64),
        study(bound=sample_runs.bound(validation=Validation(fraction=0.3, seed=1))),
        study(axes={"lr": space.LR}),
    ]
    assert len({study().id, *(each.id for each in others)}) == 7


def test_trials_are_kept_and_a_longer_study_goes_on() -> None:
    each = study()
    with each.opened() as trials:
        assert trials.missing(3) == [0, 1, 2]
        trials.add(2, record(each, 2, 0.5))
        trials.add(0, record(each, 0, None))
    with each.opened() as trials:
        assert trials.missing(4) == [1, 3]
        assert trials.values == {0: 0.0, 2: 0.5}
        trials.add(1, record(each, 1, 0.5))
        trials.add(3, record(each, 3, 0.75))
        assert [trials.best(count) for count in (1, 2, 3, 4)] == [0, 1, 1, 3]  # of equal ones the first
        tried = each.point(3)
        expected = Tuned(
            lr=tried["lr"],
            weight_decay=tried["weight_decay"],
            options={"coefficient": tried["options.coefficient"]},
            study=each.id,
            trials=4,
        )
        assert trials.tuned(4) == expected
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(each.path)))
    stored = optuna.load_study(study_name=each.id, storage=storage)
    assert stored.best_params == each.point(3)
    assert stored.user_attrs == {"task": "t", "variant": "ff"}
    assert [trial.user_attrs["diverged"] for trial in stored.trials] == [False, True, False, False]


def test_a_line_that_a_killed_process_has_half_written() -> None:
    """It is cut off; the trial is done again and nothing else is lost."""
    each = study()
    with each.opened() as trials:
        trials.add(0, record(each, 0, 0.5))
        before = each.path.read_bytes()
        trials.add(1, record(each, 1, 0.6))
    whole = each.path.read_bytes()
    for end in (len(before) + 1, len(whole) - 1):
        each.path.write_bytes(whole[:end])
        with each.opened() as trials:
            assert trials.missing(2) == [1]
            trials.add(1, record(each, 1, 0.7))
        with each.opened() as trials:
            assert trials.values == {0: 0.5, 1: 0.7}


def test_a_lock_that_a_killed_process_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna would leave it where it writes, and wait for it for ever: the path of the store is relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_STORE", "runs")
    each = study()
    each.path.parent.mkdir(parents=True)
    Path(f"{each.path}.lock").symlink_to(each.path)
    with each.opened() as trials:
        trials.add(0, record(each, 0, 0.5))
    assert Path(f"{each.path}.lock").is_symlink()


def test_a_damaged_journal_is_one_line() -> None:
    each = study()
    each.path.parent.mkdir(parents=True)
    each.path.write_bytes(b"no journal\nat all\n")
    with (
        pytest.raises(UserError, match=r"journal: cannot be read: .*; move it away to begin anew$") as caught,
        each.opened(),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_no_test_image_is_read(tmp_path: Path) -> None:
    """The test arrays are not even there."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 4
    np.save(tmp_path / "train_images.npy", random.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
    np.save(tmp_path / "train_labels.npy", labels)
    whole = sample_runs.bound(path=str(tmp_path), classes=4, train=40, test=9)
    bound = without_test(whole, Validation(fraction=0.3, seed=1))
    assert (bound.train, bound.test) == (28, 12)
    splits = prepared.load(bound, "cpu")
    assert (len(splits.train), len(splits.test)) == (28, 12)
    assert np.bincount(splits.test.labels).tolist() == [3] * 4
    pixels = np.concatenate([splits.train.pixels, splits.test.pixels]).reshape(40, -1)
    assert len(np.unique(pixels, axis=0)) == 40
    with pytest.raises(UserError, match="leaves no image to measure on"):
        without_test(whole, Validation(fraction=1e-17, seed=1))
