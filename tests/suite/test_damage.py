"""Damaged images, weights and predictions stop the stage that reads them, in one line, and nothing is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normbench.data.prepared import held_out
from normbench.results.tables.pictures import draw_contact_sheets
from normbench.runs import provenance, store
from normbench.runs.finished import facts, record_in
from normbench.runs.record import Record
from normbench.suite import agreement, corrupt, evaluate, fid, real, resolve, runs, train
from normbench.suite.bind import bind
from normbench.suite.suite import Suite
from normbench.sweep import command, plan
from normbench.system import files
from normbench.system.errors import UserError
from stages.download import download

PARAMS = """
suite:
  seeds: [0]
  datasets: [digits]
  tasks: [small]
  variants: [batch_norm]
  baseline: batch_norm
  gan_tasks: [small-gan]
  gan_variants: [batch_norm]
corruptions: {names: [contrast, brightness], severities: [1, 5]}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
gan_tasks:
  small-gan: {dataset: digits, model: sngan, model_options: {width: 8}, recipe: {iterations: 2, batch_size: 32, fid_samples: 50}}
variants:
  batch_norm: {method: batch_norm}
"""
TRAINED = Path("build/trained/small/batch_norm/0")
GENERATED = Path("build/generated/small-gan/batch_norm/0")
SCORES = Path("build/scores")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the training has run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        resolve.write()
        download("digits")
        corrupt.corrupt_intact("digits")
        bind()
        train.train_tasks("small", "batch_norm")
        train.train_gans("small-gan", "batch_norm")
    return folder


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setenv("NORMBENCH_STORE", "runs")
    patch.setenv("NORMBENCH_DEVICE", "cpu")


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it."""
    copy = tmp_path / "project"
    shutil.copytree(whole, copy)
    settle(monkeypatch, copy)
    threads = torch.get_num_threads()
    yield copy
    torch.set_num_threads(threads)


def flipped(path: Path, first: int, count: int) -> None:
    """Flips one bit in each of some bytes."""
    content = bytearray(path.read_bytes())
    for place in range(first, first + count):
        content[place] ^= 64
    path.write_bytes(content)


def nines() -> None:
    path = Path("build/data/digits/train_labels.npy")
    np.save(path, np.full_like(np.load(path), 9))


def evaluated() -> None:
    evaluate.evaluate("small", "batch_norm")


def compared() -> None:
    real.measure("small-gan")
    fid.score("small-gan", "batch_norm")


READERS: dict[str, Callable[[], Any]] = {
    "train": lambda: train.train_tasks("small", "batch_norm"),
    "gan": lambda: train.train_gans("small-gan", "batch_norm"),
    "evaluate": evaluated,
    "real": lambda: real.measure("small-gan"),
    "fid": compared,
    "corrupt": lambda: corrupt.corrupt_intact("digits"),
    "bind": bind,
    "contact sheet": lambda: draw_contact_sheets(["digits"], Path("sheets")),
    "plan": lambda: plan.make(measured=True),
    "sweep": lambda: command.sweep(1, None, None),
}


@pytest.mark.parametrize("reader", READERS)
def test_training_labels_that_were_overwritten(project: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "prepare", lambda resolved: runs.of_suite(resolved, runs.bound_tasks(resolved)[0]))
    shutil.rmtree("runs")
    if reader in ("plan", "sweep", "bind"):
        shutil.rmtree("build/trained")
        shutil.rmtree("build/generated")
    nines()
    with pytest.raises(UserError, match=r"^build/data/digits/train_labels\.npy: is not what was prepared; `dvc repro`"):
        READERS[reader]()
    assert store.all_finished() == []
    assert not SCORES.exists() or not [path for path in SCORES.rglob("*") if path.is_file()]


@pytest.mark.parametrize("reader", ["evaluate", "bind", "contact sheet"])
def test_corrupted_images_with_flipped_bytes(project: Path, reader: str) -> None:
    flipped(Path("build/corrupted/digits/contrast.npy"), 300, 38_000)
    with pytest.raises(UserError, match=r"^build/corrupted/digits/contrast\.npy: is not what was made; `dvc repro`"):
        READERS[reader]()
    assert not [path for path in SCORES.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("reader", "path"),
    [
        ("evaluate", TRAINED / "weights.pt"),
        ("evaluate", TRAINED / "predictions.npz"),
        ("fid", GENERATED / "generator.pt"),
        ("fid", GENERATED / "samples.png"),
    ],
)
def test_flipped_bits_in_what_was_trained(project: Path, reader: str, path: Path) -> None:
    flipped(path, path.stat().st_size // 2, 20)
    with pytest.raises(UserError) as error:
        READERS[reader]()
    assert str(error.value) == f"{path}: is damaged: its bytes are not those that were written"
    assert not [path for path in SCORES.rglob("*") if path.is_file()]


def test_damaged_weights_are_not_adopted_and_damaged_ones_in_the_store_are_replaced(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_in(TRAINED)
    in_store = store.folder(record.run) / "weights.pt"
    flipped(in_store, 5000, 1)
    runs.adopt_outputs(Suite.resolved())  # The output has it whole.
    assert store.sound(record.run)
    flipped(in_store, 5000, 1)
    flipped(TRAINED / "weights.pt", 5000, 1)
    runs.adopt_outputs(Suite.resolved())
    assert not store.sound(record.run)
    assert "not taken into the run store" in capsys.readouterr().err
    train.train_tasks("small", "batch_norm")  # It is trained again, with the same bits.
    assert record_in(TRAINED).files == record.files
    assert (Path("runs") / f"{record.run}.bad-2").is_dir()


def retold(change: Callable[[dict[str, Any], np.ndarray], np.ndarray | None]) -> None:
    """Changes the record and the predictions of the run, with checksums that fit."""
    path = TRAINED / "record.json"
    value = json.loads(path.read_text())
    with np.load(TRAINED / "predictions.npz") as arrays:
        predicted = arrays["predicted"]
    changed = change(value, predicted)
    if changed is not None:
        np.savez_compressed(TRAINED / "predictions.npz", predicted=changed)
    made = facts(TRAINED, ["weights.pt", "predictions.npz"])
    value["files"] = {name: each.json_value() for name, each in made.items()}
    path.write_text(json.dumps(value))


def labels() -> np.ndarray:
    return np.load("build/data/digits/test_labels.npy")


def another_class(count: int) -> Callable[[dict[str, Any], np.ndarray], np.ndarray]:
    """Other classes of the first images, and the clean accuracy that follows."""

    def change(value: dict[str, Any], predicted: np.ndarray) -> np.ndarray:
        predicted[:count] = (predicted[:count] + 1) % 10
        value["metrics"]["clean_accuracy"] = float((predicted == labels()).mean())
        return predicted

    return change


def test_what_was_trained_here_is_scored(project: Path) -> None:
    evaluated()
    assert (SCORES / "classification/small/batch_norm/0.json").is_file()


def test_predictions_that_the_weights_do_not_give(project: Path) -> None:
    """On the kind of machine that trained the run, one image is enough."""
    run = Record.read(TRAINED / "record.json").run
    retold(another_class(1))
    with pytest.raises(UserError, match=rf"^{TRAINED}: run {run}: its weights give 1 of 359 test images another class"):
        evaluated()
    assert not [path for path in SCORES.rglob("*") if path.is_file()]


def test_an_accuracy_that_the_predictions_do_not_give(project: Path) -> None:
    def change(value: dict[str, Any], predicted: np.ndarray) -> None:
        value["metrics"]["clean_accuracy"] -= 1 / 359

    retold(change)
    with pytest.raises(UserError, match=r"predictions\.npz does not give its clean accuracy of"):
        evaluated()


def elsewhere(value: dict[str, Any], name: str = "Another CPU") -> None:
    value["provenance"]["device"]["name"] = name


def test_another_machine_may_differ_where_two_classes_nearly_tie(project: Path) -> None:
    """The closest image may have either class there; the one that is decided most clearly may not."""
    record = record_in(TRAINED)
    bound = record.provenance.dataset
    subject = evaluate.subject_of(
        record,
        TRAINED,
        held_out(bound, "cpu"),
        evaluate.Corrupted.read(Path("build/bound/small.corrupted.json")),
        None,
        "cpu",
    )
    assert len(subject.images) == 359
    found = agreement.logits(subject.model, subject.images, subject.images.pixels, "float32")
    top = found.topk(2, 1)
    gaps = (top.values[:, 0] - top.values[:, 1]) / (found.amax(1) - found.amin(1))
    closest, clearest = int(gaps.argmin()), int(gaps.argmax())
    assert gaps[closest] < agreement.TIE["float32"] < gaps[clearest]

    def second(image: int) -> Callable[[dict[str, Any], np.ndarray], np.ndarray]:
        def change(value: dict[str, Any], predicted: np.ndarray) -> np.ndarray:
            elsewhere(value)
            predicted[image] = top.indices[image, 1]
            value["metrics"]["clean_accuracy"] = float((predicted == labels()).mean())
            return predicted

        return change

    shutil.copytree(TRAINED, "kept")
    retold(second(closest))
    evaluated()
    shutil.rmtree(TRAINED)
    shutil.copytree("kept", TRAINED)
    retold(second(clearest))
    with pytest.raises(UserError, match=r"give 1 of 359 test images another class .*: more than rounding can change"):
        evaluated()


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"device": {"name": "Another CPU"}}, False),
        ({"device": {"type": "cuda"}, "numerics": {"threads": None}}, False),
        ({"versions": {"torch": "1.0"}}, False),
        ({"versions": {}}, False),
    ],
)
def test_which_machines_compute_the_same_digits(project: Path, changed: dict[str, Any], same: bool) -> None:
    value = json.loads((TRAINED / "record.json").read_text())
    for key, new in changed.items():
        value["provenance"][key] = value["provenance"][key] | new if key != "versions" else new
    assert agreement.same_machine(Record.model_validate_json(json.dumps(value)), "cpu") is same
    assert not agreement.same_machine(Record.model_validate_json(json.dumps(value)), "cuda")
    assert provenance.cpu_name()


def test_logits_that_are_not_finite_decide_nothing() -> None:
    found = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    now, stored = np.array([1, 0, 2]), np.array([0, 1, 1])
    assert agreement.near_tie(found, now, stored, 0.1).tolist() == [True, True, False]


def test_a_dataset_whose_corrupted_images_are_of_another(project: Path) -> None:
    path = Path("build/corrupted/digits/meta.json")
    files.write_json(path, files.read_json(path) | {"source_fingerprint": "0" * 64})
    with pytest.raises(UserError, match="build/corrupted/digits: is not of the dataset as it is now"):
        bind()
    path.write_text("{")
    with pytest.raises(UserError, match=r"meta\.json: is missing or damaged; `dvc repro` restores it"):
        bind()
