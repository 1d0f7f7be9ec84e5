"""The digits of scikit-learn: their split, their two sizes and their fingerprint."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.prepared import by_hand, prepared

pytestmark = pytest.mark.usefixtures("own_folders")
FINGERPRINT = "0771d1fa44cc6de7327bd138646853cd5f54ecc29ce3e33d0ff254969e5fdd88"


def test_digits() -> None:
    from sklearn.datasets import load_digits

    arrays, meta = prepared("digits")
    assert (meta["train"] + meta["test"], meta["classes"], meta["channels"], meta["image_size"]) == (1797, 10, 1, 16)
    assert meta["fingerprint"] == by_hand(arrays) == FINGERPRINT
    assert prepared("digits")[1] == meta
    every = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(arrays["test_labels"]), np.round(every / 5))

    native, meta = prepared("digits", image_size=8)
    assert meta["origin"].startswith("scikit-learn ")
    assert meta["sha256"] is None
    pixels = np.concatenate([native["train_images"], native["test_images"]])[..., 0]
    stored = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(p.tobytes() for p in pixels) == sorted(p.tobytes() for p in stored)
    larger = Image.fromarray(native["train_images"][5, ..., 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(arrays["train_images"][5, ..., 0], np.asarray(larger))
