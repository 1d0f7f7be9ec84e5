"""Images that are not square, from params.yaml to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from normbench.data.bound import Bound
from normbench.runs.contents import RECORD
from normbench.runs.record import Record
from tests.support.subjects import bound
from tests.support.suite_folder import SuiteFolder

SCORES = """evaluation:
  corrupted_examples: 20
  attacks: {examples: 8, steps: 2, long_examples: 4, long_steps: 2}
  smoothness: {examples: 8}
  batch_statistics: {}
"""
FLAT = '''
from torch import nn
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models.base import register_classifier

@register_classifier()
def flat(method: Method, channels: int, classes: int) -> nn.Module:
    """A network for images of 8 x 8 pixels."""
    stem = Role("stem")
    layers = [method.conv(ConvSpec(channels, 2, 3, stem, padding=1)), method.norm(2, role=stem), nn.Flatten()]
    return nn.Sequential(*layers, method.linear(128, classes, role=Role("head")))
'''


@pytest.fixture
def folder(tmp_path: Path) -> SuiteFolder:
    """A folder with the small suite on digits of 8 x 12 pixels, without its GAN."""
    made = SuiteFolder(tmp_path / "suite")
    made.edit("image_size: 8", "image_size: [8, 12]")
    made.edit("gan_tasks: [small-gan]", "gan_tasks: []")
    made.edit("gan_variants: [batch_norm]", "gan_variants: []")
    made.edit("seeds: [0, 1]", "seeds: [0]")
    text = (made.path / "params.yaml").read_text()
    gan, variants = text.index("gan_tasks:\n"), text.index("variants:\n  batch_norm")
    (made.path / "params.yaml").write_text(text[:gan] + text[variants:])
    return made


@pytest.mark.slow
def test_they_are_trained_corrupted_scored_and_shown(folder: SuiteFolder) -> None:
    folder.edit("datasets:\n", f"{SCORES}datasets:\n")
    assert "the suite has 2 runs" in folder.run("normbench", "check")
    folder.run("stages.resolve")
    assert "images of 8x12x1 in 10 classes" in folder.run("stages.download", "--dataset", "digits")
    folder.run("stages.corrupt", "--dataset", "digits")
    folder.run("stages.bind")
    made = Bound.read(folder.path / "build/bound/small.json")
    assert made.image_size == (8, 12)
    contrast = np.load(folder.path / "build/corrupted/digits/contrast.npy")
    assert contrast.shape[1:] == (8, 12, 1)
    for variant in ("batch_norm", "group_norm"):
        folder.run("stages.train", "--task", "small", "--variant", variant)
        folder.run("stages.evaluate", "--task", "small", "--variant", variant)
        record = Record.read(folder.path / f"build/trained/small/{variant}/0" / RECORD)
        assert record.provenance.dataset.image_size == (8, 12)
    scores = json.loads((folder.path / "build/scores/classification/small/batch_norm/0.json").read_text())["metrics"]
    assert {"attacks", "smoothness", "batch_statistics"} <= set(scores)
    assert scores["smoothness"]["product"] > 0
    folder.run("stages.aggregate")
    folder.run("stages.report")
    assert "8x12x1, 10 classes".replace("x", "\N{MULTIPLICATION SIGN}") in (
        folder.path / "results/report.html"
    ).read_text(encoding="utf-8")
    assert "changed" not in folder.run("normbench", "check")


def test_a_network_that_flattens_is_refused_by_check(folder: SuiteFolder) -> None:
    (folder.path / "my_models").mkdir()
    (folder.path / "my_models/flat.py").write_text(FLAT)
    folder.edit("model: resnet8, model_options: {width: 4}", "model: my_models/flat.py:flat")
    line = folder.run("normbench", "check", code=1)
    assert line.count("\n") == 1
    assert "tasks.small.model = 'my_models/flat.py:flat': does not fit images of 8 x 12, which are not square:" in line


def test_a_gan_is_refused_by_check(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path / "suite")
    folder.edit("image_size: 8", "image_size: [8, 12]")
    line = folder.run("normbench", "check", code=1)
    assert line.count("\n") == 1
    assert "gan_tasks.small-gan.model = 'sngan': does not fit images of 8 x 12; it needs square images, at" in line


def test_a_square_has_one_name(tmp_path: Path) -> None:
    """In files and ids alike, so that runs on square images keep their ids."""
    square = bound(image_size=8)
    assert json.loads(square.model_dump_json())["image_size"] == 8
    assert square == Bound.model_validate(square.json_value() | {"image_size": [8, 8]})
    other = bound(image_size=[8, 12])
    other.write(tmp_path / "bound.json")
    assert Bound.read(tmp_path / "bound.json") == other
    assert other.image_size == (8, 12)
    assert other.identity() == square.identity()  # the content, the fingerprint, tells them apart
