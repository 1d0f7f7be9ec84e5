"""Spectral norms of convolutions: upper bounds, exact values and lower estimates, all differentiable.

| function | what | padding | stride | image size |
|---|---|---|---|---|
| conv_bound | upper bound, the certificate | zero, circular | the one given | all |
| fantastic_four, bounds | upper bound | zero, circular | all | all |
| grid_bound | upper bound | zero, circular | all | all |
| gram_bound | upper bound | circular | 1 | the one given |
| exact_norm | exact | circular | 1 | the one given |
| zero_padded_norm | lower estimate | zero | the one given | the one given |
| affine_norm | lower estimate | that of the layer | that of the layer | the one given |

A bound for `polyphase(weight, stride)` is also one for the strided convolution, and usually a tighter one than that for
`weight`. `spread(weight, dilation)` is the kernel of a dilated convolution. Padding may have any width. All statements
hold up to rounding of the result to the precision of the weight.

`hessian_bounds` bounds the curvature of networks with differentiable activations from such norms.
"""

from normbench.spectral.certificates import conv_bound, margin_radius
from normbench.spectral.curvature import CurvedLayer, Window, derivatives_of, hessian_bounds, norm_of
from normbench.spectral.fantastic_four import bounds, fantastic_four, reshapings
from normbench.spectral.frequencies import exact_norm, gram_bound, grid_bound
from normbench.spectral.kernels import polyphase, spread
from normbench.spectral.operator import affine_norm, zero_padded_norm

__all__ = [
    "CurvedLayer",
    "Window",
    "affine_norm",
    "bounds",
    "conv_bound",
    "derivatives_of",
    "exact_norm",
    "fantastic_four",
    "gram_bound",
    "grid_bound",
    "hessian_bounds",
    "margin_radius",
    "norm_of",
    "polyphase",
    "reshapings",
    "spread",
    "zero_padded_norm",
]
