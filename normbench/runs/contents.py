"""The files of a finished run, and their largest permitted sizes."""

from __future__ import annotations

from normbench.runs.run import Kind, Status

RECORD = "record.json"
WEIGHTS, PREDICTIONS = "weights.pt", "predictions.npz"  # the files of a classifier, and of segmentation
# The files of a GAN. The samples of its history are as many at each of its times, of the same noise.
GENERATOR, SAMPLES, FILM = "generator.pt", "samples.png", "film.png"
DISCRIMINATOR, HISTORY = "discriminator.pt", "history.npz"

# The pictures of a GAN, and how their names end beside a record of build/scores, `<seed>.json`.
PICTURES = {SAMPLES: ".png", FILM: ".film.png"}

# The checkpoints of an unfinished run: `<number>-<first 16 digits of its sha256>.pt`, e.g. 000012-0123456789abcdef.pt.
CHECKPOINTS = f"{'[0-9]' * 6}-{'[0-9a-f]' * 16}.pt"

MIB = 2**20
LARGEST = {  # bytes
    RECORD: 16 * MIB,
    WEIGHTS: 8192 * MIB - 1,  # the largest size that a plain header of tar holds
    PREDICTIONS: 256 * MIB,
    GENERATOR: 8192 * MIB - 1,
    SAMPLES: 64 * MIB,
    FILM: 64 * MIB,
    DISCRIMINATOR: 8192 * MIB - 1,
    HISTORY: 4096 * MIB,
}
LARGEST_CHECKPOINT = 65536 * MIB  # with the state of the optimizer and a moving average


def contents(kind: Kind, status: Status) -> list[str]:
    """Returns the files of a run besides its record. A run that diverged has its weights alone."""
    always, finished = (GENERATOR, SAMPLES) if kind is Kind.GAN else (WEIGHTS, PREDICTIONS)
    return [always, finished] if status is Status.FINISHED else [always]


def optional(kind: Kind, status: Status) -> list[str]:
    """Returns the files that a run may have besides: a GAN of an early version lacks some."""
    return [FILM, DISCRIMINATOR, HISTORY] if kind is Kind.GAN and status is Status.FINISHED else []
