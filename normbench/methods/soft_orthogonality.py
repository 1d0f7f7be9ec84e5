"""Soft orthogonality: batch norm, and a penalty on the distance of every weight from an orthogonal matrix.

Bansal, Chen and Wang, NeurIPS 2018, arXiv 1810.09102, section 3.1: coefficient * ||G - I||_F^2 for each weight, G the
smaller Gram matrix of the weight as a matrix M (outputs, all the rest): M M^T, or M^T M where there are more outputs.

As in their code (VITA-Group/Orthogonality-in-CNNs at 99897ee8), every parameter with two or more dimensions counts, the
stem and the classifier too. Deviation: each group of a grouped convolution is a matrix of its own, where their code has
no such layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from normbench.functional.weight_matrices import all_weights, from_orthogonal
from normbench.methods.base import START, Between, Method, Moment, NotNegative


@dataclass(frozen=True)
class SoftOrthogonality(Method):
    """Batch norm, and `coefficient` times the sum over weights of ||G - I||_F^2 in the loss.

    coefficient: there is no default to go by, the paper tunes it; 1e-4 is that of BigGAN's orthogonal regularization
        (arXiv 1809.11096).
    """

    tunable: ClassVar = {"coefficient": Between(1e-6, 1e-2)}

    coefficient: NotNegative = 1e-4

    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor:
        stacks = all_weights(model)
        with torch.autocast(stacks[0].device.type, enabled=False):
            distances = torch.cat([from_orthogonal(stack).flatten() for stack in stacks])
            return self.coefficient * distances.square().sum()
