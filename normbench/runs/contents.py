"""The files of a finished run, and their largest permitted sizes."""

from __future__ import annotations

from normbench.runs.run import Kind, Status

RECORD = "record.json"
WEIGHTS, PREDICTIONS = "weights.pt", "predictions.npz"  # the files of a classifier
GENERATOR, SAMPLES = "generator.pt", "samples.png"  # the files of a GAN

CHECKPOINTS = "[0-9]*-*.pt"  # of an unfinished run: `<number>-<first 16 digits of its sha256>.pt`

GIB = 2**30
LARGEST = {  # bytes
    RECORD: GIB // 4,
    WEIGHTS: 16 * GIB,
    PREDICTIONS: GIB,
    GENERATOR: 16 * GIB,
    SAMPLES: GIB // 16,
}


def contents(kind: Kind, status: Status) -> list[str]:
    """Returns the files of a run besides its record. A run that diverged has its weights alone."""
    always, finished = {Kind.CLASSIFICATION: (WEIGHTS, PREDICTIONS), Kind.GAN: (GENERATOR, SAMPLES)}[kind]
    return [always, finished] if status is Status.FINISHED else [always]
