"""SRIP, spectral restricted isometry property: batch norm, and a penalty on how far weights are from orthogonal ones.

Bansal, Chen and Wang, NeurIPS 2018, arXiv 1810.09102, section 3.4. The penalty of a weight is an estimate of the
squared spectral norm of D = G - I, G its smaller Gram matrix as a matrix M (outputs, all the rest). Two steps of a
power iteration from a fresh random v give it: y = D v / ||D v||, then ||D y||^2, with the gradient of both products.

Behaviour of the authors' code, VITA-Group/Orthogonality-in-CNNs at 99897ee8 (Wide-Resnet): every parameter with two or
more dimensions counts, v is uniform in 0..1, and the coefficient falls during the training.

Deviations: each group of a grouped convolution is a matrix of its own, where their code has no such layers; where D v
is zero the penalty is zero, and not undefined.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from normbench.functional.products import matmul
from normbench.functional.weight_matrices import all_weights, from_orthogonal
from normbench.methods.base import START, Between, Method, Moment, NotNegative
from normbench.system.transfer import to_device

# After how many of 200 epochs the coefficient is multiplied by what.
DECAY = {20: 1e-3, 50: 1e-4, 70: 1e-6, 120: 0.0}
EPOCHS = 200


def decay(epoch: float) -> float:
    """The factor on the coefficient in an epoch (from 0) of 200."""
    passed = [factor for after, factor in DECAY.items() if epoch >= after]
    return passed[-1] if passed else 1.0


@dataclass(frozen=True)
class SRIP(Method):
    """Batch norm, and `coefficient` times the sum over weights of ||D y||^2 in the loss.

    schedule: `published` multiplies the coefficient by 1e-3, 1e-4, 1e-6 and 0 after 20, 50, 70 and 120 epochs, however
        long the training is; `scaled` after the same shares of the training, which they are of 200 epochs; `constant`
        not at all.
    """

    tunable: ClassVar = {"coefficient": Between(1e-4, 1.0), "schedule": ("published", "scaled", "constant")}

    coefficient: NotNegative = 1e-2
    schedule: Literal["published", "scaled", "constant"] = "published"

    def factor(self, moment: Moment) -> float:
        """The factor on the coefficient at a moment of the training."""
        if self.schedule == "constant":
            return 1.0
        return decay(moment.epoch * EPOCHS / moment.epochs if self.schedule == "scaled" else moment.epoch)

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor | None:
        coefficient = self.coefficient * self.factor(moment)
        if coefficient == 0:
            return None
        stacks = all_weights(model)
        with torch.autocast(stacks[0].device.type, enabled=False):
            alike: dict[int, list[Tensor]] = defaultdict(list)
            for stack in stacks:
                distances = from_orthogonal(stack)
                alike[distances.shape[1]].append(distances)
            together = [torch.cat(some) for some in alike.values()]
            # Drawn on the CPU, so that they are the same on every device.
            lengths = [len(distances) * distances.shape[1] for distances in together]
            drawn = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(moment.seed))
            starts = to_device(drawn, stacks[0].device).to(stacks[0].dtype).split(lengths)
            images = [image(d, v.view(*d.shape[:2], 1)).flatten() for d, v in zip(together, starts, strict=True)]
            return coefficient * torch.cat(images).square().sum()


def image(distances: Tensor, starts: Tensor) -> Tensor:
    """D y of matrices D (S, n, n), with y = D v / ||D v|| of vectors v (S, n, 1); (S, n, 1)."""
    moved = matmul(distances, starts)
    length = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    return matmul(distances, moved / length.clamp_min(torch.finfo(length.dtype).tiny))
