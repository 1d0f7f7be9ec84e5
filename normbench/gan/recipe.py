"""How a GAN is trained: the `recipe` of a GAN task in params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from normbench.system.schema import MOST, Positive, PositiveReal, Share, Strict, Threads


class GanRecipe(Strict):
    """Adam and the hinge loss (Miyato et al., arXiv 1802.05957), in float32.

    iterations: generator steps. discriminator_steps: discriminator steps per generator step.
    beta1, beta2: Adam's decay rates. latent: the length of the noise vector.
    average: the decay of the moving average of the generator's weights, which is what is evaluated; 0 for no averaging.
    fid_samples: images generated for the FID; null means as many as there are training images, at most 10,000.
    threads, deterministic: see `normbench.training.recipe.Recipe`.
    """

    iterations: Positive
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 64
    lr: PositiveReal = 2e-4
    beta1: Share = 0.0
    beta2: Share = 0.9
    discriminator_steps: Positive = 1
    latent: Positive = 128
    average: Share = 0.99
    fid_samples: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    threads: Threads = 1
    deterministic: bool = False
