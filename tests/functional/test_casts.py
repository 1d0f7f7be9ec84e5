"""Results in a place that is given, and casts of several tensors at once."""

from __future__ import annotations

import torch

from normbench.functional.launches import cast, write
from tests.support.dispatch import Operations


def test_casts_keep_strides_and_round_as_each_alone() -> None:
    """All that need one are cast at once; what has the dtype is not copied."""
    values = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    low = torch.ones(2, dtype=torch.bfloat16)
    given = [values, values.contiguous(memory_format=torch.channels_last), low, values.transpose(0, 3)]
    with Operations() as done:
        found = cast(given, torch.bfloat16)
    assert done.launches == 1
    assert found[2] is low
    for new, old in zip(found, given, strict=True):
        assert torch.equal(new, old.to(torch.bfloat16))
        assert new.stride() == old.stride()
    with Operations() as done:
        assert all(new is old for new, old in zip(cast(given[:2], torch.float32), given[:2], strict=True))
    assert done.launches == 0


def test_a_result_is_rounded_to_its_place() -> None:
    a, b = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    places = torch.zeros(3, 3, 2, dtype=torch.bfloat16)
    write(places[..., 1], torch.add, a, b, alpha=2)
    assert torch.equal(places[..., 1], (a + 2 * b).bfloat16())
    assert not places[..., 0].any()
