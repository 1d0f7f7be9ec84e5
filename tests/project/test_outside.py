"""Data outside of DVC's view, in a small project: DVC, `check` and `plan` see that they have changed, and only then."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.system import files
from tests.support.project import Project

pytestmark = pytest.mark.slow

PARAMS = """
suite:
  seeds: [0]
  datasets: [photos, table]
  tasks: [small]
  variants: [batch_norm]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {names: [contrast], severities: [1], source: "../published/{dataset}"}
datasets:
  photos: {source: imagefolder, path: ../photos, image_size: 8}
  table: {source: my_sources/rows.py:rows, file: ../table.csv}
tasks:
  small: {dataset: photos, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 4, crop_padding: 1}}
variants:
  batch_norm: {method: batch_norm}
"""
SOURCE = '''
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from normbench.data.arrays import save
from normbench.data.sources.base import Origin, Request, Source, source

@source("rows")
@dataclass(frozen=True)
class Rows(Source):
    """A file of one's own. file: its path."""
    file: str

    def write(self, request: Request, out: Path) -> Origin:
        rows = np.loadtxt(self.file, np.int64, delimiter=",").astype(np.uint8).reshape(-1, 4, 4)
        arrays = {"train_images": rows, "train_labels": np.arange(len(rows)) % 2}
        save(arrays | {"test_images": rows[:2], "test_labels": np.arange(2)}, request, out)
        return Origin(self.file)
'''
EVERYTHING = {"resolve", "download@photos", "download@table", "corrupt@photos", "corrupt@table", "bind"}


def published(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes a published benchmark of one corruption with five severities."""
    folder.mkdir(parents=True)
    np.save(folder / "contrast.npy", np.concatenate([images] * 5))
    np.save(folder / "labels.npy", np.concatenate([labels] * 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a project `normbench` beside them that has prepared them."""
    root = tmp_path_factory.mktemp("outside")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (root / "photos" / split / label).mkdir(parents=True)
            for index in range(2):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / "photos" / split / label / f"{index}.bmp")
    np.savetxt(root / "table.csv", random.integers(10, 100, (4, 16)), "%d", delimiter=",")
    images = np.zeros((4, 8, 8, 3), np.uint8)
    published(root / "published/photos", images, np.array([0, 0, 1, 1], np.uint8))
    published(root / "published/table", images[:2, :4, :4, :1], np.array([0, 1], np.uint8))
    project = Project.made(root / "normbench", PARAMS)
    (project.path / "my_sources/rows.py").write_text(SOURCE)
    assert set(project.repro("bind")) == EVERYTHING
    assert project.repro("bind") == []
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy", symlinks=True)  # with other times of all files
    return tmp_path / "copy"


def changed_by_check(project: Project) -> list[str]:
    done = project.normbench("check", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["changed"]


def invert(path: Path) -> None:
    """Changes the pixels of a BMP, with the same size of the file."""
    size = path.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert path.stat().st_size == size


def test_a_copy_and_a_touch_run_nothing(root: Path) -> None:
    project = Project(root / "normbench")
    assert project.repro("bind") == []
    for path in (root / "photos").rglob("*.bmp"):
        os.utime(path, (1, 1))
    (root / "photos/train/a/.DS_Store").write_bytes(b"what a file manager leaves")
    assert project.repro("bind") == []
    assert changed_by_check(project) == []
    assert project.changed() == {"train@small-batch_norm", "evaluate@small-batch_norm", "aggregate", "report"}


def test_a_replaced_image_prepares_its_dataset_again_and_no_other(root: Path) -> None:
    project = Project(root / "normbench")
    before = np.load(project.path / "build/data/photos/train_images.npy")
    path = root / "photos/train/b/1.bmp"
    status = path.stat()
    invert(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as some tools of synchronization do
    assert changed_by_check(project) == ["datasets/photos"]
    absent = json.loads(project.normbench("plan", "--no-measure", "--json").stdout)["absent"]
    assert absent == {"photos": "another one since params.yaml or its files have changed"}
    # `download` alone writes the arrays; the published corruptions do not fit them any more.
    (root / "published/photos/contrast.npy").unlink()
    np.save(root / "published/photos/contrast.npy", np.zeros((20, 8, 8, 3), np.uint8))
    assert set(project.repro("bind")) == {"resolve", "download@photos", "corrupt@photos", "bind"}
    after = np.load(project.path / "build/data/photos/train_images.npy")
    np.testing.assert_array_equal(after[:3], before[:3])
    np.testing.assert_array_equal(after[3], 255 - before[3])
    assert project.repro("bind") == []


def test_added_renamed_and_removed_files_are_seen(root: Path) -> None:
    project = Project(root / "normbench")
    (root / "photos/train/b/1.bmp").rename(root / "photos/train/b/7.bmp")
    assert changed_by_check(project) == ["datasets/photos"]
    (root / "photos/train/b/7.bmp").rename(root / "photos/train/b/1.bmp")
    assert changed_by_check(project) == []
    shutil.copy(root / "photos/train/b/1.bmp", root / "photos/train/b/2.bmp")
    done = project.normbench("check", "--refresh")  # the first step of `make results`
    assert "changed since the last repro: datasets/photos" in done.stdout
    assert set(project.repro("download@photos")) == {"download@photos"}
    assert len(np.load(project.path / "build/data/photos/train_images.npy")) == 5


def test_a_file_of_a_source_of_ones_own_and_published_corruptions_are_seen(root: Path) -> None:
    project = Project(root / "normbench")
    text = (root / "table.csv").read_text()
    (root / "table.csv").write_text(text.replace(text[:2], str(int(text[:2]) // -10 % 10) * 2, 1))
    assert set(project.repro("bind")) == {"resolve", "download@table", "corrupt@table", "bind"}
    np.save(root / "published/photos/contrast.npy", np.ones((20, 8, 8, 3), np.uint8))
    ran = project.repro("bind")
    assert {"resolve", "corrupt@photos", "bind"} <= set(ran) <= {"resolve", "corrupt@photos", "corrupt@table", "bind"}
    assert np.load(project.path / "build/corrupted/photos/contrast.npy").min() == 1


def test_data_that_are_not_there(root: Path) -> None:
    """What was made of them stays in use with a line; what was not made ends in a line."""
    project = Project(root / "normbench")
    (root / "photos").rename(root / "moved")
    done = project.try_repro("bind")
    assert done.returncode == 0
    assert "../photos: not there; what was made of it is kept as it is" in done.stderr
    assert "Running stage 'resolve'" not in done.stdout
    assert changed_by_check(project) == []
    project.edit("path: ../photos", "path: ../photoz")
    done = project.try_repro("bind")
    assert done.returncode != 0
    assert "dataset 'photos': ../photoz: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    project.edit("path: ../photoz", "path: ../moved")
    assert "download@photos" in project.repro("bind")


def test_who_has_pulled_the_results_needs_no_data(root: Path, tmp_path: Path) -> None:
    project = Project(root / "normbench")
    for arguments in (
        ["remote", "add", "--default", "storage", str(tmp_path / "remote")],
        ["push", "bind", "--with-deps"],
    ):
        done = project.dvc(*arguments)
        assert done.returncode == 0, done.stderr
    pulled = Project(tmp_path / "elsewhere/normbench")
    skipped = shutil.ignore_patterns("build", "cache", "tmp")
    shutil.copytree(project.path, pulled.path, symlinks=True, ignore=skipped)
    done = pulled.dvc("pull", "bind", "--with-deps")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "elsewhere/photos").exists()
    assert changed_by_check(pulled) == []
    assert pulled.repro("bind") == []
    shutil.copytree(root / "photos", tmp_path / "elsewhere/photos")
    assert pulled.repro("bind") == []
    invert(tmp_path / "elsewhere/photos/val/a/0.bmp")
    assert changed_by_check(pulled) == ["datasets/photos"]


def test_mistakes_in_params_are_left_to_resolve(root: Path) -> None:
    project = Project(root / "normbench")
    project.edit("path: ../photos,", "path: ../photos, backgrounds: red,")
    done = project.try_repro("bind")
    assert done.returncode != 0
    assert "datasets.photos.backgrounds = 'red': unknown key; did you mean 'background'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(files.read_json(project.path / "build/outside.json")) >= {"../photos", "../table.csv"}
