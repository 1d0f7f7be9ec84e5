"""Trains one GAN and samples from it, given its task, method and seed: everything that determines a run's outcome.

As in `normbench.training.classifier`, nothing here knows where a run is stored or what its record looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.data.bound import Bound
from normbench.data.prepared import Splits
from normbench.functional import placement
from normbench.gan import loop
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.methods.base import Method
from normbench.models.base import Model
from normbench.models.build import new_gan
from normbench.system import device as devices
from normbench.system import memory
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper

SIDE = 8  # rows and columns in the grid of samples
SAMPLE_BATCH = 500


@dataclass
class Gan:
    """A GAN ready for training: both networks on their device, and the real images."""

    generator: nn.Module
    discriminator: nn.Module
    method: Method
    recipe: GanRecipe
    images: Images

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of the discriminator."""
        return sum(p.numel() for p in self.discriminator.parameters() if p.requires_grad)


def networks(task: GanTask, model: Model, method: Method, bound: Bound, seed: int) -> tuple[nn.Module, nn.Module]:
    """The untrained, initialised generator and discriminator of a run, on the CPU. seed: the run's within the task."""
    drawn = derive(task.seed, "init", seed)
    size, latent = bound.image_size, task.recipe.latent
    return new_gan(model, task.model_options, method, bound.channels, size, latent, drawn)


def prepare(task: GanTask, model: Model, method: Method, bound: Bound, seed: int, data: Splits) -> Gan:
    """Builds the networks of a run and moves them to the device of `data`. Sets up torch as the recipe says."""
    devices.prepare(data.device, deterministic=task.recipe.deterministic)
    devices.use_threads(task.recipe.threads, data.device)
    built = networks(task, model, method, bound, seed)
    generator, discriminator = (placement.placed(network, data.device) for network in built)
    return Gan(generator, discriminator, method, task.recipe, data.train.made_for(discriminator))


def fit(gan: Gan, task: GanTask, seed: int, report: loop.Report, keeper: Keeper | None = None) -> loop.Outcome:
    """Trains a prepared GAN in place (see `normbench.gan.loop.fit`)."""
    order = derive(task.seed, "order", seed)
    return loop.fit(gan.generator, gan.discriminator, gan.method, gan.images, gan.recipe, order, report, keeper)


def samples(average: nn.Module, task: GanTask, device: str) -> Tensor:
    """The images of the sample grid, uint8 (SIDE * SIDE, C, H, W). Every run of a task uses the same noise.

    average: the generator with averaged weights.
    """
    return sample(average, task.recipe.latent, SIDE**2, derive(task.seed, "samples"), device)


@torch.inference_mode()
def sample(generator: nn.Module, latent: int, count: int, seed: int, device: str) -> Tensor:
    """Generated images, uint8 (count, C, H, W), on the device. The noise depends on the seed, not on the device."""
    noise = loop.Noise(latent, seed, device).draw(count)
    images = [generator(block) for block in noise.split(SAMPLE_BATCH)]
    return torch.cat(images).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def step_memory(gan: Gan) -> int:
    """Peak memory of one discriminator step, in bytes. It changes the weights: call this after everything else."""
    recipe, images, device = gan.recipe, gan.images, gan.images.pixels.device.type
    optim = loop.adam(gan.method.param_groups(gan.discriminator, recipe.lr, 0.0), recipe)
    real = next(loop.real_batches(images, recipe.batch_size, 0))
    noise = loop.Noise(recipe.latent, 0, device).draw(len(real))
    with torch.no_grad():
        fake = gan.generator(noise)

    def step() -> None:
        loop.discriminator_loss(gan.discriminator, gan.method, real, fake).backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    # `memory.step_memory` counts one optimizer buffer per parameter, as for momentum; Adam has two.
    return memory.step_memory(gan.discriminator, step, device) + memory.tensor_bytes(gan.discriminator.parameters())
