"""How a GAN is trained: the `recipe` of a GAN task in params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from normbench.system.schema import MOST, NotNegativeReal, Positive, PositiveReal, Share, Strict, Threads

COEFFICIENT = 10.0  # of the gradient penalty with the Wasserstein loss (Gulrajani et al., arXiv 1704.00028)
# The diversity below which a generator counts as collapsed: its typical sample is ten times as near to another one as a
# real image is.
COLLAPSED = 0.1


class GanRecipe(Strict):
    """Adam and one of three losses (see `normbench.gan.losses`).

    iterations: generator steps. discriminator_steps: discriminator steps per generator step.
    schedule: of the learning rate: `constant`, or `linear`, down to zero.
    beta1, beta2: Adam's decay rates. latent: the length of the noise vector.
    gradient_penalty: its coefficient; null means 10 with the Wasserstein loss and none with the others.
    average: the decay of the moving average of the generator's weights, which is what is evaluated; 0 for no averaging.
    fid_samples: images generated for the FID; null means as many as there are training images, at most 10,000.
    precision: `float32`, or `bfloat16` by autocast, in which losses and the gradient penalty are still in float32.
    threads, deterministic: see `normbench.training.recipe.Recipe`.
    """

    iterations: Positive
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 64
    lr: PositiveReal = 2e-4
    schedule: Literal["constant", "linear"] = "constant"
    beta1: Share = 0.0
    beta2: Share = 0.9
    discriminator_steps: Positive = 1
    loss: Literal["hinge", "non_saturating", "wasserstein"] = "hinge"
    gradient_penalty: NotNegativeReal | None = None
    latent: Positive = 128
    average: Share = 0.99
    fid_samples: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Threads = 1
    deterministic: bool = False

    @property
    def penalized(self) -> float:
        """The coefficient of the gradient penalty, 0 for none."""
        if self.gradient_penalty is None:
            return COEFFICIENT if self.loss == "wasserstein" else 0.0
        return self.gradient_penalty

    def unset(self) -> set[str]:
        """The keys without which there were recipes once, where they have the value that was meant then."""
        later: dict[str, Any] = {key: type(self).model_fields[key].default for key in LATER}
        return {key for key, default in later.items() if getattr(self, key) == default}


LATER = ("schedule", "loss", "gradient_penalty", "precision", "deterministic")
