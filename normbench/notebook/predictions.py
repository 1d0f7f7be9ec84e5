"""The predictions of many runs as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

CLEAN = "clean"  # stands for no corruption, with severity 0
COLUMNS = ["variant", "seed", "corruption", "severity", "image", "label", "predicted"]

Arrays = Mapping[str, np.ndarray]  # of a run, as `normbench.evaluation.corrupted.measure` keeps them


def prediction_table(runs: Mapping[tuple[str, int], Arrays], labels: np.ndarray) -> pd.DataFrame:
    """The table that `normbench.notebook.comparison.Comparison` describes.

    runs: by variant and seed. labels: of the test images, (N,).
    """
    variants = list(dict.fromkeys(variant for variant, _ in runs))
    tables = [_table(variant, variants, seed, arrays, labels) for (variant, seed), arrays in runs.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _table(variant: str, variants: Sequence[str], seed: int, arrays: Arrays, labels: np.ndarray) -> pd.DataFrame:
    corrupted, every = arrays["corrupted"], np.arange(len(labels))
    names, levels, images = corrupted.shape
    image = np.concatenate([every, np.tile(arrays["index"], names * levels)])
    corruption = np.concatenate([np.zeros_like(every), np.repeat(1 + np.arange(names), levels * images)])
    severity = np.concatenate([np.zeros_like(every), np.tile(np.repeat(arrays["severities"], images), names)])
    columns = (
        pd.Categorical.from_codes(np.full(len(image), variants.index(variant)), variants),
        np.full(len(image), seed),
        pd.Categorical.from_codes(corruption, [CLEAN, *arrays["names"].tolist()]),
        severity.astype(np.int8),
        image.astype(np.int32),
        labels[image].astype(np.int16),
        np.concatenate([arrays["clean"], corrupted.ravel()]),
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
