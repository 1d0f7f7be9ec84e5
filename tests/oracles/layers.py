"""Slow implementations of the methods, written from their formulas and sharing no code with normbench.

Everything is explicit: patches are cut out one at a time, transforms are sums of exponentials, filters are circulant
matrices. All of it is ordinary torch, so that autograd through an oracle gives the gradients to compare with.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def relative_error(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest entry of b."""
    assert a.shape == b.shape, f"{tuple(a.shape)} is not {tuple(b.shape)}"
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of what a convolution is told, one number standing for two."""
    return (value, value) if isinstance(value, int) else value


def patches(
    x: Tensor,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
) -> Tensor:
    """x (N, C, H, W), zero padded -> (N, rows, columns, C * kh * kw), ordered by channel, kernel row and column."""
    n, channels, height, width = x.shape
    (above, beside), (down, across) = both(padding), both(dilation)
    padded = x.new_zeros(n, channels, height + 2 * above, width + 2 * beside)
    padded[:, :, above : above + height, beside : beside + width] = x
    tall, wide = both(kernel)
    rows = []
    for top in range(0, height + 2 * above - down * (tall - 1), both(stride)[0]):
        row = []
        for left in range(0, width + 2 * beside - across * (wide - 1), both(stride)[1]):
            taps = []
            for c in range(channels):
                for i in range(tall):
                    for j in range(wide):
                        taps.append(padded[:, c, top + down * i, left + across * j])
            row.append(torch.stack(taps, 1))
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def convolution(
    x: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    groups: int = 1,
) -> Tensor:
    """Cross-correlation without a bias, group by group."""
    outputs, inputs, *kernel = weight.shape
    share, result = outputs // groups, []
    for g in range(groups):
        cut = patches(x[:, g * inputs : (g + 1) * inputs], tuple(kernel), stride, padding, 1)
        own = weight[g * share : (g + 1) * share].reshape(share, -1)
        result.append(torch.einsum("nhwp,op->nohw", cut, own))
    return torch.cat(result, 1)


# --- Network Deconvolution -------------------------------------------------------------------------------------------


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    """The coupled iteration as it is written in the paper, on one matrix."""
    scale = (matrix * matrix).sum().sqrt()
    y, eye = matrix / scale, torch.eye(len(matrix), dtype=matrix.dtype)
    z = eye
    for _ in range(iterations):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return z / scale.sqrt()


def newton_schulz_spectral(matrix: np.ndarray, iterations: int) -> np.ndarray:
    """The same function of the matrix by way of its eigenvalues, each of which the iteration moves on its own."""
    values, vectors = np.linalg.eigh(matrix)
    scale = np.sqrt((matrix**2).sum())
    y, z = values / scale, np.ones_like(values)
    for _ in range(iterations):
        t = 1.5 - 0.5 * z * y
        y, z = y * t, z * t
    return (vectors * z) @ vectors.T / math.sqrt(scale)


def deconv_columns(columns: int, features: int) -> list[list[int]]:
    """Which patch columns make up each pooled vector: vector g has those that leave the remainder g."""
    count = columns // features
    return [[j for j in range(columns) if j % count == g] for g in range(count)]


def whitening(samples: Tensor, iterations: int, eps: float) -> tuple[Tensor, Tensor]:
    """Samples (M, F) -> mean (F,) and whitening matrix (F, F)."""
    mean = sum(samples) / len(samples)
    centred = samples - mean
    covariance = sum(torch.outer(row, row) for row in centred) / len(samples)
    return mean, newton_schulz(covariance + eps * torch.eye(samples.shape[1], dtype=samples.dtype), iterations)


def deconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    features: int,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    iterations: int = 5,
    eps: float = 1e-5,
    sampling_stride: int = 3,
    running: list[tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Whitens every patch, border patches included, and only then applies the weights.

    running: mean and matrix of each group, to be used instead of those of the batch. Returns the output and the
    statistics that were used.
    """
    outputs, inputs, *size = weight.shape
    kernel, step = tuple(size), tuple(sampling_stride * along for along in both(stride))
    share, results, used = outputs // groups, [], []
    for g in range(groups):
        own = x[:, g * inputs : (g + 1) * inputs]
        columns = deconv_columns(inputs * math.prod(kernel), features)
        if running is not None:
            mean, matrix = running[g]
        else:
            if kernel == (1, 1):
                flat = [own[n, :, h, w] for n in range(len(x)) for h in range(x.shape[2]) for w in range(x.shape[3])]
                rows = torch.stack(flat[:: math.prod(step)])
            else:
                rows = patches(own, kernel, step, padding, dilation).reshape(-1, inputs * math.prod(kernel))
            mean, matrix = whitening(torch.cat([rows[:, c] for c in columns]), iterations, eps)
        used.append((mean, matrix))
        cut = patches(own, kernel, stride, padding, dilation)
        flat_weight = weight[g * share : (g + 1) * share].reshape(share, -1)
        y = bias[g * share : (g + 1) * share][:, None, None]
        for c in columns:
            white = torch.einsum("fe,nhwe->nhwf", matrix, cut[..., c] - mean)
            y = y + torch.einsum("of,nhwf->nohw", flat_weight[:, c], white)
        results.append(y)
    return torch.cat(results, 1), used


def deconv_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    features: int,
    iterations: int,
    eps: float,
    running: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """x (N, D) in contiguous blocks of `features`, each whitened by the same mean and matrix."""
    blocks = [list(range(b, b + features)) for b in range(0, x.shape[1], features)]
    mean, matrix = running or whitening(torch.cat([x[:, b] for b in blocks]), iterations, eps)
    y = bias
    for b in blocks:
        y = y + ((x[:, b] - mean) @ matrix.T) @ weight[:, b].T
    return y, (mean, matrix)


def channel_deconv(x: Tensor, block: int, iterations: int, eps: float, sampling_stride: int) -> tuple[Tensor, dict]:
    """Whitens pooled channels by their un-centred second moment; the remaining ones get one mean and variance."""
    n, channels, height, width = x.shape
    taken = channels // block * block
    sparse = height >= sampling_stride and width >= sampling_stride
    step = sampling_stride**2 if sparse else 1
    pooled = taken // block  # channels in one row
    rows = []
    for r in range(block):
        rows.append(torch.cat([x[:, r * pooled + q].reshape(-1) for q in range(pooled)]))
    matrix = torch.stack(rows)
    sampled = matrix[:, ::step]
    mean = sampled.sum(1) / sampled.shape[1]
    moment = sampled @ sampled.T / sampled.shape[1] + eps * torch.eye(block, dtype=x.dtype)
    white = newton_schulz(moment, iterations)
    result = torch.zeros_like(x)
    done = white @ (matrix - mean[:, None])
    for r in range(block):
        for q in range(pooled):
            start = q * n * height * width
            result[:, r * pooled + q] = done[r, start : start + n * height * width].reshape(n, height, width)
    used = {"mean": mean, "matrix": white}
    if taken < channels:
        rest = torch.cat([sample[taken:].reshape(-1)[::step] for sample in x])
        centre = rest.sum() / len(rest)
        variance = ((rest - centre) ** 2).sum() / (len(rest) - 1)
        result[:, taken:] = (x[:, taken:] - centre) / (variance + eps).sqrt()
        used |= {"centre": centre, "variance": variance}
    return result, used


# --- ConvNorm --------------------------------------------------------------------------------------------------------


def circulant(kernel: Tensor, height: int, width: int) -> Tensor:
    """The matrix of circular cross-correlation with a (kh, kw) kernel on a height x width torus."""
    size, (tall, wide) = height * width, kernel.shape
    index = torch.zeros(tall * wide, size, dtype=torch.long)
    for i in range(tall):
        for j in range(wide):
            for row in range(height):
                for column in range(width):
                    target = (row + i) % height * width + (column + j) % width
                    index[i * wide + j, row * width + column] = target
    one_hot = torch.nn.functional.one_hot(index, size).to(kernel)
    return torch.einsum("t,tpq->pq", kernel.reshape(-1), one_hot)


def normalized_channels(
    x: Tensor, weight: Tensor, stride: int | tuple[int, int], padding: int | tuple[int, int], groups: int
) -> Tensor:
    """(A A^T)^(-1/2) A x for the circulant matrix A of each output channel, cropped and strided.

    The preconditioner (A A^T)^(-1/2) is a constant for the gradient.
    """
    outputs, inputs, *kernel = weight.shape
    n, _, height, width = x.shape
    above, beside = kernel[0] - 1, kernel[1] - 1
    tall, wide = height + above, width + beside
    torus = x.new_zeros(n, x.shape[1], tall, wide)
    torus[:, :, above : above + height, beside : beside + width] = x
    top, left = above - both(padding)[0], beside - both(padding)[1]
    result = []
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        blocks = [circulant(weight[o, j], tall, wide) for j in range(inputs)]
        values, vectors = torch.linalg.eigh(sum(block @ block.T for block in blocks).detach())
        preconditioner = (vectors * values.rsqrt()) @ vectors.T
        full = sum(torus[:, first + j].reshape(n, -1) @ blocks[j].T for j in range(inputs))
        y = (full @ preconditioner.T).reshape(n, tall, wide)
        kept = y[:, top : tall - top, left : wide - left]
        result.append(kept[:, :: both(stride)[0], :: both(stride)[1]])
    return torch.stack(result, 1)


def conv_norm(
    x: Tensor,
    weight: Tensor,
    depthwise: tuple[Tensor, Tensor] | None,
    batch_norm: tuple[Tensor, Tensor] | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    running: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The whole layer; batch_norm is its gain and offset. Returns the output and the mean and biased variance."""
    y = normalized_channels(x, weight, stride, padding, groups)
    if depthwise is not None:
        kernel, offset = depthwise
        half = (kernel.shape[2] // 2, kernel.shape[3] // 2)
        y = convolution(y, kernel, 1, half, groups=len(kernel)) + offset[:, None, None]
    if batch_norm is None:
        return y, None
    mean, variance = running or (y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False))
    normalized = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return normalized * batch_norm[0][:, None, None] + batch_norm[1][:, None, None], (mean, variance)


# --- Spectral Batch Normalization ------------------------------------------------------------------------------------

FFT_FACTORS = {  # (forward, inverse) as powers of the number of pixels
    "backward": (0.0, -1.0),
    "ortho": (-0.5, -0.5),
    "forward": (-1.0, 0.0),
    "full": (-1.0, -1.0),
}


def waves(rows: int, columns: int, period: int, sign: int) -> Tensor:
    """exp(sign * 2 pi i * r * c / period), (rows, columns)."""
    angle = torch.outer(torch.arange(rows).double(), torch.arange(columns).double()) * (sign * 2 * math.pi / period)
    return torch.complex(angle.cos(), angle.sin())


def dft(x: Tensor, columns: int) -> Tensor:
    """The unscaled two-dimensional transform, of which the first `columns` columns are kept."""
    height, width = x.shape[-2:]
    vertical, horizontal = waves(height, height, height, -1), waves(columns, width, width, -1)
    return torch.einsum("uh,nchw,vw->ncuv", vertical, x.to(torch.complex128), horizontal)


def inverse_dft(spectrum: Tensor, width: int, half: bool) -> Tensor:
    """The unscaled inverse; a half plane stands for itself and its mirror image, columns 0 and W/2 being their own."""
    height, columns = spectrum.shape[-2:]
    vertical, horizontal = waves(height, height, height, 1), waves(width, columns, width, 1)
    times = [2.0 if half and v != 0 and 2 * v != width else 1.0 for v in range(columns)]
    terms = spectrum * torch.tensor(times, dtype=torch.float64)
    result = torch.einsum("hu,ncuv,wv->nchw", vertical, terms, horizontal)
    return result.real if half else result


def spectral_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    fft_norm: str,
    statistics: str,
    eps: float = 1e-5,
    running: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Transform, normalise the coefficients, transform back. Returns the output, the complex mean and the variance."""
    width = x.shape[-1]
    half = statistics != "full"
    forward, inverse = ((x.shape[2] * width) ** power for power in FFT_FACTORS[fft_norm])
    spectrum = dft(x, width // 2 + 1 if half else width) * forward
    axes = (0,) if statistics == "frequency" else (0, 2, 3)
    if running is None:
        mean = spectrum.mean(axes)
        centre = mean if statistics == "frequency" else mean[:, None, None]
        difference = spectrum - centre
        variance = (difference.real**2 + difference.imag**2).mean(axes)
    else:
        mean, variance = running
    if statistics != "frequency":
        centre, spread = mean[:, None, None], variance[:, None, None]
    else:
        centre, spread = mean, variance
    normalized = weight[:, None, None] * (spectrum - centre) / (spread + eps).sqrt() + bias[:, None, None]
    y = inverse_dft(normalized, width, half) * inverse
    if not half:
        assert y.imag.abs().max() <= 1e-12 * y.abs().max()
        y = y.real
    return y, (mean, variance)


# --- IterNorm -------------------------------------------------------------------------------------------------------


def newton(covariance: Tensor, iterations: int) -> Tensor:
    """Algorithm 1 of Iterative Normalization: the inverse square root (d, d) from a covariance over its trace."""
    trace = covariance.trace()
    root = torch.eye(len(covariance), dtype=covariance.dtype)
    for _ in range(iterations):
        root = 1.5 * root - 0.5 * root @ root @ root @ covariance / trace
    return root / trace**0.5


# --- Fantastic Four --------------------------------------------------------------------------------------------------


def four_matrices(kernel: np.ndarray) -> list[np.ndarray]:
    """R, S, T and U of a kernel (out, in, kh, kw), entry by entry."""
    outputs, inputs, height, width = kernel.shape
    r, s = np.zeros((outputs * height, inputs * width)), np.zeros((outputs * width, inputs * height))
    t, u = np.zeros((outputs, inputs * height * width)), np.zeros((inputs, outputs * height * width))
    for o in range(outputs):
        for i in range(inputs):
            for p in range(height):
                for q in range(width):
                    value = kernel[o, i, p, q]
                    r[o * height + p, i * width + q] = value
                    s[o * width + q, i * height + p] = value
                    t[o, (i * height + p) * width + q] = value
                    u[i, (o * height + p) * width + q] = value
    return [r, s, t, u]


def four_bound(kernel: np.ndarray) -> float:
    """sqrt(kh * kw) times the least spectral norm of the four matrices, by singular value decomposition."""
    norms = [np.linalg.svd(matrix, compute_uv=False)[0] for matrix in four_matrices(kernel)]
    return math.sqrt(kernel.shape[2] * kernel.shape[3]) * min(norms)


def circular_norm(kernel: np.ndarray, size: int) -> float:
    """The norm of the circular convolution on size x size images: the largest singular value over all frequencies."""
    outputs, inputs, height, width = kernel.shape
    best = 0.0
    for u in range(size):
        for v in range(size):
            total = np.zeros((outputs, inputs), complex)
            for p in range(height):
                for q in range(width):
                    total += kernel[:, :, p, q] * np.exp(2j * np.pi * (u * p + v * q) / size)
            best = max(best, np.linalg.svd(total, compute_uv=False)[0])
    return best
