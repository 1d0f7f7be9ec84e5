"""The handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normbench.data.arrays import save
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system import seeds


@source("digits")
@dataclass(frozen=True)
class Digits(Source):
    """1,797 grey digits in 10 classes, stored with 8 x 8 pixels. A fixed fifth of each class is for the test."""

    native_size = 16  # The stored 8 pixels are too few for a network that halves the size three times.
    train_images = 1437

    def write(self, request: Request, out: Path) -> Origin:
        """Reads the digits from the installed scikit-learn, and splits them in the same way on every machine."""
        import sklearn
        from sklearn.datasets import load_digits

        data = load_digits()
        images = np.round(data.images * (255 / 16)).astype(np.uint8)  # The stored values are 0 to 16.
        labels = data.target.astype(np.int64)
        generator = np.random.default_rng(seeds.derive(0, "digits", "split"))
        test = np.zeros(len(labels), bool)
        for label in range(10):
            members = np.flatnonzero(labels == label)
            test[generator.permutation(members)[: round(len(members) / 5)]] = True
        arrays = {"train_images": images[~test], "train_labels": labels[~test]}
        arrays |= {"test_images": images[test], "test_labels": labels[test]}
        save(arrays, request, out)
        return Origin(f"scikit-learn {sklearn.__version__}", class_names=[str(label) for label in range(10)])
