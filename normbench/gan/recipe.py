"""How a GAN is trained, as a GAN task of params.yaml says it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from normbench.system.schema import Positive, PositiveReal, Share, Strict


class GanRecipe(Strict):
    """Adam and the hinge loss (Miyato et al., arXiv 1802.05957), in float32.

    iterations: steps of the generator. discriminator_steps: steps of the discriminator for each of them. latent: length
    of the noise vector. average: decay of the moving average of the generator's weights that is sampled from; 0 for
    none. fid_samples: images drawn for the FID; null means as many as there are training images, at most 10,000.
    threads: of a run on a CPU, as in `normbench.training.recipe.Recipe`.
    """

    iterations: Positive
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: PositiveReal = 2e-4
    beta1: Share = 0.0
    beta2: Share = 0.9
    discriminator_steps: Positive = 1
    latent: Positive = 128
    average: Share = 0.99
    fid_samples: Annotated[int, Field(ge=2)] | None = None
    threads: Positive = 1
