"""Conversion of many tensors at once against torch's, of one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.functional.conversion import converted
from tests.support.dispatch import Operations


def parameters() -> list[Tensor]:
    """Of several shapes and formats; one needs no gradient."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=generator) for shape in [(3, 4, 3, 3), (5,), (2, 1, 3, 3), (3, 2, 3, 3)]]
    found[0] = found[0].contiguous(memory_format=torch.channels_last)
    return [value.requires_grad_(place != 2) for place, value in enumerate(found)]


def test_values_and_gradients_are_those_of_single_conversions() -> None:
    given, reference = parameters(), parameters()
    with Operations() as forward:
        together = converted(given, torch.bfloat16)
    alone = [value.to(torch.bfloat16) for value in reference]
    for found, expected, value in zip(together, alone, given, strict=True):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)
        assert found.stride() == value.stride()
    learned = [place for place, value in enumerate(given) if value.requires_grad]
    factors = [torch.randn_like(together[place]) for place in learned]
    torch.autograd.backward([alone[place] for place in learned], factors)
    with Operations() as backward:
        torch.autograd.backward([together[place] for place in learned], factors)
    assert (forward.launches, backward.launches) == (1, 1)
    for found, expected in zip(given, reference, strict=True):
        assert (found.grad is None) == (not found.requires_grad)
        if found.grad is not None:
            assert found.grad.dtype == torch.float32
            assert found.grad.stride() == found.stride()
            assert torch.equal(found.grad, expected.grad)


def test_what_is_not_used_has_no_gradient() -> None:
    """A zero would let weight decay change it."""
    given = parameters()
    first, *_, last = converted(given, torch.bfloat16)
    (first.sum() + 2 * last.sum()).backward()
    assert [value.grad is None for value in given] == [False, True, True, False]
    assert torch.equal(given[3].grad, torch.full_like(given[3], 2))


def test_nothing_to_convert() -> None:
    assert converted([], torch.bfloat16) == ()
