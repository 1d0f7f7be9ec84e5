"""Tensors that depend on sizes alone are made once for each size, dtype and device."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from normbench.functional.tables import table

made: list[tuple] = []


def ramp(start: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    made.append((start, count, dtype))
    return torch.arange(start, start + count, dtype=dtype, device=device)


def test_is_made_once_for_each_size_and_dtype() -> None:
    made.clear()
    one, other = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    first = table(ramp, 3, 2, like=one)
    assert torch.equal(first, torch.tensor([3.0, 4.0]))
    assert table(ramp, 3, 2, like=torch.ones(5)) is first
    assert table(ramp, 3, 2, like=other).dtype == torch.float64
    assert table(ramp, 3, 4, like=one).shape == (4,)
    assert len(made) == 3


def test_a_table_of_an_evaluation_serves_a_training_step() -> None:
    with torch.inference_mode():
        kept = table(ramp, 7, 2, like=torch.zeros(1))
    x = torch.zeros(2, requires_grad=True)
    (x * kept).sum().backward()
    assert torch.equal(x.grad, torch.tensor([7.0, 8.0]))


def test_fake_tensors_stay_in_their_mode() -> None:
    for _ in range(2):
        with FakeTensorMode() as mode:
            assert table(ramp, 9, 2, like=torch.zeros(1)).fake_mode is mode
    assert type(table(ramp, 9, 2, like=torch.zeros(1))) is Tensor
