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
from normbench.gan.samples import Noise, generated, sample
from normbench.gan.task import GanTask
from normbench.methods.base import Method
from normbench.models.base import Model
from normbench.models.build import ApplyTo, applied, new_gan
from normbench.system import device as devices
from normbench.system import memory
from normbench.system.seeds import derive
from normbench.training.keeper import Keeper

__all__ = ["SIDE", "Gan", "fit", "networks", "prepare", "sample", "samples", "step_memory"]

SIDE = 8  # rows and columns in the grid of samples


@dataclass
class Gan:
    """A GAN ready for training: both networks on their device, the real images, and all that shapes the training."""

    generator: nn.Module
    discriminator: nn.Module
    images: Images
    setting: loop.Setting

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of the discriminator."""
        return sum(p.numel() for p in self.discriminator.parameters() if p.requires_grad)


def networks(
    task: GanTask, model: Model, method: Method, bound: Bound, seed: int, apply_to: ApplyTo = "discriminator"
) -> tuple[nn.Module, nn.Module]:
    """The untrained, initialised generator and discriminator of a run, on the CPU.

    seed: the run's within the task. apply_to: where the method applies.
    """
    drawn = derive(task.seed, "init", seed)
    size, latent = bound.image_size, task.recipe.latent
    classes = task.classes(bound)
    return new_gan(model, task.model_options, method, bound.channels, size, latent, drawn, classes, apply_to)


def prepare(
    task: GanTask,
    model: Model,
    method: Method,
    bound: Bound,
    seed: int,
    data: Splits,
    apply_to: ApplyTo = "discriminator",
) -> Gan:
    """Builds the networks of a run and moves them to the device of `data`. Sets up torch as the recipe says."""
    devices.prepare(data.device, deterministic=task.recipe.deterministic)
    devices.use_threads(task.recipe.threads, data.device)
    built = networks(task, model, method, bound, seed, apply_to)
    generator, discriminator = (placement.placed(network, data.device) for network in built)
    in_generator, in_discriminator = applied(method, apply_to)
    setting = loop.Setting(
        method=in_discriminator,
        recipe=task.recipe,
        seed=derive(task.seed, "order", seed),
        in_generator=in_generator,
        shown=derive(task.seed, "samples"),
        classes=task.classes(bound),
    )
    return Gan(generator, discriminator, data.train.made_for(discriminator), setting)


def fit(gan: Gan, report: loop.Report, keeper: Keeper | None = None) -> loop.Outcome:
    """Trains a prepared GAN in place (see `normbench.gan.loop.fit`)."""
    return loop.fit(gan.generator, gan.discriminator, gan.images, gan.setting, report, keeper)


def samples(average: nn.Module, task: GanTask, device: str) -> Tensor:
    """The images of the sample grid, uint8 (SIDE * SIDE, C, H, W). Every run of a task uses the same noise.

    average: the generator with averaged weights.
    """
    return sample(average, task.recipe.latent, SIDE**2, derive(task.seed, "samples"), device)


def step_memory(gan: Gan) -> int:
    """Peak memory of one discriminator step, in bytes. It changes the weights: call this after everything else."""
    setting, device = gan.setting, gan.images.pixels.device.type
    recipe, classes = setting.recipe, setting.classes
    optim = loop.adam(loop.groups(setting.method, gan.discriminator, recipe), recipe)
    real = next(loop.real_batches(gan.images, recipe.batch_size, 0, conditional=classes is not None))
    source = Noise(recipe.latent, 0, device, classes)
    with torch.no_grad():
        noise = source.draw(len(real.images))
        fake = generated(gan.generator, noise, source.draw_labels(len(noise)))

    def step() -> None:
        loop.discriminator_loss(gan.discriminator, setting.method, real, fake, recipe).backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    # `memory.step_memory` counts one optimizer buffer per parameter, as for momentum; Adam has two.
    return memory.step_memory(gan.discriminator, step, device) + memory.tensor_bytes(gan.discriminator.parameters())
