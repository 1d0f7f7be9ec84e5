"""The training of GANs: each run leaves its generator, samples of it and its record in the run store."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.gan import loop
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.models.build import build_gan
from normbench.runs import provenance, store
from normbench.runs import run as runs
from normbench.runs.checkpoint import Checkpoints, save_weights
from normbench.runs.run import Run
from normbench.system import device as devices
from normbench.system import files, layout, preemption
from normbench.system.progress import Progress
from normbench.system.seeds import derive

GENERATOR, SAMPLES = "generator.pt", "samples.png"
SIDE = 8  # images in a row and in a column of samples.png
SHOWN = 64  # pixels of samples.png for an image, at least
SAMPLE_BATCH = 500


def train(task: str, variant: str) -> None:
    """Train every seed of a GAN task and variant that the run store lacks."""
    runs.complete("gan", task, variant, loop.__file__, train_run, layout.GENERATED / task / variant)


def networks(task: dict[str, Any], method: Method, bound: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of a resolved task, for the images of its dataset."""
    size, latent = bound["image_size"], task["recipe"]["latent"]
    return build_gan(task["model"], task["model_options"], method, bound["channels"], size, latent)


def train_run(run: Run, data: dict[str, Images]) -> None:
    """One run into the run store: the averaged generator, samples of it unless it diverged, and last the record."""
    task, variant, images = run.task, run.variant, data["train"]
    recipe = task["recipe"]
    iterations, per_iteration = recipe["iterations"], recipe["batch_size"] * recipe["discriminator_steps"]
    device = images.pixels.device.type
    started, clock = provenance.now(), [time.perf_counter()]
    torch.manual_seed(derive(task["seed"], "init", run.seed))  # layers and methods draw from torch's own generator
    method = methods.build(variant["method"], variant["options"])
    generator, discriminator = (devices.placed(network, device) for network in networks(task, method, run.bound))
    images = images.made_for(discriminator)
    parameters = sum(p.numel() for p in discriminator.parameters() if p.requires_grad)
    clock.append(time.perf_counter())

    with Progress(run.title, iterations) as progress:
        first: list[float] = []  # iteration and time of the first report: a resumed run has some that it did not make

        def report(done: int, discriminator_loss: float, generator_loss: float) -> None:
            now = [done, time.perf_counter()]
            first[:] = first or now
            speed = (now[0] - first[0]) * per_iteration / max(now[1] - first[1], 1e-9)
            losses = f"losses {discriminator_loss:.3f} and {generator_loss:.3f}"
            progress.update(done, f"iteration {done}/{iterations}, {losses}, {speed:,.0f} images/s")

        seed_of_order = derive(task["seed"], "order", run.seed)
        checkpoints = Checkpoints(store.unfinished(run.id))
        with preemption.saved():
            outcome = loop.fit(generator, discriminator, method, images, recipe, seed_of_order, report, checkpoints)
        clock.append(time.perf_counter())
        samples = None
        if outcome.diverged is None:
            samples = sample(outcome.average, recipe["latent"], SIDE**2, derive(task["seed"], "samples"), device)
            last = outcome.history[-1]
            losses = f"losses {last['discriminator_loss']:.3f} and {last['generator_loss']:.3f}"
            progress.close(f"{iterations} iterations, {losses}")
        else:
            progress.close(f"diverged at step {outcome.diverged['step']}")
        clock.append(time.perf_counter())

    # The first stretch is left out: kernels are chosen and warmed up in it.
    rates = outcome.rates[1:] or outcome.rates
    with files.atomic_folder(store.folder(run.id)) as folder:
        save_weights(outcome.average, folder / GENERATOR)
        if samples is not None:
            save_grid(samples, folder / SAMPLES)
        memory = measure_memory(generator, discriminator, method, images, recipe)
        clock.append(time.perf_counter())
        phases = ("setup", "train", "samples", "memory")
        record = {
            "run": run.id,
            "kind": "gan",
            "seed": run.seed,
            "status": "finished" if outcome.diverged is None else "diverged",
            "diverged": outcome.diverged,
            "metrics": {"history": outcome.history},
            "cost": {
                "images_per_second": float(np.median(rates)) * per_iteration if rates else None,
                "peak_memory_bytes": memory,
                "parameters": parameters,
                "resumed": outcome.resumed,
                "seconds": {name: b - a for name, (a, b) in zip(phases, pairwise(clock), strict=True)}
                | {"train": outcome.seconds, "checkpoints": checkpoints.spent},
            },
            "provenance": provenance.collect(task, variant, run.bound, run.code, device, started)
            | {
                "numerics": {
                    "precision": "float32",
                    "memory_format": devices.memory_format_name(discriminator, device, "channels_last"),
                    "step_seconds": None,
                }
            },
        }
        files.write_json(folder / store.RECORD, record)


@torch.inference_mode()
def sample(generator: nn.Module, latent: int, count: int, seed: int, device: str) -> Tensor:
    """`count` generated images, uint8 (count, C, H, W) on the device; every device draws the same noise."""
    noise = loop.Noise(latent, seed, device).draw(count)
    images = [generator(block) for block in noise.split(SAMPLE_BATCH)]
    return torch.cat(images).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def save_grid(images: Tensor, path: Path) -> None:
    """uint8 (SIDE * SIDE, C, H, W), C 1 or 3, as one PNG; small images are enlarged by whole pixels."""
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    scale = max(1, SHOWN // pixels.shape[1])
    pixels = np.pad(pixels.repeat(scale, 1).repeat(scale, 2), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    _, height, width, channels = pixels.shape
    grid = pixels.reshape(SIDE, SIDE, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(SIDE * height, SIDE * width, channels)
    Image.fromarray(grid if channels == 3 else grid[:, :, 0]).save(path, format="PNG")


def measure_memory(
    generator: nn.Module, discriminator: nn.Module, method: Method, images: Images, recipe: dict[str, Any]
) -> int:
    """Peak bytes of a discriminator step, measured when all that a run leaves is made, as it moves the weights."""
    optim = loop.adam(method.param_groups(discriminator, recipe["lr"], 0.0), recipe)
    real = next(loop.real_batches(images, recipe["batch_size"], 0))
    noise = loop.Noise(recipe["latent"], 0, images.pixels.device.type).draw(len(real))
    with torch.no_grad():
        fake = generator(noise)

    def step() -> None:
        loop.discriminator_loss(discriminator, method, real, fake).backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    memory = devices.step_memory(discriminator, step, images.pixels.device.type)
    # Adam keeps one moment more than the momentum that is counted there.
    return memory + devices.tensor_bytes(discriminator.parameters())
