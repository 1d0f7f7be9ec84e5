"""How a classifier is trained: the `recipe` of a task in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from normbench.data.augmentation import Augmentation, ResizedCrop
from normbench.system.schema import (
    MOST,
    MemoryFormat,
    NotNegative,
    NotNegativeReal,
    Positive,
    PositiveReal,
    Precision,
    Share,
    Strict,
    Threads,
)

ShareOfArea = Annotated[float, Field(gt=0, le=1)]


def _ascending(ends: list[float]) -> list[float]:
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError("must be the least and the largest of two numbers")
    return ends


class Adversary(Strict):
    """Adversarial training (see `normbench/training/adversary.py`).

    kind: `free` trains `repeats` times on each batch and updates the perturbation after each pass; `pgd` first searches
        for adversarial examples in `steps` steps.
    epsilon: the largest change of a pixel, in units of 1/255.
    step: the step size in units of 1/255; null means epsilon for `free` and epsilon / 4 for `pgd`.
    repeats: passes over each batch, for `free`. steps: steps of the attack, for `pgd`.
    """

    kind: Literal["free", "pgd"]
    epsilon: PositiveReal = 8.0
    step: PositiveReal | None = None
    repeats: Positive = 4
    steps: Positive = 7


class Curvature(Strict):
    """Curvature-regularised training, Singla and Feizi, arXiv 2006.00731 (see `normbench/training/certified.py`).

    coefficient: of the mean bound on the curvature of a batch. epsilon: the radius, in the 2-norm of pixels in 0..1, of
    the adversarial examples that are trained on; 0 for the images themselves. rounds: how often the search halves the
    range of its multiplier. steps: in each round.
    """

    coefficient: NotNegativeReal = 0.005
    epsilon: NotNegativeReal = 1.58
    rounds: Positive = 30
    steps: Positive = 10


class Loss(Strict):
    """The loss of a batch (see `normbench/training/losses.py`).

    kind: `cross_entropy`; or a loss with a margin, `hinge` or `offset_cross_entropy`.
    epsilon: the radius, in the 2-norm of pixels in 0..1, within which the margin keeps the prediction.
    ramp_epochs: over how many epochs it grows from 0, in equal steps.
    lipschitz: the Lipschitz constant from normalized images to logits for which it does: `one`, as networks of
        orthogonal layers have it, or that of the `network`, the product of the norms of its layers, in each step.
    temperature: of `offset_cross_entropy`.
    curvature: a penalty on the curvature, or null.
    """

    kind: Literal["cross_entropy", "hinge", "offset_cross_entropy"] = "cross_entropy"
    epsilon: PositiveReal = 0.5
    ramp_epochs: NotNegativeReal = 0.0
    lipschitz: Literal["one", "network"] = "one"
    temperature: PositiveReal = 1.0
    curvature: Curvature | None = None


class Recipe(Strict):
    """SGD with momentum and a learning rate that is updated at every step.

    weight_decay_norms: whether one-dimensional parameters (norms, biases) have weight decay too.
    schedule: `cosine` (down to zero), `step` (multiplied by `gamma` at each of `milestones`, in epochs) or `constant`,
        after a linear warm-up of `warmup_epochs`.
    crop: `padded`, a random crop of the original size after `crop_padding` zero pixels were added on each side; or
        `resized`, a random part of the image, resized to the original size. crop_scale: the least and the largest share
        of the area of such a part. crop_ratio: its least and largest width by height.
    flip: random horizontal flips. drop_last: leave out the last batch of an epoch if it is smaller than the others.
    gradient_clip: the largest 2-norm of the gradient of all parameters together, or null.
    compile: null, or the mode of `torch.compile`: `default`, or `reduce-overhead`, which uses CUDA graphs.
    adversary: adversarial training, or null.
    loss: another loss than the cross-entropy, or null.
    replicas: into how many parts a batch is divided that have batch statistics of their own, as on as many GPUs. How
        many GPUs there are does not matter (see `normbench/training/division.py`).

    precision: `float32`; `tf32`, in which a GPU rounds the factors of the products in convolutions and linear layers to
    10 bits after the point; or `bfloat16` by autocast. memory_format: of weights and activations. threads: the number
    of CPU threads of a run on a CPU, on which the order of floating-point additions depends. These three change the
    last digits of results. So they are part of a run's id, and do not depend on the machine.
    deterministic: whether a GPU, too, gives the same bits every time, with slower kernels; a CPU always does.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 128
    lr: PositiveReal = 0.1
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegativeReal = 5e-4
    weight_decay_norms: bool = True
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: list[NotNegativeReal] = []
    gamma: PositiveReal = 0.1
    warmup_epochs: NotNegativeReal = 0.0
    label_smoothing: Share = 0.0
    crop: Literal["padded", "resized"] = "padded"
    crop_padding: NotNegative = 4
    crop_scale: Annotated[list[ShareOfArea], AfterValidator(_ascending)] = [0.08, 1.0]
    crop_ratio: Annotated[list[PositiveReal], AfterValidator(_ascending)] = [3 / 4, 4 / 3]
    flip: bool = False
    drop_last: bool = False
    precision: Precision = "float32"
    memory_format: MemoryFormat = "channels_last"
    threads: Threads = 1
    deterministic: bool = False
    gradient_clip: PositiveReal | None = None
    compile: Literal["default", "reduce-overhead"] | None = None
    adversary: Adversary | None = None
    loss: Loss | None = None
    replicas: Positive = 1


def augmentation(recipe: Recipe) -> Augmentation:
    """How a recipe varies the training images. A function and no method, so that digests of code follow it."""
    if recipe.crop == "padded":
        return Augmentation(recipe.crop_padding, recipe.flip)
    (least, most), (narrow, wide) = recipe.crop_scale, recipe.crop_ratio
    return Augmentation(0, recipe.flip, ResizedCrop((least, most), (narrow, wide)))
