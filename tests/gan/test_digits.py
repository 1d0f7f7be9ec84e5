"""The GANs of the default suite make digits that can be read, of all ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from normbench.data.batches import on_device
from normbench.functional.placement import placed
from normbench.gan import loop
from normbench.gan.samples import sample
from normbench.methods import registry as methods
from normbench.models.build import build_gan
from normbench.suite.file import ParamsFile
from tests.support.prepared import prepared

PARAMS = ParamsFile(Path(__file__).resolve().parents[2] / "params.yaml").params
COUNT, CLASSES = 1000, 10


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMS.suite.gan_variants)
def test_a_classifier_of_digits_recognizes_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another kind of network than those here: one of scikit-learn, with a hidden layer."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    task, variant = PARAMS.gan_tasks["digits-sngan"], PARAMS.variants[name]
    arrays, meta = prepared("digits", image_size=12)
    pixels, labels = arrays["train_images"], arrays["train_labels"]
    images = on_device(torch.from_numpy(pixels), torch.from_numpy(labels), meta["mean"], meta["std"], "cpu")
    method, recipe = methods.build(variant.method, variant.options), task.recipe
    networks = build_gan("sngan", task.model_options, method, 1, 12, recipe.latent, 0, classes=CLASSES)
    generator, discriminator = (placed(network, "cpu") for network in networks)
    setting = loop.Setting(method, recipe, 0, classes=CLASSES)
    outcome = loop.fit(generator, discriminator, images.made_for(discriminator), setting, lambda *_: None)
    assert outcome.diverged is outcome.collapsed is None
    made = sample(outcome.average, recipe.latent, COUNT, 1, "cpu").flatten(1).numpy() / 255

    classifier = MLPClassifier((100,), max_iter=80, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        classifier.fit(pixels.reshape(len(pixels), -1) / 255, labels)
    test = arrays["test_images"].reshape(len(arrays["test_images"]), -1) / 255
    assert (classifier.predict(test) == arrays["test_labels"]).mean() > 0.95
    probabilities = classifier.predict_proba(made)
    assert probabilities.max(1).mean() > 0.9
    counts = np.bincount(probabilities.argmax(1), minlength=CLASSES)
    assert counts.min() > COUNT / CLASSES / 2
    assert counts.max() < COUNT / CLASSES * 2
