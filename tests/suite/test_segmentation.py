"""A suite with tasks of segmentation passes through every stage, and its scores are those of its predictions."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normbench.data.pixels import IGNORED
from normbench.notebook.dataset import _spec as dataset_spec
from normbench.results.frame import load
from normbench.results.report import report
from normbench.results.tables.masks import colours
from normbench.results.tables.write import aggregate
from normbench.runs import archive, formats, recomputed, store
from normbench.runs.finished import facts
from normbench.runs.record import Record, TrainedRecord
from normbench.suite import corrupt, evaluate, resolve, train
from normbench.suite.bind import bind
from normbench.sweep import command, plan
from normbench.system import files
from normbench.system.errors import UserError
from normbench.tuning.command import tune
from stages.download import download
from tests.support import masked

PARAMS = """
suite:
  seeds: [0, 1]
  datasets: [boxes, digits]
  tasks: [boxes-fcn, boxes-authors, small]
  variants: [batch_norm, group_norm]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {names: [contrast, brightness], severities: [1, 5]}
evaluation: {corrupted_examples: 3}
datasets:
  boxes: {source: maskfolder, path: boxes, classes: [ground, box, bar], ignored: 3}
  digits: {source: digits, image_size: 8}
tasks:
  boxes-fcn:
    kind: segmentation
    dataset: boxes
    model: fcn_resnet18
    model_options: {width: 4, aux: true}
    recipe: {epochs: 3, batch_size: 4, crop_size: [16, 24], scale: [0.75, 1.5], lr: 0.05}
  boxes-authors:
    kind: segmentation
    dataset: boxes
    model: fcn_resnet18
    model_options: {width: 4}
    recipe: {epochs: 1, batch_size: 4, base_size: 16, crop_size: 16, protocol: authors, outputs: 6}
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
variants:
  batch_norm: {method: batch_norm}
  group_norm: {method: group_norm}
"""
CELLS = [
    (task, variant) for task in ("boxes-fcn", "boxes-authors", "small") for variant in ("batch_norm", "group_norm")
]


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setenv("NORMBENCH_STORE", "runs")
    patch.setenv("NORMBENCH_DEVICE", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the evaluation has run."""
    folder = tmp_path_factory.mktemp("segmentation")
    masked.write(folder / "boxes")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        resolve.write()
        for dataset in ("boxes", "digits"):
            download(dataset)
            corrupt.corrupt_intact(dataset)
        bind()
        for cell in CELLS:
            train.train_tasks(*cell)
            evaluate.evaluate(*cell)
    return folder


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it."""
    copy = tmp_path / "project"
    shutil.copytree(whole, copy)
    settle(monkeypatch, copy)
    threads = torch.get_num_threads()
    yield copy
    torch.set_num_threads(threads)


def record(task: str = "boxes-fcn", variant: str = "batch_norm", seed: int = 0) -> Record:
    return Record.read(Path(f"build/scores/classification/{task}/{variant}/{seed}.json"))


def table(name: str) -> list[dict[str, str]]:
    with Path(f"results/{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def iou_by_hand(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The mean IoU over the classes of the masks, from sets of pixels."""
    counted = truth != IGNORED
    found = []
    for label in range(3):
        of_truth, given = (truth == label) & counted, (predicted == label) & counted
        if (of_truth | given).any():
            found.append((of_truth & given).sum() / (of_truth | given).sum())
    return float(np.mean(found))


def test_scores_are_those_of_the_stored_predictions(project: Path) -> None:
    truth = np.load("build/data/boxes/test_masks.npy")
    predicted = np.load("build/trained/boxes-fcn/batch_norm/1/predictions.npz")["predicted"]
    metrics = record(seed=1).metrics
    assert predicted.shape == truth.shape == (5, 24, 32)
    assert metrics["mean_iou"] == pytest.approx(iou_by_hand(truth, predicted), abs=1e-12)
    right = (predicted == truth) & (truth != IGNORED)
    assert metrics["pixel_accuracy"] == pytest.approx(right.sum() / (truth != IGNORED).sum(), abs=1e-12)
    assert metrics["columns"]["mean_iou"] == metrics["mean_iou"]
    assert sorted(metrics["corruption_mean_iou"]) == ["brightness", "contrast"]
    assert all(len(each) == 2 for each in metrics["corruption_pixel_accuracy"].values())
    assert metrics["missing"] == {
        "batch_statistics": "is not measured of segmentation",
        "filters": "is not measured of segmentation",
    }
    with np.load("build/scores/classification/boxes-fcn/batch_norm/1.npz") as arrays:
        accuracies = right.sum((1, 2)) / (truth != IGNORED).sum((1, 2))
        np.testing.assert_allclose(arrays["clean"], accuracies)
        assert arrays["corrupted"].shape == (2, 2, 3)
        assert np.array_equal(arrays["masks"], predicted[arrays["shown"]])


def test_the_authors_protocol_scores_void_and_half_the_size(project: Path) -> None:
    metrics = record("boxes-authors").metrics
    matrix = np.array(metrics["confusion"])
    assert matrix.shape == (6, 6)
    assert matrix.sum() == 5 * 16 * 21  # every pixel at a shorter side of 16, void ones too
    assert matrix[0].sum() > 0
    assert matrix[4:].sum() == 0
    assert metrics["iou"][4:] == [0 if matrix[:, label].sum() == 0 else pytest.approx(0) for label in (4, 5)]
    assert metrics["mean_iou"] == pytest.approx(sum(metrics["iou"]) / 6)


def test_tables_and_page(project: Path) -> None:
    aggregate()
    report()
    rows = table("segmentation")
    assert {(row["task"], row["variant"]) for row in rows} == {cell for cell in CELLS if cell[0] != "small"}
    runs = {
        row["variant"]: float(row["mean_iou"])
        for row in table("runs")
        if row["task"] == "boxes-authors" and row["seed"] == "0"
    }
    assert runs["batch_norm"] == pytest.approx(record("boxes-authors").metrics["mean_iou"], abs=1e-5)
    mean = np.mean([record("boxes-authors", seed=seed).metrics["mean_iou"] for seed in (0, 1)])
    (own,) = (row for row in rows if (row["task"], row["variant"]) == ("boxes-authors", "batch_norm"))
    assert float(own["mean_iou"]) == pytest.approx(mean, abs=1e-5)
    assert own["protocol"] == "authors"
    compared = [row for row in table("comparisons") if row["task"] == "boxes-authors"]
    assert [row["measure"] for row in compared] == [
        "mean_iou",
        "corruption_mean_iou",
        "pixel_accuracy",
        "corruption_pixel_accuracy",
    ]
    assert [row["examples"] for row in compared] == ["", "", "5", "3"]
    classes = [row["class"] for row in table("segmentation_classes") if row["task"] == "boxes-authors"]
    assert classes[:6] == ["void", "ground", "box", "bar", "unused 1", "unused 2"]
    assert {row["measure"] for row in table("segmentation_corruptions")} == {"mean_iou", "pixel_accuracy"}
    assert {row["task"] for row in table("curves")} == {"boxes-fcn", "boxes-authors", "small"}
    assert [row["task"] for row in table("leaderboard")] == ["small"] * 2
    markdown = Path("results/segmentation.md").read_text(encoding="utf-8")
    assert "which compares with no other work: boxes-authors" in markdown
    manifest = json.loads(Path("results/manifest.json").read_text(encoding="utf-8"))
    assert manifest["tables"]["segmentation"] == ["segmentation"]
    assert set(manifest["runs"]["segmentation"]) == {"boxes-fcn", "boxes-authors"}
    page = Path("results/report.html").read_text(encoding="utf-8")
    assert page.count("<h3>Predicted masks</h3>") == 2
    assert "IoU by class, %" in page
    frame = load("build/scores")
    assert len(frame) == 2 * len(CELLS)
    with Image.open("build/tables/masks/boxes-fcn/truth.png") as opened:
        picture = np.asarray(opened)
    shown = np.load("build/scores/classification/boxes-fcn/batch_norm/1.npz")["shown"]
    masks, palette = np.load("build/data/boxes/test_masks.npy")[shown], colours(3, void=False)
    tiles = picture.reshape(len(shown), 26, 34, 3)[:, 1:-1, 1:-1]
    assert np.array_equal(tiles, palette[masks])


def test_runs_that_are_there_are_not_trained_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.train_tasks("boxes-fcn", "batch_norm")
    assert capsys.readouterr().out.count("finished before") == 2


def test_the_same_bits_again(project: Path) -> None:
    before = Path("build/trained/boxes-fcn/batch_norm/0/weights.pt").read_bytes()
    shutil.rmtree(store.folder(record().run))
    train.train_tasks("boxes-fcn", "batch_norm")
    assert Path("build/trained/boxes-fcn/batch_norm/0/weights.pt").read_bytes() == before


def test_predictions_that_do_not_follow_from_the_weights(project: Path) -> None:
    path = Path("build/trained/boxes-fcn/batch_norm/0")
    with np.load(path / "predictions.npz") as arrays:
        predicted = arrays["predicted"]
    predicted[0, :2, :3] = (predicted[0, :2, :3] + 1) % 3
    np.savez_compressed(path / "predictions.npz", predicted=predicted)
    value = json.loads((path / "record.json").read_text(encoding="utf-8"))
    value["files"]["predictions.npz"] = facts(path, ["predictions.npz"])["predictions.npz"].json_value()
    files.write_json(path / "record.json", value)
    with pytest.raises(UserError, match=r"its weights give \d of 3840 pixels another class than predictions\.npz"):
        evaluate.evaluate("boxes-fcn", "batch_norm")


def test_a_damaged_mask_stops_the_training(project: Path) -> None:
    masks = np.load("build/data/boxes/train_masks.npy")
    masks[0, 0, 0] = 1 - min(1, masks[0, 0, 0])
    np.save("build/data/boxes/train_masks.npy", masks)
    shutil.rmtree(store.folder(record().run))
    with pytest.raises(UserError, match=r"train_masks\.npy: is not what was prepared"):
        train.train_tasks("boxes-fcn", "batch_norm")


def test_a_record_that_contradicts_itself(project: Path) -> None:
    path = Path("build/trained/boxes-fcn/batch_norm/0/record.json")
    value = json.loads(path.read_text(encoding="utf-8"))
    value["metrics"]["mean_iou"] = min(1.0, value["metrics"]["mean_iou"] + 0.1)
    with pytest.raises(UserError, match="are not those of the confusion matrix"):
        TrainedRecord.read(_written(path, value))
    value["metrics"].pop("confusion")
    with pytest.raises(UserError, match=r"metrics\.confusion: a finished run has it"):
        TrainedRecord.read(_written(path, value))


def _written(path: Path, value: object) -> Path:
    files.write_json(path, value)
    return path


def test_a_run_travels_in_an_archive(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record().run
    path = archive.export(run, Path("."))
    monkeypatch.setenv("NORMBENCH_STORE", "elsewhere")
    assert archive.import_(path) == (run, True)
    assert store.sound(run)


def test_predictions_of_a_foreign_archive_are_computed_again(project: Path) -> None:
    """What an archive brings must give the record's confusion matrix, in the shape and the classes that it can have."""
    own = record(seed=1)
    with np.load("build/trained/boxes-fcn/batch_norm/1/predictions.npz") as arrays:
        predicted = arrays["predicted"]
    assert list(recomputed._mask_problems(own, predicted)) == []
    for changed, line in (
        ((predicted + 1) % 3, "does not give the confusion matrix of the record"),
        (predicted + 3, "has the class 5, the network has 3 classes"),
        (predicted[:4], "has masks of the shape (4, 24, 32), must be (5, 24, 32)"),
    ):
        (found,) = recomputed._mask_problems(own, changed.astype(np.uint8))
        assert found.startswith(line.replace("5, the", f"{changed.max()}, the"))
    for values, line in ((predicted.astype(np.int32), "is of int32"), (predicted[0], "of shape")):
        np.savez_compressed("forged.npz", predicted=values)
        with pytest.raises(ValueError, match=line):
            formats.masks(Path("forged.npz"), recomputed.predicted_shape(own))


def test_the_plan_measures_it(project: Path) -> None:
    shutil.rmtree("runs")
    shutil.rmtree("build/trained")
    made = plan.make(measured=True)
    assert {(task, variant) for _, task, variant in made.costs} == {*CELLS}
    assert all(cost.step > 0 and cost.steps > 0 for cost in made.costs.values())
    assert {cost.steps for (_, task, _), cost in made.costs.items() if task == "boxes-fcn"} == {6}


def test_a_sweep_trains_it(project: Path) -> None:
    shutil.rmtree(store.folder(record().run))
    shutil.rmtree("build/trained/boxes-fcn")
    command.sweep(1, None, None)
    assert store.sound(record().run)


MISTAKES = {
    "kind: segmentation\n    dataset: boxes": (
        "kind: segmentaton\n    dataset: boxes",
        "tasks.boxes-fcn.kind = 'segmentaton': not valid; did you mean 'segmentation'?",
    ),
    "model: fcn_resnet18": (
        "model: resnet8",
        "tasks.boxes-fcn.model = 'resnet8': unknown model; did you mean 'fcn_resnet18'?",
    ),
    "scale: [0.75, 1.5]": (
        "scale: [1.5, 0.75]",
        "tasks.boxes-fcn.recipe.scale = [1.5, 0.75]: must be the least and the largest",
    ),
    "lr: 0.05": ("lr: 0.05, outputs: 5", "tasks.boxes-fcn.recipe.outputs = 5: has no effect with protocol 'standard'"),
    "crop_size: [16, 24]": (
        "crop_padding: 4",
        "tasks.boxes-fcn.recipe.crop_padding = 4: unknown key; did you mean 'crop_size'?",
    ),
    "dataset: boxes": (
        "dataset: digits",
        "tasks.boxes-fcn.dataset = 'digits': source digits has no masks, which segmentation needs",
    ),
    "{dataset: digits, model": (
        "{dataset: boxes, model",
        "tasks.small.dataset = 'boxes': source maskfolder has masks, which a task of `kind: segmentation` learns",
    ),
}


@pytest.mark.parametrize("right", MISTAKES)
def test_mistakes_in_the_settings(right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, line = MISTAKES[right]
    settle(monkeypatch, tmp_path)
    masked.write(tmp_path / "boxes")
    assert right in PARAMS
    (tmp_path / "params.yaml").write_text(PARAMS.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        resolve.resolve()
    assert line in str(error.value.args[0])


def test_what_only_classifiers_have(project: Path) -> None:
    with pytest.raises(UserError, match="--task boxes-fcn: is a task of segmentation, and only classifiers are tuned"):
        tune([], ["boxes-fcn"], 1, None, 0.5)
    with pytest.raises(UserError, match="dataset = 'boxes': has masks; here classifiers are compared"):
        dataset_spec("boxes", own=True)


def test_too_few_outputs_for_the_classes(project: Path) -> None:
    text = PARAMS.replace("outputs: 6", "outputs: 3")
    Path("params.yaml").write_text(text, encoding="utf-8")
    resolve.write()
    with pytest.raises(UserError, match=r"boxes-authors\.recipe\.outputs = 3: must be 4 or more"):
        bind()


def test_tasks_of_segmentation_change_nothing_for_others(project: Path) -> None:
    """A suite without such a task has the same files for its stages, and the same ids."""
    with_masks = resolve.resolve()
    text = PARAMS.replace("tasks: [boxes-fcn, boxes-authors, small]", "tasks: [small]").replace(
        "[boxes, digits]", "[digits]"
    )
    Path("params.yaml").write_text(text, encoding="utf-8")
    without = resolve.resolve()
    assert without.code["train"] == {
        key: value for key, value in with_masks.code["train"].items() if key != "segmentation"
    }
    assert without.files()["tasks/small"] == with_masks.files()["tasks/small"]
    assert "segmentation" not in without.code["evaluate"]


def test_corrupted_images_that_are_not_stored_have_the_same_scores(project: Path) -> None:
    stored = record()
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("severities: [1, 5]", "severities: [1, 5], stored: false"))
    resolve.write()
    corrupt.corrupt_intact("boxes")
    corrupt.corrupt_intact("digits")
    bind()
    assert [path.name for path in Path("build/corrupted/boxes").iterdir()] == ["meta.json"]
    evaluate.evaluate("boxes-fcn", "batch_norm")
    assert record().metrics == stored.metrics
    corrupted = record().provenance.corrupted
    assert corrupted is not None
    assert corrupted.computed is not None
