"""What a layer of Network Deconvolution computes in a training step besides its convolution, in one function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.functional.inverse_sqrt import root_of, twice_gradient
from normbench.functional.joined import joined, total
from normbench.functional.launches import cast
from normbench.functional.patch_moments import Sampling, covariance
from normbench.functional.products import addmm, matmul, true_float32


class Whitened(torch.autograd.Function):
    """Folds the whitening of the vectors that are sampled from images into the weight and the bias of a layer.

    The images are returned as well. The caller computes with these and not with x, so that the gradient of the
    statistics can be added, in place, to the gradient of what the caller computes. The gradient needs no correction for
    the centring: to first order the covariance does not depend on the mean, because the centred vectors sum to zero.

    In a batch that several processes share (see `normbench.functional.joined`), mean and covariance are those of the
    whole batch, and each process has an equal share of the gradient of the weight and of the bias.
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
        batch = joined()
        with true_float32(x):
            if batch is None:
                samples, mean = sampling.centred_rows(x)
                count = samples.shape[1]
            else:
                sampling, count = sampling.of_part(x, batch)
                samples, mean = joined_rows(sampling, x, count)
            samples = samples.to(torch.bfloat16) if low_precision else samples
            root, saved = root_of(
                covariance(samples, eps) if batch is None else joined_covariance(samples, eps, count), iterations
            )
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
        ctx.batch, ctx.count = batch, count
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
        if ctx.batch is not None:
            # Processes may have other strides for it.
            of_weight = total(of_weight.clone(memory_format=torch.contiguous_format))
            of_bias = total(of_bias.clone())
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
                twice, against_mean = twice_gradient(saved, rows, of_product, of_x.dtype), against_mean.to(of_x.dtype)
                # Without a name of its own, the gradient of the samples is free as soon as it has been added.
                ctx.sampling.add(of_x, gradient_of(samples.to(of_x.dtype), twice, against_mean, ctx.count))
        if ctx.batch is not None:  # Their sum over the processes is what a single one would have.
            of_weight, of_bias = of_weight / ctx.batch.processes, of_bias / ctx.batch.processes
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


def joined_rows(sampling: Sampling, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What `Sampling.centred_rows` returns, without the mean of a shared batch, in which there are `count` vectors."""
    samples, own = sampling.centred_rows(x)
    here = samples.shape[1]
    mean = total(own * (here / count) if here else torch.zeros_like(own))
    return samples.add_(own - mean) if here else samples, mean


def joined_covariance(samples: Tensor, eps: float, count: int) -> Tensor:
    """What `covariance` returns, of all vectors of a shared batch, in which there are `count` of them."""
    here = samples.shape[1]
    if here:
        return total(covariance(samples, eps) * (here / count))
    dtype = torch.promote_types(samples.dtype, torch.float32)
    return total(samples.new_zeros((len(samples), samples.shape[2], samples.shape[2]), dtype=dtype))


def gradient_of(samples: Tensor, twice: Tensor, against_mean: Tensor, count: int) -> Tensor:
    """The gradient of samples (groups, M, F), given without their mean, in their order in memory.

    twice: that of their covariance, (groups, F, F), symmetric and doubled. against_mean: that of their mean, negative.
    count: of the vectors that the statistics are of, M or those of a shared batch.
    """
    if samples.is_contiguous():
        return addmm(against_mean, samples, twice, -1 / count, 1 / count)
    return addmm(against_mean.mT, twice, samples.mT, -1 / count, 1 / count).mT
