"""The loss of a batch of segmentation: the cross-entropy over all pixels that count."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from normbench.data.pixels import IGNORED

Outputs = Tensor | tuple[Tensor, Tensor]  # of a network in training: logits, or those of the auxiliary head too


def pixel_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cross-entropy over the pixels whose class is not `IGNORED`, 0-d; 0 if there is none.

    logits: float (B, K, H, W). classes: int64 (B, H, W).
    """
    # One row for each pixel: on CUDA, the loss of whole images has no deterministic kernel.
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    total = functional.cross_entropy(rows, classes.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)


def batch_loss(outputs: Outputs, classes: Tensor, aux_weight: float) -> tuple[Tensor, Tensor]:
    """The loss of a batch, 0-d, and the fraction of the pixels that count whose class is right, 0-d.

    outputs: what the network returns. classes: int64 (B, H, W). aux_weight: of the loss of the auxiliary head.
    """
    logits, aux = outputs if isinstance(outputs, tuple) else (outputs, None)
    loss = pixel_loss(logits.float(), classes)
    if aux is not None:
        loss = loss + aux_weight * pixel_loss(aux.float(), classes)
    right = (logits.detach().argmax(1) == classes).sum()  # no logit has the number of ignored pixels
    return loss, right / (classes != IGNORED).sum().clamp(min=1)
