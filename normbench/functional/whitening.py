"""What a layer of Network Deconvolution computes in a training step besides its convolution, in one function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.functional.inverse_sqrt import root_of, twice_gradient
from normbench.functional.launches import cast
from normbench.functional.patch_moments import Sampling, covariance
from normbench.functional.products import addmm, matmul, true_float32


class Whitened(torch.autograd.Function):
    """Folds the whitening of the vectors that are sampled from images into the weight and the bias of a layer.

    The images are returned as well. The caller computes with these and not with x, so that the gradient of the
    statistics can be added, in place, to the gradient of what the caller computes. The gradient needs no correction for
    the centring: to first order the covariance does not depend on the mean, because the centred vectors sum to zero.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sampling: Sampling,
        eps: float,
        iterations: int,
        low_precision: bool,
    ) -> tuple[Tensor, ...]:
        """x (N, C, H, W), weight, bias (out,) -> x, weight, bias, mean (groups, 1, F), root (groups, F, F).

        weight: (out, C/groups, kh, kw) or, for a linear layer, (out, C). The new weight and bias have the dtype of x,
        and the weight its strides. mean and root, the whitening matrix, have the order of features of `Sampling` and no
        gradient. eps: see `covariance`. iterations: see `inverse_sqrt`. low_precision: round the vectors without their
        mean to bfloat16, an approximation. Products are still summed in float32.
        """
        with true_float32(x):
            samples, mean = sampling.centred_rows(x)
            samples = samples.to(torch.bfloat16) if low_precision else samples
            root, saved = root_of(covariance(samples, eps), iterations)
            rows = sampling.weight_rows(weight)
            factors = [rows, root, repeated(mean, rows, len(weight))]
            # The gradient of images in bfloat16 is in bfloat16, and so are the factors of its products.
            factors += [] if low_precision else [samples]
            factors += [] if bias is None else [bias]
            rows, factor, centre, *others = cast(factors, x.dtype)
            samples = samples if low_precision else others[0]
            product = matmul(rows, factor)
            new_bias = centred(product, centre, None if bias is None else others[-1])
        ctx.save_for_backward(weight, samples, centre, factor, rows, product, *saved)
        ctx.shape, ctx.sampling, ctx.has_bias = x.shape, sampling, bias is not None
        ctx.mark_non_differentiable(mean, root)
        ctx.set_materialize_grads(False)
        return x, sampling.weight(product, weight), new_bias, mean, root

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        weight, samples, centre, root, rows, product, *saved = ctx.saved_tensors
        # A layer uses all three, so that none is missing as a rule.
        of_weight = torch.zeros_like(weight, dtype=rows.dtype) if of_weight is None else of_weight
        of_bias = rows.new_zeros(len(weight)) if of_bias is None else of_bias
        if of_x is None and ctx.needs_input_grad[0]:
            of_x = rows.new_zeros(ctx.shape)
        with true_float32(weight):
            of_outputs = of_bias.view(len(centre), -1, 1)
            of_product = ctx.sampling.weight_rows(of_weight).reshape(len(centre), -1, centre.shape[2])
            of_product = torch.addcmul(of_product, of_outputs, centre, value=-1).view(rows.shape)
            of_weight = ctx.sampling.weight(matmul(of_product, root), weight)
            if of_x is not None:
                # The mean enters the bias by its product with the rows of an output.
                against_mean = matmul(of_outputs.mT, product.view(len(centre), -1, centre.shape[2]))
                against_mean = against_mean.view(len(rows), -1, rows.shape[2])
                against_mean = against_mean.sum(1, keepdim=True) if against_mean.shape[1] > 1 else against_mean
                twice = twice_gradient(saved, rows, of_product, of_x.dtype)
                ctx.sampling.add(of_x, gradient_of(samples.to(of_x.dtype), twice, against_mean.to(of_x.dtype)))
        of_weight, of_bias = cast([of_weight, of_bias], weight.dtype)
        return of_x, of_weight, of_bias if ctx.has_bias else None, None, None, None, None


def centred(rows: Tensor, centre: Tensor, bias: Tensor | None) -> Tensor:
    """The bias (out,) with which rows (groups, R, F) of whitened weights act on vectors without their mean.

    centre: from `repeated`. bias: the layer's own (out,), or none.
    """
    weight = rows.reshape(len(centre), -1, centre.shape[2])
    if bias is None:
        return -matmul(weight, centre.mT).view(-1)
    return addmm(bias.view(len(centre), -1, 1), weight, centre.mT, 1, -1).view(-1)


def repeated(mean: Tensor, rows: Tensor, outputs: int) -> Tensor:
    """A mean (groups, 1, F) once for each of the R * groups / out rows (groups, R, F) of an output: (groups, 1, K)."""
    groups, count, _ = rows.shape
    return mean.expand(-1, count * groups // outputs, -1).reshape(groups, 1, -1)


def gradient_of(samples: Tensor, twice: Tensor, against_mean: Tensor) -> Tensor:
    """The gradient of samples (groups, M, F), given without their mean, in their order in memory.

    twice: that of their covariance, (groups, F, F), symmetric and doubled. against_mean: that of their mean, negative.
    """
    count = samples.shape[1]
    if samples.is_contiguous():
        return addmm(against_mean, samples, twice, -1 / count, 1 / count)
    return addmm(against_mean.mT, twice, samples.mT, -1 / count, 1 / count).mT
