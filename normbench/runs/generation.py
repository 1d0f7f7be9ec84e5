"""Trains the run of a GAN: shows progress, and returns the generator, samples, metrics and costs."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from normbench.data.prepared import Splits
from normbench.functional import placement
from normbench.gan import trainer
from normbench.gan.loop import Outcome
from normbench.gan.task import GanTask
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.checkpoint import save_weights
from normbench.runs.contents import DISCRIMINATOR, FILM, GENERATOR, HISTORY, SAMPLES
from normbench.runs.record import Numerics
from normbench.runs.run import Run
from normbench.runs.trained import Clock, Speed, Trained
from normbench.system import files, npy
from normbench.system.narrowing import narrowed
from normbench.system.progress import Progress
from normbench.training.keeper import Keeper

SHOWN = 64  # smallest side in pixels of an image in the grid of samples
FRAMES = 8  # noises in the film strip


def train(run: Run, data: Splits, keeper: Keeper, progress: Progress) -> Trained:
    """Trains a GAN on the device that holds its data.

    keeper: saves and restores the state of the training. progress: shows iteration, losses and images per second.
    """
    task = narrowed(run.task, GanTask, f"run {run.id}: task")
    recipe, clock = task.recipe, Clock(time.perf_counter)
    per_iteration = recipe.batch_size * recipe.discriminator_steps
    method = methods.build(run.variant.method, run.variant.options)
    model = models.get(task.model, "gan")
    gan = trainer.prepare(task, model, method, run.bound, run.seed, data, run.variant.apply_to)
    parameters = gan.parameters
    clock.end("setup")

    speed = Speed(per_iteration, time.perf_counter)

    def report(done: int, discriminator_loss: float, generator_loss: float) -> None:
        losses = f"losses {discriminator_loss:.3f} and {generator_loss:.3f}"
        progress.update(done, f"iteration {done}/{recipe.iterations}, {losses}, {speed.at(done):,.0f} images/s")

    outcome = trainer.fit(gan, report, keeper)
    clock.end("train")
    grid = trainer.samples(outcome.average, task, data.device) if outcome.diverged is None else None
    clock.end("samples")

    def write(folder: Path) -> None:
        save_weights(outcome.average, folder / GENERATOR)
        if grid is not None:
            save_grid(grid, folder / SAMPLES)
            save_grid(film(outcome.shown), folder / FILM, len(outcome.shown))
            save_weights(gan.discriminator, folder / DISCRIMINATOR)
            npy.save_compressed(folder / HISTORY, {"samples": torch.stack(outcome.shown).numpy()})

    rates = outcome.rates[1:] or outcome.rates  # Kernels are still being chosen in the first interval.
    return Trained(
        summary=_summary(outcome, recipe.iterations),
        diverged=outcome.diverged,
        metrics={"history": outcome.history, "collapsed": outcome.collapsed},
        images_per_second=float(np.median(rates)) * per_iteration if rates else None,
        parameters=parameters,
        epoch_seconds=[],
        resumed=outcome.resumed,
        seconds=clock.seconds | {"train": outcome.seconds},
        numerics=Numerics(
            precision=recipe.precision,
            memory_format=placement.memory_format_name(gan.discriminator, data.device, "channels_last"),
            threads=recipe.threads if data.device == "cpu" else None,
        ),
        write=write,
        step_memory=lambda: trainer.step_memory(gan),
    )


def _summary(outcome: Outcome, iterations: int) -> str:
    if outcome.diverged is not None:
        return f"diverged at step {outcome.diverged['step']}"
    last = outcome.history[-1]
    losses = f"losses {last['discriminator_loss']:.3f} and {last['generator_loss']:.3f}"
    diversity = "" if last["diversity"] is None else f", diversity {last['diversity']:.2f}"
    if outcome.collapsed is not None:
        return f"collapsed at iteration {outcome.collapsed['step']}: {losses}{diversity}"
    return f"{iterations} iterations, {losses}{diversity}"


def grid_side(image_size: int) -> int:
    """Returns the side in pixels of the PNG with samples of this size, as `save_grid` writes it."""
    return trainer.SIDE * tile(image_size)


def film_size(image_size: int, points: int) -> tuple[int, int]:
    """Returns the width and height in pixels of the film strip of samples of this size."""
    return points * tile(image_size), FRAMES * tile(image_size)


def tile(image_size: int) -> int:
    """Returns the side in pixels of one image with its border, as `save_grid` writes it."""
    return image_size * max(1, SHOWN // image_size) + 2


def film(frames: list[Tensor]) -> Tensor:
    """Returns the images of the film strip, row by row: a row has one noise and a column one time.

    frames: of each time, uint8 (N, C, H, W), of which the first `FRAMES` are taken.
    """
    return torch.stack([frame[:FRAMES] for frame in frames], 1).flatten(0, 1)


def save_grid(images: Tensor, path: Path, columns: int = trainer.SIDE) -> None:
    """Writes images, uint8 (rows * columns, C, H, W) with C = 1 or 3, as one PNG.

    Images smaller than `SHOWN` pixels are enlarged by a whole factor.
    """
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    scale = max(1, SHOWN // pixels.shape[1])
    pixels = np.pad(pixels.repeat(scale, 1).repeat(scale, 2), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    count, height, width, channels = pixels.shape
    grid = pixels.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(count // columns * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(grid if channels == 3 else grid[:, :, 0]).save(buffer, format="PNG")
    files.put(path, buffer.getbuffer())
