"""The data source of docs/extending.md, run exactly as it is written there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from normbench.suite import resolve
from normbench.system import files
from normbench.system.errors import UserError
from stages import download

ROOT = Path(__file__).resolve().parents[2]
SECTION = (
    (ROOT / "docs/extending.md").read_text(encoding="utf-8").partition("\n## A data source\n")[2].partition("\n## ")[0]
)
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", SECTION, flags=re.DOTALL))
SUITE = """
suite: {seeds: [0], datasets: [my_digits], tasks: [task], variants: [norm], baseline: norm, gan_tasks: [], gan_variants: []}
tasks:
  task: {dataset: my_digits, model: resnet8, recipe: {epochs: 1}}
variants:
  norm: {method: batch_norm}
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A folder with the files of the section, and the images in its CSV files: uint8 (30, 16, 16)."""
    monkeypatch.chdir(tmp_path)
    name = re.search(r"`(my_sources/\w+\.py)`:\n\n```python", SECTION)
    assert name is not None
    Path("my_sources").mkdir()
    Path(name[1]).write_text(BLOCKS["python"], encoding="utf-8")
    Path("params.yaml").write_text(SUITE + BLOCKS["yaml"], encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    rows = np.hstack([np.arange(30)[:, None] % 3, images.reshape(30, -1)])
    Path("my_digits").mkdir()
    np.savetxt("my_digits/train.csv", rows[:20], "%d", delimiter=",", header="label, pixels")
    np.savetxt("my_digits/test.csv", rows[20:], "%d", delimiter=",", header="label, pixels")
    return images


def prepare() -> None:
    resolve.write()
    download.download("my_digits")


def test_the_example_runs(images: np.ndarray) -> None:
    prepare()
    folder = Path("build/data/my_digits")
    np.testing.assert_array_equal(np.load(folder / "train_images.npy")[..., 0], images[:20])
    np.testing.assert_array_equal(np.load(folder / "test_images.npy")[..., 0], images[20:])
    np.testing.assert_array_equal(np.load(folder / "test_labels.npy"), np.arange(20, 30) % 3)
    assert files.read_json(folder / "meta.json")["origin"] == "my_digits/train.csv, my_digits/test.csv"


def test_the_example_refuses_in_one_line(images: np.ndarray) -> None:
    Path("my_digits/test.csv").write_text("label, pixels\n0,1,2,3,256\n")
    with pytest.raises(UserError, match=r"^dataset 'my_digits': my_digits/test\.csv: a row must be a label and the"):
        prepare()
    Path("my_digits/test.csv").unlink()
    with pytest.raises(UserError, match=r"^dataset 'my_digits': my_digits/test\.csv: .*not found"):
        prepare()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("    test: my_digits/test.csv\n", ""))
    with pytest.raises(UserError, match=r"^params\.yaml:\d+: datasets\.my_digits\.test: missing; source csv_images"):
        prepare()


def test_the_files_that_the_section_names_are_there() -> None:
    for name in re.findall(r"`((?:normbench|tests)/[\w/]+\.py)`", SECTION):
        assert (ROOT / name).is_file(), name
