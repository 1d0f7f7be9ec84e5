"""Accuracy and calibration on clean and on corrupted images, and which of them are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normbench.data.batches import on_device
from normbench.evaluation.calibration import calibration
from normbench.evaluation.corrupted import measure
from normbench.evaluation.subject import scored_images
from tests.support.subjects import corrupted, corrupted_subject, subject


def test_corruptions_are_scored_on_a_drawn_subset(tmp_path: Path) -> None:
    """The same images for every run of a suite; and all of them where no number is given."""
    count, severities = 40, [2, 4]
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
    labels = torch.from_numpy(chance.integers(0, 2, count))
    stored = chance.integers(0, 256, (2 * count, 2, 2, 1), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", stored)
    clean = on_device(torch.from_numpy(pixels), labels, [0.5], [0.5], "cpu")
    copies = corrupted(tmp_path, ["fog"], severities)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def scored(examples: int | None, seed: int = 0) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        index = scored_images(count, seed, examples)
        found = measure(subject(model, clean, corrupted=copies, index=index, seed=seed), lambda *_: None)
        return found.metrics, found.predictions

    metrics, predicted = scored(None)
    assert predicted["index"].tolist() == list(range(count))
    assert predicted["corrupted"].shape == (1, 2, count)
    for level in range(2):
        images = clean.normalized(torch.from_numpy(stored[level * count :][:count]).permute(0, 3, 1, 2))
        expected = model(images).argmax(1)
        assert predicted["corrupted"][0, level].tolist() == expected.tolist()
        assert metrics["corruption_accuracy"]["fog"][level] == pytest.approx(
            float((expected == labels).double().mean())
        )
    some, fewer = scored(15)
    assert fewer["index"].shape == (15,)
    assert fewer["clean"].shape == (count,)
    np.testing.assert_array_equal(fewer["corrupted"], predicted["corrupted"][:, :, fewer["index"]])
    right = fewer["corrupted"][0, 1] == labels.numpy()[fewer["index"]]
    assert some["corruption_accuracy"]["fog"][1] == pytest.approx(right.mean())
    np.testing.assert_array_equal(scored(15)[1]["index"], fewer["index"])
    assert scored(15, seed=1)[1]["index"].tolist() != fewer["index"].tolist()


def test_calibration_columns_and_reports(tmp_path: Path) -> None:
    """Of each severity by itself; the columns have the means over all, and a report follows each corruption."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    given, reports = corrupted_subject(model, tmp_path), []
    found = measure(given, lambda done, name: reports.append((done, name)))
    assert reports == [(1, "fog"), (2, "frost")]
    clean = calibration(model(given.images.normalized(given.images.pixels)).detach(), given.images.labels)
    assert found.metrics["calibration"] == pytest.approx(clean)
    each = []
    for name in ("fog", "frost"):
        for level, pixels in enumerate(given.corrupted_pixels(name)):
            each.append(calibration(model(given.images.normalized(pixels)).detach(), given.images.labels))
            for key, value in each[-1].items():
                assert found.metrics["corruption_calibration"][name][key][level] == pytest.approx(value)
    for key, value in clean.items():
        assert found.columns[key] == pytest.approx(value)
        assert found.columns[f"corrupted_{key}"] == pytest.approx(np.mean([fit[key] for fit in each]))
    assert found.predictions["names"].tolist() == ["fog", "frost"]
    assert found.predictions["severities"].tolist() == [2, 4]


@pytest.mark.parametrize(("named", "collapsed"), [(0, True), (1, True), (None, False)])
def test_a_network_that_always_names_one_class_has_collapsed(
    tmp_path: Path, named: int | None, collapsed: bool
) -> None:
    """Of six dark and four bright images: always dark, always bright, and the wrong one of both."""
    pixels = torch.tensor([0] * 6 + [255] * 4, dtype=torch.uint8).reshape(10, 1, 1, 1)
    images = on_device(pixels, (pixels.flatten() > 0).long(), [0.5], [0.5], "cpu")
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [0.0]]) if named is not None else torch.tensor([[1.0], [-1.0]]))
        model[1].bias.copy_(torch.tensor([1.0 - (named or 0), named or 0.0]) if named is not None else torch.zeros(2))
    np.save(tmp_path / "fog.npy", pixels.numpy())
    copies = corrupted(tmp_path, ["fog"], [1])
    found = measure(subject(model, images, corrupted=copies, index=np.arange(10)), lambda *_: None)
    assert found.metrics["collapsed"] is collapsed
