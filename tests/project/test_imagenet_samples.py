"""The suite of streamed images, without DVC, from the files to the report: on photographs of ImageNet if they are here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.system import files
from tests.support import photographs
from tests.support.project import ROOT
from tests.support.suite_folder import SuiteFolder

pytestmark = pytest.mark.slow

NAME, TASK, VARIANTS = "imagenet-samples", "samples-resnet8", ("batch_norm", "group_norm")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """The suite after its training and evaluation."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    shutil.copy(ROOT / f"suites/{NAME}.yaml", folder.path / "params.yaml")
    shutil.copy(ROOT / "claims.yaml", folder.path)
    (folder.path / "downloads").mkdir()
    images = folder.path / "downloads" / NAME
    if photographs.SAMPLES.exists():
        photographs.of_samples(folder.path).rename(images)
    else:
        photographs.made(images, classes=6, train=12)
    folder.run("stages.look")
    folder.run("stages.resolve")
    folder.run("stages.download", "--dataset", NAME)
    folder.run("stages.corrupt", "--dataset", NAME)
    folder.run("stages.bind")
    for variant in VARIANTS:
        folder.run("stages.train", "--task", TASK, "--variant", variant)
        folder.run("stages.evaluate", "--task", TASK, "--variant", variant)
    return folder


def scores(suite: SuiteFolder, variant: str, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metrics and the predictions of an evaluated run."""
    place = suite.path / f"build/scores/classification/{TASK}/{variant}"
    with np.load(place / f"{seed}.npz") as arrays:
        return json.loads((place / f"{seed}.json").read_text())["metrics"], dict(arrays)


def test_the_whole_path(suite: SuiteFolder) -> None:
    suite.run("stages.aggregate")
    suite.run("stages.report")
    table = (suite.path / "results/leaderboard.csv").read_text()
    assert all(variant in table for variant in VARIANTS)
    assert (suite.path / "results/report.html").is_file()
    assert list((suite.path / "build/tables").glob(f"**/{NAME}.png"))  # the sheet of corrupted images
    meta = files.read_json(suite.path / f"build/data/{NAME}/meta.json")
    assert (meta["image_size"], meta["classes"], meta["mean"]) == (224, 6, [0.485, 0.456, 0.406])
    assert not list((suite.path / f"build/corrupted/{NAME}").glob("*.npy"))


def test_the_record_says_how_images_were_read(suite: SuiteFolder) -> None:
    place = suite.path / f"build/scores/classification/{TASK}/batch_norm/0.json"
    origin = json.loads(place.read_text())["provenance"]
    assert len(origin["dataset"]["reader_code"]) == 64
    assert sorted(origin["corrupted"]["computed"]) == ["contrast", "gaussian_noise"]
    assert origin["task"]["recipe"]["crop"] == "resized"


def test_a_finished_run_is_not_trained_again(suite: SuiteFolder) -> None:
    assert "finished before" in suite.run("stages.train", "--task", TASK, "--variant", "batch_norm")


def test_stored_copies_give_the_same_scores(suite: SuiteFolder) -> None:
    """The same bytes, whether they are computed when they are needed or before."""
    before = [scores(suite, "group_norm", seed) for seed in (0, 1)]
    suite.edit("severities: [1, 3]}", "severities: [1, 3], stored: true}")
    suite.run("stages.resolve")
    suite.run("stages.corrupt", "--dataset", NAME)
    assert len(list((suite.path / f"build/corrupted/{NAME}").glob("*.npy"))) == 3
    suite.run("stages.bind")
    suite.run("stages.evaluate", "--task", TASK, "--variant", "group_norm")
    for (metrics, predicted), (metrics_now, predicted_now) in zip(
        before, [scores(suite, "group_norm", seed) for seed in (0, 1)], strict=True
    ):
        assert metrics_now["corruption_accuracy"] == metrics["corruption_accuracy"]
        assert metrics_now["calibration"] == metrics["calibration"]
        for name, array in predicted.items():
            np.testing.assert_array_equal(predicted_now[name], array, err_msg=name)


def test_plan_and_sweep(suite: SuiteFolder) -> None:
    """One more seed is measured on the files, trained by a sweep, and taken from it."""
    suite.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    printed = suite.run("normbench", "plan")
    assert TASK in printed
    assert "Traceback" not in printed
    suite.run("normbench", "sweep")
    suite.run("stages.resolve")
    suite.run("stages.bind")
    printed = suite.run("stages.train", "--task", TASK, "--variant", "batch_norm")
    assert printed.count("finished before") == 3


def test_gans_are_refused(suite: SuiteFolder) -> None:
    suite.edit("gan_tasks: []", "gan_tasks: [gan]")
    suite.edit("gan_variants: []", "gan_variants: [batch_norm]")
    gan = "gan_tasks:\n  gan: {dataset: imagenet-samples, model: sngan, recipe: {iterations: 3}}\n\nvariants:\n"
    suite.edit("\nvariants:\n", f"\n{gan}")
    printed = suite.run("stages.resolve", code=1)
    assert (
        "gan_tasks.gan.dataset = 'imagenet-samples': is streamed (source streamed), but GANs are trained on" in printed
    )
    suite.edit(gan, "variants:\n")
    suite.edit("gan_tasks: [gan]", "gan_tasks: []")
    suite.edit("gan_variants: [batch_norm]", "gan_variants: []")


def published(suite: SuiteFolder, to: Path) -> None:
    """Image files of two corruptions in the layout of ImageNet-C, in which the severity is a level of grey."""
    from PIL import Image

    facts = files.read_json(suite.path / f"build/data/{NAME}/test_files.json")["files"]
    for corruption, base in (("gaussian_noise", 0), ("contrast", 100)):
        for severity in (1, 3):
            for name in facts:
                place = to / "group" / corruption / str(severity) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (224, 224), (base + 10 * severity,) * 3).save(place.with_suffix(".png"))


def test_published_folders_are_read_while_networks_are_evaluated(suite: SuiteFolder) -> None:
    published(suite, suite.path / "published")
    before = (suite.path / "params.yaml").read_text()
    text = before.replace(", stored: true", "").replace("severities: [1, 3]}", "severities: [1, 3], source: published}")
    (suite.path / "params.yaml").write_text(text)
    for stage in (["look"], ["resolve"], ["corrupt", "--dataset", NAME], ["bind"]):
        suite.run(f"stages.{stage[0]}", *stage[1:])
    meta = files.read_json(suite.path / f"build/corrupted/{NAME}/meta.json")
    assert (meta["published"], sorted(meta["computed"])) == ("published", ["contrast", "gaussian_noise"])
    suite.run("stages.evaluate", "--task", TASK, "--variant", "batch_norm")
    _, predicted = scores(suite, "batch_norm", 0)
    # All images of a corruption and severity are alike here, and so are their predictions.
    assert predicted["corrupted"].shape == (2, 2, 16)
    assert all(len(set(row.tolist())) == 1 for row in predicted["corrupted"].reshape(4, -1))
    next((suite.path / "published/group/contrast/3").rglob("*.png")).unlink()
    printed = suite.run("stages.corrupt", "--dataset", NAME, code=1)
    assert "published/group/contrast/3: 1 of 24 test images are not in it: " in printed
