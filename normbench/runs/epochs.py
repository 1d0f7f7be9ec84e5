"""The training of a network whose recipe counts epochs, a classifier's or one of segmentation, with its progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from normbench.functional import placement
from normbench.runs.checkpoint import save_weights
from normbench.runs.contents import PREDICTIONS, WEIGHTS
from normbench.runs.record import Numerics
from normbench.runs.trained import Clock, Speed, Trained
from normbench.segmentation.trainer import Segmenter
from normbench.system import npy
from normbench.system.progress import Progress
from normbench.training.classifier import Classifier
from normbench.training.loop import Outcome, Report


def trained(
    prepared: Classifier | Segmenter,
    device: str,
    clock: Clock,
    progress: Progress,
    *,
    fit: Callable[[Report], Outcome],
    measure: Callable[[Outcome], tuple[dict[str, Any], np.ndarray | None]],
    step_memory: Callable[[], int],
    score: Callable[[dict[str, Any]], str],
) -> Trained:
    """Trains and measures a prepared network; `progress` shows epoch, loss and images per second.

    device: its kind. clock: has measured the preparation. fit, measure, step_memory: do what the functions of these
    names in the module of its kind do. score: the main number of the metrics in words, for the last line of progress.
    """
    recipe, parameters = prepared.recipe, prepared.parameters
    speed = Speed(recipe.batch_size, clock.now)

    def report(epoch: int, step: int, steps: int, loss: float) -> None:
        images = speed.at(epoch * steps + step)
        digits = 0 if images >= 10 else 1
        shown = f"epoch {epoch + 1}/{recipe.epochs}, loss {loss:.3f}, {images:,.{digits}f} images/s"
        progress.update(epoch + step / steps, shown)

    outcome = fit(report)
    clock.end("train")
    metrics, predicted = measure(outcome)
    clock.end("evaluate")

    def write(folder: Path) -> None:
        save_weights(prepared.model, folder / WEIGHTS)
        if predicted is not None:
            npy.save_compressed(folder / PREDICTIONS, {"predicted": predicted})

    diverged = outcome.diverged
    return Trained(
        summary=score(metrics) if diverged is None else f"diverged at step {diverged['step']}",
        diverged=diverged,
        metrics=metrics,
        images_per_second=_images_per_second(outcome, len(prepared.train)),
        parameters=parameters,
        epoch_seconds=outcome.epoch_seconds,
        resumed=outcome.resumed,
        seconds=clock.seconds | {"train": outcome.seconds, "compile": outcome.compile_seconds},
        numerics=Numerics(
            precision=recipe.precision,
            memory_format=placement.memory_format_name(prepared.model, device, recipe.memory_format),
            threads=recipe.threads if device == "cpu" else None,
        ),
        write=write,
        step_memory=step_memory,
    )


def _images_per_second(outcome: Outcome, images: int) -> float | None:
    """Returns the median over the epochs after the first; None if no epoch was completed.

    Kernels are still being chosen in the first epoch.
    """
    seconds = outcome.epoch_seconds[1:] or outcome.epoch_seconds
    return images / float(np.median(seconds)) if seconds else None
