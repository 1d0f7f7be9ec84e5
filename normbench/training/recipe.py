"""How a classifier is trained, as a task of params.yaml says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from normbench.system.schema import (
    MemoryFormat,
    NotNegative,
    NotNegativeReal,
    Positive,
    PositiveReal,
    Precision,
    Share,
    Strict,
)


class Adversary(Strict):
    """Training on images that an adversary has changed (see `normbench/training/adversary.py`).

    kind: `free` trains `repeats` times on each batch and moves the perturbation with each pass; `pgd` first finds
    adversarial examples in `steps` steps. epsilon: the largest change of a pixel, in 255ths. step: the length of a step
    in 255ths; null means epsilon for `free` and a quarter of it for `pgd`.
    """

    kind: Literal["free", "pgd"]
    epsilon: PositiveReal = 8.0
    step: PositiveReal | None = None
    repeats: Positive = 4
    steps: Positive = 7


class Recipe(Strict):
    """SGD with momentum; the learning rate changes with every step.

    weight_decay_norms: whether parameters of one dimension (norms, biases) decay too. schedule: `cosine` to zero,
    `step` (times `gamma` at each of `milestones`, in epochs) or `constant`; a linear warm-up of `warmup_epochs` comes
    first. crop_padding: zero pixels around the image, from which a random crop of the image's size is taken. flip:
    random horizontal flips. gradient_clip: the largest 2-norm of the gradient, or null. compile: null, or the mode of
    `torch.compile`: `default`, or `reduce-overhead` with CUDA graphs.

    precision: `float32`, or `bfloat16` by autocast, on every device alike. memory_format: of
    weights and activations. threads: of a run on a CPU; sums are rounded in another order with another number. All
    three change the last digits of results, so they are part of a run's id, and the same on every machine.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 128
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
    crop_padding: NotNegative = 4
    flip: bool = False
    drop_last: bool = False
    precision: Precision = "float32"
    memory_format: MemoryFormat = "channels_last"
    threads: Positive = 1
    gradient_clip: PositiveReal | None = None
    compile: Literal["default", "reduce-overhead"] | None = None
    adversary: Adversary | None = None
