"""How a network of segmentation is trained and scored: the `recipe` of a task of the kind `segmentation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from normbench.system.schema import (
    MOST,
    ImageSize,
    MemoryFormat,
    NotNegativeReal,
    Positive,
    PositiveReal,
    Precision,
    Share,
    Strict,
    Threads,
)


def _ascending(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError(f"must be the least and the largest, but {value[0]:g} is above {value[1]:g}")
    return value


class SegmentationRecipe(Strict):
    """SGD with momentum on random crops of scaled and flipped images, as in torchvision's references for segmentation.

    schedule: of the learning rate, updated at every step: `poly`, which is (1 - step / steps)^`power`, or `constant`.
    base_size: the shorter side in pixels that `scale` is relative to; null for that of the images.
    scale: the least and the largest factor; the shorter side is drawn between base_size times either.
    crop_size: of the training crops, one number for a square, or [height, width]; null for the size of the images. What
        is smaller after scaling is padded at the right and at the bottom, with pixels of 0 that are ignored.
    flip: random horizontal flips. drop_last: leave out the last batch of an epoch if it is smaller than the others.
    aux_weight: of the loss of the auxiliary head, if the model has one. aux_lr: the factor on its learning rate.
    weight_decay_norms: whether one-dimensional parameters (norms, biases) have weight decay too.
    gradient_clip: the largest 2-norm of the gradient of all parameters together, or null.
    protocol: what is trained and scored (see `normbench.segmentation.protocol`): `standard`, or `authors`, that of the
        code of Network Deconvolution. outputs: with `authors`, the number of classes that the network tells apart,
        void among them; null for one more than the dataset has.
    precision, memory_format, threads, deterministic, replicas: see `normbench.training.recipe.Recipe`.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=1, le=MOST)] = 8
    lr: PositiveReal = 0.01
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegativeReal = 1e-4
    weight_decay_norms: bool = True
    schedule: Literal["poly", "constant"] = "poly"
    power: PositiveReal = 0.9
    base_size: Positive | None = None
    scale: Annotated[list[PositiveReal], Field(min_length=2, max_length=2), AfterValidator(_ascending)] = [0.5, 2.0]
    crop_size: ImageSize | None = None
    flip: bool = True
    drop_last: bool = False
    aux_weight: NotNegativeReal = 0.5
    aux_lr: PositiveReal = 10.0
    gradient_clip: PositiveReal | None = None
    protocol: Literal["standard", "authors"] = "standard"
    outputs: Positive | None = None
    precision: Precision = "float32"
    memory_format: MemoryFormat = "channels_last"
    threads: Threads = 1
    deterministic: bool = False
    replicas: Positive = 1
