"""The spectral norms of the weights of a network while it trains, as in Miyato et al., arXiv 1802.05957."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.spectral.kernels import largest_singular_value


@torch.no_grad()
def spectral_norms(network: nn.Module) -> dict[str, float]:
    """The largest singular value of each convolution's and linear layer's weight as a matrix (out, in*kh*kw), by layer.

    The values are converged, and the network is left as it was. Layers of a kind of their own count by what they hold
    as `weight`, of at least two dimensions: what a method computes from it in the forward pass alone is not seen. For a
    convolution this is not the norm of its operator, which is up to sqrt(kh*kw) times as large. Layers with a weight
    that is not finite are left out.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()  # A parametrization may change its state when its weight is read in training.
    found = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            found[name] = weight.detach().flatten(1).double()
    for module, mode in modes.items():
        module.training = mode
    norms = {name: largest_singular_value(matrix[None])[0] for name, matrix in found.items() if matrix.isfinite().all()}
    return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True)) if norms else {}
