"""Spectral Normalization, Miyato et al., arXiv 1802.05957, as `torch.nn.utils.parametrizations.spectral_norm`.

The weight is divided by the largest singular value of its (out, in*kh*kw) matrix. That is not the norm of the
convolution, which can be up to sqrt(kh*kw) larger (Singla and Feizi, arXiv 1911.10258).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrizations

from normbench.methods.base import ConvSpec, Count, Method, Role


@dataclass(frozen=True)
class SpectralNorm(Method):
    """Every convolution and linear layer normalized; one power iteration a training step.

    batch_norm: a BatchNorm2d after each convolution, as classifiers have it. It undoes the scale of the weights in
        front of it, so that only the classifier keeps its bound; GAN discriminators go without.
    """

    batch_norm: bool = True
    power_iterations: Count = 1

    def conv(self, spec: ConvSpec) -> nn.Module:
        bias = not self.batch_norm or spec.role.place == "gate"
        layer = spec.plain(bias)
        return parametrizations.spectral_norm(layer, n_power_iterations=self.power_iterations)

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def linear(self, in_features: int, out_features: int, *, role: Role) -> nn.Module:
        return parametrizations.spectral_norm(
            nn.Linear(in_features, out_features), n_power_iterations=self.power_iterations
        )
